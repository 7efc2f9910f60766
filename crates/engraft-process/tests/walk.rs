//! The stack walk finds exactly what is there, or says that it cannot.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails so, and says what it counted"
)]

mod support;

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::Command;

use engraft_process::{
    BrokenWalk, ExtraUnwindTable, Frame, ModuleKind, StackWalk, TargetAddress, ThreadState,
    Unreliable, Verdict, WalkError,
};
use rustix::process::Signal;
use support::scene::{BUILDS, Functions, Scene, build, end, kind};

/// In every build and both kinds of thread: the frames of the victim are these, above `target`.
fn has_frames(how: &str, call: i64, inner: &[&str]) {
    for (name, flags) in BUILDS {
        for where_ in ["main", "thread"] {
            println!("{name} {how} {where_}");
            let scene = Scene::start(name, flags, how, where_).asleep(call);
            scene.has_frames(where_, inner);
        }
    }
}

#[test]
fn a_thread_in_nanosleep() {
    has_frames("nanosleep", libc::SYS_clock_nanosleep, &[]);
}

#[test]
fn a_thread_in_poll() {
    has_frames("poll", libc::SYS_poll, &[]);
}

#[test]
fn a_thread_in_futex() {
    has_frames("futex", libc::SYS_futex, &[]);
}

#[test]
fn a_thread_in_read() {
    has_frames("read", libc::SYS_read, &[]);
}

#[test]
fn a_handler_on_the_same_stack() {
    has_frames("handler", libc::SYS_pause, &["handler"]);
}

#[test]
fn a_handler_on_an_alternate_stack() {
    has_frames("handler-alternate", libc::SYS_pause, &["handler"]);
}

#[test]
fn a_handler_of_a_fault_in_the_middle_of_a_function() {
    has_frames("fault", libc::SYS_pause, &["handler"]);
}

#[test]
fn a_handler_whose_restorer_nothing_describes() {
    has_frames("handler-bare", libc::SYS_pause, &["handler"]);
}

#[test]
fn a_recursion_of_ten_thousand_calls() {
    has_frames("deep", libc::SYS_pause, &["deep"; 10_001]);
}

#[test]
fn a_recursion_beyond_the_bound_is_unreliable() {
    let scene = Scene::start("walks", &[], "too-deep", "main").asleep(libc::SYS_pause);
    let broken = scene.walk().unwrap_err();
    assert!(
        matches!(broken.reason, WalkError::TooManyFrames { .. }),
        "{broken}"
    );
    scene.victim.finish();
}

#[test]
fn a_stripped_program() {
    let program = build("walks", &[]);
    let stripped = program.with_extension("stripped");
    let status = Command::new("strip")
        .arg("-o")
        .arg(&stripped)
        .arg(&program)
        .status();
    assert!(status.unwrap().success());
    let scene = Scene::new(&stripped, Functions::of(&program), "sleep", "main");
    let scene = scene.asleep(libc::SYS_pause);
    assert_eq!(scene.functions.names(&scene.walk().unwrap()), end("main"));
    scene.victim.finish();
}

/// The scan alone must see something, or the walk would not have been asked.
fn is_cleared(scene: Scene) {
    let (scan, both) = scene.verdicts("replaced");
    assert!(
        matches!(scan, Verdict::Sleeping { frame: None, .. }),
        "{scan:?}"
    );
    assert!(matches!(both, Verdict::Clear), "{both:?}");
    scene.victim.finish();
}

#[test]
fn a_function_pointer_in_a_live_frame_is_cleared() {
    for where_ in ["main", "thread"] {
        for (name, flags) in BUILDS {
            is_cleared(Scene::start(name, flags, "pointer", where_).asleep(libc::SYS_pause));
        }
    }
}

#[test]
fn a_stale_return_address_in_an_uninitialised_array_is_cleared() {
    for where_ in ["main", "thread"] {
        is_cleared(Scene::start("walks", &[], "stale", where_).asleep(libc::SYS_pause));
    }
}

#[test]
fn a_stale_return_address_below_the_stack_is_cleared() {
    for where_ in ["main", "thread"] {
        is_cleared(Scene::start("walks", &[], "stale-spinning", where_).inside("target"));
    }
}

/// A pointer makes the scan ask; the walk breaks for this reason.
fn is_unreliable(scene: Scene, reason: impl Fn(&WalkError) -> bool) {
    let (_, verdict) = scene.verdicts("replaced");
    match &verdict {
        Verdict::Unreliable(Unreliable::Walk(broken)) if reason(&broken.reason) => {}
        _ => panic!("{verdict:?}"),
    }
    scene.victim.finish();
}

#[test]
fn code_without_unwind_information_is_unreliable() {
    let flags = &[
        "-fno-asynchronous-unwind-tables",
        "-fno-unwind-tables",
        "-fno-exceptions",
    ];
    let scene = Scene::start("walks-no-tables", flags, "pointer", "main").asleep(libc::SYS_pause);
    // The frame that the C library returns to is known all the same.
    let (_, verdict) = scene.verdicts("holds_pointer");
    assert!(
        matches!(verdict, Verdict::Sleeping { frame: Some(_), .. }),
        "{verdict:?}"
    );
    is_unreliable(scene, |reason| matches!(reason, WalkError::NoEntry { .. }));
}

#[test]
fn an_assembly_function_without_unwind_information_is_unreliable() {
    let scene = Scene::start("walks", &[], "bare", "thread").asleep(libc::SYS_pause);
    let broken = scene.walk().unwrap_err();
    assert!(
        matches!(broken.reason, WalkError::NoEntry { .. }),
        "{broken}"
    );
    assert_eq!(scene.functions.names(&broken.frames), ["target", "bare"]);
    scene.victim.finish();
}

#[test]
fn a_coroutine_inside_the_own_stack_is_unreliable() {
    // The scan sees one stack, the walk an end that is marked as such: neither is the thread's.
    let scene = Scene::start("walks", &[], "pointer-in-coroutine", "main").asleep(libc::SYS_pause);
    is_unreliable(scene, |reason| {
        matches!(
            reason,
            WalkError::UnknownEnd { .. } | WalkError::NoCall { .. }
        )
    });
}

/// A victim with code outside of all modules, and the ranges of that code and of its table.
fn image(how: &str) -> (Scene, Range<TargetAddress>, Range<TargetAddress>) {
    let scene = Scene::start("walks", &[], how, "main").asleep(libc::SYS_pause);
    let words = scene.line.split(' ');
    let numbers = words.map(|word| u64::from_str_radix(word, 16).unwrap());
    let numbers: Vec<u64> = numbers.collect();
    let range = |at: usize| TargetAddress::new(numbers[at]).range(numbers[at + 1]);
    let (code, eh_frame) = (range(0), range(2));
    (scene, code, eh_frame)
}

#[test]
fn code_outside_of_all_modules_needs_a_table_of_its_own() {
    let (mut scene, code, eh_frame) = image("image");
    let broken = scene.walk().unwrap_err();
    let no_module = matches!(broken.reason, WalkError::NoModule { .. });
    assert!(no_module, "{broken}");
    scene.context.add(ExtraUnwindTable {
        code: code.clone(),
        eh_frame,
    });
    let frames = scene.walk().unwrap();
    assert_eq!(scene.functions.names(&frames), end("main"));
    let in_code = |frame: &Frame| code.contains(&frame.instruction_pointer);
    assert!(frames.iter().any(in_code));
    scene.victim.finish();
}

/// With a table that is wrong, the walk breaks for this reason.
fn is_noticed(how: &str, reason: impl Fn(&WalkError) -> bool) {
    let (mut scene, code, eh_frame) = image(how);
    scene.context.add(ExtraUnwindTable { code, eh_frame });
    let broken = scene.walk().unwrap_err();
    assert!(reason(&broken.reason), "{broken}");
    scene.victim.finish();
}

#[test]
fn a_frame_that_does_not_advance_is_noticed() {
    is_noticed("image-stuck", |reason| {
        matches!(reason, WalkError::NoAdvance { .. })
    });
}

#[test]
fn an_end_that_is_no_start_is_noticed() {
    is_noticed("image-end", |reason| {
        matches!(reason, WalkError::UnknownEnd { .. })
    });
}

#[test]
fn a_return_address_without_a_call_is_noticed() {
    let one = TargetAddress::new(1);
    is_noticed(
        "image-wrong",
        |reason| matches!(reason, WalkError::NoCall { value } if *value == one),
    );
}

#[test]
fn a_call_at_the_end_of_a_function_belongs_to_it() {
    let scene = Scene::start("walks", &[], "noreturn", "thread").asleep(libc::SYS_pause);
    let frames = scene.walk().unwrap();
    let names = scene.functions.names(&frames);
    assert_eq!(names[..3], ["never_returns", "ends_in_call", "target"]);
    let range = scene.range("ends_in_call");
    // The return address is not in the function; the compiler may put padding after it.
    let frame = frames.iter().find(|frame| frame.is_in(&range)).unwrap();
    assert_eq!(frame.instruction_pointer, range.end);
    scene.victim.finish();
}

#[test]
fn another_file_at_the_same_place_is_noticed() {
    let program = build("walks-static", &["-static"]);
    let copy = program.with_extension("copy");
    std::fs::copy(&program, &copy).unwrap();
    let first = Scene::new(&program, Functions::of(&program), "sleep", "main");
    let second = Scene::new(&copy, Functions::of(&program), "sleep", "main");
    let mut second = second.asleep(libc::SYS_pause);
    assert!(second.walk().is_ok());
    second.context = first.context;
    let broken = second.walk().unwrap_err();
    let changed = matches!(broken.reason, WalkError::ModuleChanged { .. });
    assert!(changed, "{broken}");
    second.victim.finish();
}

/// Who may call whom in a busy victim, also through the C library.
const CALLS: &[(&str, &str)] = &[
    ("busy", "returning_handler"),
    ("busy", "with_many_registers"),
    ("busy", "sorting"),
    ("busy", "formatting"),
    ("busy", "aligned"),
    ("with_many_registers", "with_frame"),
    ("with_many_registers", "leaf"),
    ("with_frame", "leaf"),
    ("sorting", "compare"),
    ("compare", "leaf"),
    ("aligned", "leaf"),
];

/// What was found at many instants.
#[derive(Debug, Default)]
struct Count {
    right: usize,
    outside_program: usize,
    in_vdso: usize,
    /// In the program, but in no function: stubs for library calls.
    in_stubs: usize,
    at_entries: usize,
    unreliable: BTreeMap<String, usize>,
}

impl Count {
    fn all(&self) -> usize {
        self.right + self.unreliable.values().sum::<usize>()
    }

    /// The chain must be a possible one, and whole, from the start of the program or thread to the
    /// function `inner`, which never returns, and beyond; or the walk says that it does not know.
    fn add(
        &mut self,
        scene: &Scene,
        walk: Result<Vec<Frame>, BrokenWalk>,
        inner: &str,
        where_: &str,
    ) {
        let frames = match walk {
            Ok(frames) => frames,
            Err(broken) => {
                *self.unreliable.entry(broken.to_string()).or_default() += 1;
                return;
            }
        };
        let names = scene.functions.names(&frames);
        let Some(place) = names.iter().position(|name| *name == inner) else {
            // Not there yet.
            assert_eq!(self.right, 0, "{frames:?} {names:?}");
            return;
        };
        let (above, below) = names.split_at(place);
        assert_eq!(&below[1..], end(where_), "{frames:?}");
        let mut caller = inner;
        for callee in above.iter().rev() {
            let possible = CALLS.contains(&(caller, callee));
            assert!(possible, "{caller} {callee}: {frames:?}");
            caller = callee;
        }
        self.right += 1;
        let first = &frames[0];
        self.in_vdso += usize::from(kind(first) == Some(ModuleKind::Vdso));
        if kind(first) != Some(ModuleKind::Program) {
            self.outside_program += 1;
        } else if scene.functions.name(first) == "?" {
            self.in_stubs += 1;
        } else if scene.functions.0.contains_key(&first.offset().unwrap()) {
            self.at_entries += 1;
        }
    }
}

/// Looks at a running victim at many instants.
fn sample(name: &str, flags: &[&str], how: &str, inner: &str, where_: &str) -> Count {
    const SAMPLES: usize = 1000;
    let scene = Scene::start(name, flags, how, where_);
    let mut count = Count::default();
    while count.all() < SAMPLES {
        let walk = scene.walk();
        count.add(&scene, walk, inner, where_);
    }
    println!("{name} {how} {where_}: {count:?}");
    scene.victim.finish();
    count
}

#[test]
fn a_busy_thread_at_random_instants() {
    for (name, flags) in BUILDS {
        for where_ in ["main", "thread"] {
            let count = sample(name, flags, "busy", "busy", where_);
            // In a static program some instants, up to 12 % of them as seen, are in stubs that lead
            // to functions which were chosen at start: link editors do not describe these.
            assert!(count.right > 750, "{count:?}");
        }
    }
}

#[test]
fn a_thread_that_reads_the_clock_at_random_instants() {
    for where_ in ["main", "thread"] {
        let count = sample("walks", &[], "vdso", "clock_spinner", where_);
        assert!(count.right > 950 && count.in_vdso > 100, "{count:?}");
    }
}

/// Every single instruction of some rounds of the busy thread: a signal handler and its return, the
/// binding of library functions at their first call, all stubs, prologues and epilogues.
#[test]
fn every_instruction_of_a_busy_thread() {
    const STEPS: usize = 3000;
    for (name, flags) in BUILDS {
        let scene = Scene::start(name, flags, "stepped", "main").asleep(libc::SYS_pause);
        let mut steps = support::steps::Steps::start(scene.tid, Signal::USR2);
        let maps = scene.process.maps().unwrap();
        let mut count = Count::default();
        while count.all() < STEPS {
            let thread = ThreadState {
                tid: scene.tid,
                registers: steps.next(),
                was_running: true,
                is_kernel_worker: false,
                is_first: true,
                is_group_stopped: false,
            };
            let walk = StackWalk::new(&scene.process, &maps, &scene.context).walk(&thread);
            count.add(&scene, walk, "busy", "main");
        }
        drop(steps);
        println!("{name} stepped: {count:?}");
        assert!(count.at_entries > 10);
        // A static program's stubs for IFUNCs are described by no table; all else is.
        let is_static = flags.iter().any(|flag| flag.starts_with("-static"));
        assert!(is_static || count.unreliable.is_empty(), "{count:?}");
        assert!(count.right * 100 > STEPS * 98, "{count:?}");
        scene.victim.finish();
    }
}
