//! Victims whose stacks are walked, and what there is to know of them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use engraft_process::{
    BrokenWalk, Frame, ModuleKind, Process, StackScan, StackWalk, TargetAddress, ThreadState,
    Verdict, WalkContext,
};

use super::{LONG, Victim, compile};

pub const OPTIMISED: &[&str] = &[
    "-O2",
    "-fomit-frame-pointer",
    "-fno-optimize-sibling-calls",
    "-fno-reorder-blocks-and-partition",
    "-Wno-infinite-recursion",
    "-Wno-array-bounds",
    "-fno-builtin",
];

/// What programs are made like.
pub const BUILDS: &[(&str, &[&str])] = &[
    ("walks", &[]),
    ("walks-static", &["-static"]),
    ("walks-static-pie", &["-static-pie"]),
    ("walks-no-pie", &["-no-pie", "-fno-pie"]),
    ("walks-lazy", &["-Wl,-z,lazy", "-fcf-protection=full"]),
    ("walks-now", &["-Wl,-z,now", "-fno-plt"]),
];

pub fn build(name: &str, flags: &[&str]) -> PathBuf {
    let flags: Vec<&str> = OPTIMISED.iter().chain(flags).copied().collect();
    compile("walks.c", name, &flags)
}

/// The functions of a program, by their link-time addresses, as nm has them.
pub struct Functions(pub BTreeMap<u64, (u64, String)>);

impl Functions {
    pub fn of(program: &Path) -> Self {
        let output = Command::new("nm").arg("-S").arg(program).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let parse = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let &[start, size, kind, name] = words.as_slice() else {
                return None;
            };
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            let is_code = matches!(kind, "t" | "T");
            is_code.then(|| (number(start), (number(size), name.to_owned())))
        };
        Self(text.lines().filter_map(parse).collect())
    }

    pub fn range(&self, wanted: &str) -> Range<u64> {
        let mut functions = self.0.iter();
        let (start, (size, _)) = functions.find(|(_, (_, name))| name == wanted).unwrap();
        *start..start + size
    }

    /// The function of a frame of the program; assembly functions often have no size.
    pub fn name(&self, frame: &Frame) -> &str {
        let at = frame.offset().unwrap() - u64::from(!frame.is_exact);
        let below = self.0.range(..=at).next_back();
        let found = below.filter(|(start, (size, _))| at < *start + size);
        found.map_or("?", |(_, (_, name))| name)
    }

    /// The names of those frames that are in the program.
    pub fn names(&self, frames: &[Frame]) -> Vec<&str> {
        let of_program = frames
            .iter()
            .filter(|frame| kind(frame) == Some(ModuleKind::Program));
        // A static program has the C library in it; its functions are not of interest.
        let of_victim = |name: &&str| OURS.contains(name);
        of_program
            .map(|frame| self.name(frame))
            .filter(of_victim)
            .collect()
    }
}

/// The functions of the victim, and the start of the program.
pub const OURS: &[&str] = &[
    "below",
    "never_returns",
    "ends_in_call",
    "returning_handler",
    "run_cloned",
    "wait_there",
    "replaced",
    "replaced_deep",
    "uninitialised",
    "holds_pointer",
    "handler",
    "deep",
    "bare",
    "leaf",
    "with_frame",
    "with_many_registers",
    "compare",
    "sorting",
    "formatting",
    "aligned",
    "busy",
    "clock_spinner",
    "target",
    "middle",
    "outer",
    "run",
    "main",
    "_start",
];

pub fn kind(frame: &Frame) -> Option<ModuleKind> {
    frame.module.as_ref().map(|module| module.kind)
}

/// A victim in its place, and what there is to know of it.
pub struct Scene {
    pub victim: Victim,
    pub process: Process,
    pub functions: Functions,
    pub context: WalkContext,
    pub tid: i32,
    /// The rest of what it said.
    pub line: String,
}

impl Scene {
    pub fn new(program: &Path, functions: Functions, how: &str, where_: &str) -> Self {
        let mut victim = Victim::start(program, &[how, where_]);
        let mut line = victim.line();
        let mut tid = line.parse();
        // Where it says more than that it is there.
        if tid.is_err() || how.starts_with("image") {
            let next = victim.line();
            if tid.is_err() {
                tid = next.parse();
            } else {
                line = next;
            }
        }
        let process = victim.process();
        let context = WalkContext::prepare(&process).unwrap();
        Self {
            victim,
            process,
            functions,
            context,
            tid: tid.unwrap(),
            line,
        }
    }

    pub fn start(name: &str, flags: &[&str], how: &str, where_: &str) -> Self {
        let program = build(name, flags);
        let functions = Functions::of(&program);
        Self::new(&program, functions, how, where_)
    }

    pub fn asleep(self, call: i64) -> Self {
        self.victim.await_sleep(self.tid, call);
        self
    }

    /// Waits until it executes in this function.
    pub fn inside(self, function: &str) -> Self {
        let range = self.range(function);
        loop {
            let inside =
                self.look(|_, thread| range.contains(&thread.registers.instruction_pointer()));
            if inside {
                return self;
            }
        }
    }

    pub fn range(&self, function: &str) -> Range<TargetAddress> {
        let modules = self.process.modules().unwrap();
        let program = modules.program().unwrap();
        let range = self.functions.range(function);
        program.address(range.start)..program.address(range.end)
    }

    /// Stops it, looks at the thread, and lets it go.
    pub fn look<R>(&self, look: impl FnOnce(&StackWalk<'_>, &ThreadState) -> R) -> R {
        let stopped = self.process.stop(LONG).unwrap();
        let maps = self.process.maps().unwrap();
        let walk = StackWalk::new(&self.process, &maps, &self.context);
        let mut threads = stopped.threads();
        let result = look(
            &walk,
            &threads.find(|thread| thread.tid == self.tid).unwrap(),
        );
        drop(threads);
        stopped.detach().unwrap();
        result
    }

    pub fn walk(&self) -> Result<Vec<Frame>, BrokenWalk> {
        self.look(|walk, thread| walk.walk(thread))
    }

    /// The verdicts of the scan alone, and of the scan with the walk.
    pub fn verdicts(&self, function: &str) -> (Verdict, Verdict) {
        let range = self.range(function);
        let stopped = self.process.stop(LONG).unwrap();
        let maps = self.process.maps().unwrap();
        let walk = StackWalk::new(&self.process, &maps, &self.context);
        let scan = StackScan::new(&self.process, &maps, std::slice::from_ref(&range));
        let thread = stopped
            .threads()
            .find(|thread| thread.tid == self.tid)
            .unwrap();
        let verdicts = (scan.check(&thread), scan.check_precisely(&thread, &walk));
        stopped.detach().unwrap();
        verdicts
    }
}

/// The frames that every stack of the victim ends in.
pub fn end(where_: &str) -> &'static [&'static str] {
    match where_ {
        "main" => &["target", "middle", "outer", "run", "main", "_start"],
        plain if plain.starts_with("clone") => &["target", "middle", "outer", "run", "run_cloned"],
        _ => &["target", "middle", "outer", "run"],
    }
}

impl Scene {
    /// The frames of the victim are these, above `target`, which is found.
    pub fn has_frames(self, where_: &str, inner: &[&str]) {
        let frames = self.walk();
        let frames = frames.unwrap_or_else(|e| panic!("{where_}: {e} {:?}", e.frames));
        let expected: Vec<&str> = inner.iter().chain(end(where_)).copied().collect();
        assert_eq!(self.functions.names(&frames), expected, "{where_}");
        let (_, verdict) = self.verdicts("target");
        let Verdict::Sleeping {
            frame: Some(frame), ..
        } = verdict
        else {
            panic!("{where_}: {verdict:?}");
        };
        assert_eq!(self.functions.name(&frame), "target");
        self.victim.finish();
    }
}
