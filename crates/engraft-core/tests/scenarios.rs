//! What real kernels do, scenario by scenario: the core has to log the same, in the same order.
//!
//! The numbers are those of the project's record of kernel behaviour: A are the kernel's own
//! selftests (tools/testing/selftests/livepatch), B were recorded on 6.1, 6.12 and 7.3. A task is a
//! thread, `main` is vmlinux, loading a module is dlopen, writing to `enabled` is disable or
//! reverse.
//!
//! These have no meaning for the core:
//! - A17 to A21: ftrace and kprobes; nobody else owns a detour in user space.
//! - A27: needs many processors; the model check has its interleavings.
//! - A28, A30, A31: modes of files in sysfs.
//! - B bad-1, bad-2, bad-4, bad-5, bad-6 differ only in why a symbol is not found; here they are
//!   one failure of the world, once with and once without the module present.
//! - B bad-7: the mark of a livepatch module; the patch file's reader checks it.
//! - B bad-8: a module's init function; the patch builder refuses it, the kernel crashes.
//! - B cb-5: a callback that returns a positive number; a `Result` has no such value.
//! - B ii-c: removing the code of an enabled patch; nobody but the core releases it.
//! - B iv: the race; the model check tries all its orders.
//! - A32 and A29: `stack_order` and `patched` are asserted through [`Do::Listed`] and
//!   [`Do::Patched`].

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests may say so in one word"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use engraft_core::dispatch::ListedThread;
use engraft_core::door::Door;
use engraft_core::{
    BlockedThread, BuildId, Callback, CallbackScope, Callbacks, Code, Error, Event, LinkAddress,
    Livepatch, ModuleId, ObjectDefinition, ObjectId, PatchDefinition, PatchId, PatchState, Refusal,
    SiteTarget, StateDefinition, StateId, ThreadId, Trouble, World,
};

type Lines = Vec<String>;

/// One step of a scenario.
#[derive(Debug, Clone, Copy)]
enum Do {
    /// Enable, with all threads clear.
    Load(&'static str),
    /// Enable while thread 1 is inside of an old function.
    LoadBusy(&'static str),
    Disable(&'static str),
    /// Disable while thread 1 is inside of a new function.
    DisableBusy(&'static str),
    /// Enable, up to where threads would be let go.
    Begin(&'static str),
    /// Let them go, all clear.
    Start(&'static str),
    /// The same while thread 1 is inside of what it should leave.
    StartBusy(&'static str),
    /// Turn round, up to where threads would be let go.
    Turn(&'static str, PatchState),
    /// Turn round, and let them go while thread 1 is inside of something.
    Reverse(&'static str, PatchState),
    /// From now on (or no longer) nobody holds the threads, so none can be switched.
    Unheld(bool),
    Force(&'static str),
    /// Thread 1 leaves, and the transition completes.
    Release,
    Insmod(&'static str),
    /// A module whose own init fails.
    InsmodFailing(&'static str),
    Rmmod(&'static str),
    /// From now on (or no longer) `pre_patch` of the patch fails for the module.
    Veto(&'static str, &'static str, bool),
    /// From now on (or no longer) the patch cannot be prepared for the module: a missing symbol.
    Missing(&'static str, &'static str, bool),
    /// From now on (or no longer) the module's sites cannot be written.
    Stuck(&'static str, bool),
    /// Whose code runs for a thread: for thread 1, and for one that is born now.
    Runs(&'static str, u64),
    /// The enabled patches in order.
    Listed,
    /// Whether the patch's object is patched.
    Patched(&'static str, u32),
}

/// The processes that the scenarios are about.
struct Bench {
    core: Livepatch,
    recorder: Recorder,
    ids: BTreeMap<&'static str, PatchId>,
}

#[derive(Default)]
struct Recorder {
    lines: Lines,
    names: BTreeMap<PatchId, &'static str>,
    sites: BTreeMap<(ModuleId, LinkAddress), SiteTarget>,
    table: Option<Table>,
    vetoes: BTreeSet<(&'static str, &'static str)>,
    missing: BTreeSet<(&'static str, &'static str)>,
    stuck: BTreeSet<&'static str>,
    unheld: bool,
    images: BTreeSet<(ObjectId, ModuleId)>,
}

const MODULES: [&str; 5] = ["main", "T", "B", "M", "N"];

fn module_id(name: &str) -> ModuleId {
    let index = MODULES
        .iter()
        .position(|module| *module == name)
        .expect("a known module");
    ModuleId(index as u32)
}

fn module_name(module: ModuleId) -> &'static str {
    MODULES[module.0 as usize]
}

fn build_id(name: &str) -> BuildId {
    // N is a second instance of M's file.
    BuildId::new(if name == "N" { "M" } else { name }.as_bytes()).expect("short")
}

type Table = (PatchState, BTreeMap<ThreadId, PatchState>);

impl Recorder {
    /// The threads' states, if they can be written.
    fn held(&mut self) -> Result<&mut Table, &'static str> {
        match self.unheld {
            true => Err("nobody holds the threads"),
            false => Ok(self.table.as_mut().expect("a transition")),
        }
    }

    fn object(&self, patch: PatchId, module: ModuleId) -> (&'static str, &'static str) {
        (self.names[&patch], module_name(module))
    }
}

impl World for Recorder {
    type Error = &'static str;

    fn prepare_object(&mut self, object: ObjectId, module: ModuleId) -> Result<(), Self::Error> {
        assert!(self.images.insert((object, module)), "prepared twice");
        match self.missing.contains(&self.object(object.patch, module)) {
            true => Err("symbol not found"),
            false => Ok(()),
        }
    }

    fn release_object(&mut self, object: ObjectId, module: ModuleId) -> Result<(), Self::Error> {
        assert!(self.images.remove(&(object, module)), "released twice");
        Ok(())
    }

    fn release_patch(&mut self, _: PatchId) {}

    fn release_state(&mut self, _: PatchId, state: StateId) {
        self.lines
            .push(format!("free shadow variables of state {}", state.0));
    }

    fn callback(&mut self, callback: Callback, scope: CallbackScope) -> Result<(), Self::Error> {
        let vetoed = match scope {
            CallbackScope::Object(object, module) => self.object(object.patch, module),
            CallbackScope::State(patch, _) => (self.names[&patch], "state"),
        };
        match callback == Callback::PrePatch && self.vetoes.contains(&vetoed) {
            true => Err("ENODEV"),
            false => Ok(()),
        }
    }

    fn write_site(
        &mut self,
        module: ModuleId,
        function: LinkAddress,
        target: SiteTarget,
    ) -> Result<(), Self::Error> {
        if self.stuck.contains(module_name(module)) {
            return Err("stuck");
        }
        self.sites.insert((module, function), target);
        Ok(())
    }

    fn open_transition(
        &mut self,
        others: PatchState,
        threads: &mut dyn Iterator<Item = ListedThread>,
    ) -> Result<(), Self::Error> {
        self.table = Some((others, threads.map(|it| (it.thread, it.state)).collect()));
        Ok(())
    }

    fn switch_others(&mut self, state: PatchState) -> Result<(), Self::Error> {
        self.held()?.0 = state;
        Ok(())
    }

    fn switch_thread(&mut self, thread: ThreadId, state: PatchState) -> Result<(), Self::Error> {
        self.held()?.1.insert(thread, state);
        Ok(())
    }

    fn thread_state(&mut self, _: ThreadId) -> Option<PatchState> {
        None
    }

    fn shut_door(&mut self, _: ThreadId) -> Option<PatchState> {
        None
    }

    fn set_door(&mut self, _: ThreadId, _: &Door) {}

    fn close_transition(&mut self) {
        let (others, threads) = self.table.take().expect("a transition");
        let behind = threads.values().any(|state| *state != others);
        assert!(!behind, "{threads:?} are not all {others:?}");
    }

    fn event(&mut self, event: Event) {
        let line = self.line(event);
        self.lines.push(line);
    }

    fn report(&mut self, trouble: Trouble, error: Self::Error) {
        self.lines.push(format!("trouble: {trouble:?} {error}"));
    }
}

fn way(target: PatchState) -> &'static str {
    match target {
        PatchState::Patched => "patching",
        PatchState::Unpatched => "unpatching",
    }
}

impl Recorder {
    /// The kernel's line, shortened.
    fn line(&self, event: Event) -> String {
        let name = |patch: PatchId| self.names[&patch];
        match event {
            Event::Enabling(p) => format!("enabling {}", name(p)),
            Event::Initializing(p, to) => format!("{}: initializing {}", name(p), way(to)),
            Event::Calling(callback, scope) => {
                let kind = match callback {
                    Callback::PrePatch => "pre_patch",
                    Callback::PostPatch => "post_patch",
                    Callback::PreUnpatch => "pre_unpatch",
                    Callback::PostUnpatch => "post_unpatch",
                };
                format!("{kind} {}", self.scope(scope))
            }
            Event::PrePatchFailed(scope) => format!("pre_patch failed {}", self.scope(scope)),
            Event::PatchObjectFailed(_, m, _) => format!("failed to patch {}", module_name(m)),
            Event::EnableFailed(p) => format!("failed to enable {}", name(p)),
            Event::Canceling(p) => format!("{}: canceling, going to unpatch", name(p)),
            Event::Starting(p, to) => format!("{}: starting {}", name(p), way(to)),
            Event::Reversing(p, to) => format!("{}: reversing to {}", name(p), way(to)),
            Event::Forcing(p, _) => format!("{}: forcing", name(p)),
            Event::Completing(p, to) => format!("{}: completing {}", name(p), way(to)),
            Event::Complete(p, to) => format!("{}: {} complete", name(p), way(to)),
            Event::InitializeFailed(p, m) => {
                format!("failed to initialize {} for {}", name(p), module_name(m))
            }
            Event::Applying(p, m) => format!("applying {} to {}", name(p), module_name(m)),
            Event::Refusing(p, m) => format!("{} failed, refusing {}", name(p), module_name(m)),
            Event::Reverting(p, m) => format!("reverting {} on {}", name(p), module_name(m)),
            Event::Forgetting(p, m) => format!("forgetting {} on {}", name(p), module_name(m)),
            Event::Removed(p) => format!("{} removed", name(p)),
        }
    }

    fn scope(&self, scope: CallbackScope) -> String {
        match scope {
            CallbackScope::Object(object, module) => {
                let (patch, module) = self.object(object.patch, module);
                format!("{patch} {module}")
            }
            CallbackScope::State(patch, state) => {
                format!("{} state {}", self.names[&patch], state.0)
            }
        }
    }

    fn runs(&self, thread: ThreadId, module: ModuleId, function: u64) -> &'static str {
        let site = self.sites.get(&(module, LinkAddress(function)));
        let code = match site.copied().unwrap_or(SiteTarget::Original) {
            SiteTarget::Original => Code::Original,
            SiteTarget::Direct(func) => Code::Func(func),
            SiteTarget::Dispatch { old, new } => {
                let (others, threads) = self.table.as_ref().expect("a transition");
                match threads.get(&thread).unwrap_or(others) {
                    PatchState::Patched => new,
                    PatchState::Unpatched => old,
                }
            }
        };
        match code {
            Code::Original => "orig",
            Code::Func(func) => self.names[&func.patch],
        }
    }
}

/// The patches of the record. Function 1 of `main` is `cmdline_proc_show` (a), 2
/// `meminfo_proc_show`, 3 `sys_getpid`; 1 of M is b, 1 of B the busy function.
fn definition(name: &str) -> PatchDefinition {
    let object = |module: &str, funcs: &[u64], callbacks| ObjectDefinition {
        build_id: build_id(module),
        funcs: funcs.iter().copied().map(LinkAddress).collect(),
        callbacks,
    };
    let silent = Callbacks::default();
    let both = || vec![object("main", &[1], silent), object("M", &[1], silent)];
    let (base, replace) = match name.strip_suffix("-replace") {
        Some(base) => (base, true),
        None => (name, false),
    };
    let objects = match base {
        "L" | "H" => vec![object("main", &[1], silent)],
        "R" => vec![object("main", &[2], silent)],
        "S" => vec![object("main", &[3], silent)],
        "D" => vec![
            object("main", &[], Callbacks::ALL),
            object("T", &[], Callbacks::ALL),
            object("B", &[1], Callbacks::ALL),
        ],
        "D2" | "V1" | "V2" | "V3" => vec![object("main", &[], Callbacks::ALL)],
        "MP" => vec![object("M", &[1], silent)],
        "C1" | "C2" => {
            vec![
                object("main", &[1], Callbacks::ALL),
                object("M", &[1], Callbacks::ALL),
            ]
        }
        "P1" | "P2" | "P3" | "P4" => both(),
        _ => panic!("{name} is not in the record"),
    };
    let state = |version| StateDefinition {
        id: StateId(1),
        version,
        callbacks: Callbacks::ALL,
        shadow: true,
    };
    let states = match base {
        "V1" => vec![state(1)],
        "V2" | "V3" => vec![state(2)],
        _ => vec![],
    };
    let replace = replace || base.starts_with('V');
    PatchDefinition {
        name: base.into(),
        set: vec![],
        replace,
        objects,
        states,
    }
}

impl Bench {
    fn new() -> Self {
        let mut core = Livepatch::new();
        core.adopt_live_module(module_id("main"), build_id("main"))
            .expect("empty");
        Self {
            core,
            recorder: Recorder::default(),
            ids: BTreeMap::new(),
        }
    }

    /// What the step logs, and how it fails.
    fn step(&mut self, step: Do) -> Lines {
        let result = self.act(step);
        let mut lines = std::mem::take(&mut self.recorder.lines);
        if let Err(error) = result {
            lines.push(format!("=> {error}"));
        }
        lines
    }

    fn act(&mut self, step: Do) -> Result<(), String> {
        let (core, world) = (&mut self.core, &mut self.recorder);
        let id = |ids: &BTreeMap<_, PatchId>, name| ids.get(name).copied().unwrap_or(PatchId(0));
        match step {
            Do::Load(name) | Do::LoadBusy(name) | Do::Begin(name) => {
                let patch = PatchId(world.names.len() as u32 + 1);
                world
                    .names
                    .insert(patch, name.split('-').next().expect("a first part"));
                core.prepare(world, patch, definition(name)).map_err(text)?;
                self.ids.insert(world.names[&patch], patch);
                core.begin(world, patch).map_err(text)?;
                match step {
                    Do::Begin(_) => Ok(()),
                    _ => start(core, world, patch, matches!(step, Do::LoadBusy(_))),
                }
            }
            Do::Start(name) | Do::StartBusy(name) => {
                let busy = matches!(step, Do::StartBusy(_));
                start(core, world, id(&self.ids, name), busy)
            }
            Do::Disable(name) | Do::DisableBusy(name) => {
                let patch = id(&self.ids, name);
                let busy = matches!(step, Do::DisableBusy(_));
                core.disable(world, patch).map_err(text)?;
                start(core, world, patch, busy)
            }
            Do::Turn(name, target) | Do::Reverse(name, target) => {
                let patch = id(&self.ids, name);
                core.reverse(world, patch, target).map_err(text)?;
                match step {
                    Do::Turn(..) => Ok(()),
                    // Thread 2 is clear; thread 1 is where it should be.
                    _ => start(core, world, patch, true),
                }
            }
            Do::Unheld(on) => {
                world.unheld = on;
                Ok(())
            }
            Do::Force(name) => {
                let patch = id(&self.ids, name);
                core.force(world, patch).map_err(text)?;
                complete(core, world, patch, 0)
            }
            Do::Release => {
                let patch = core.transition().expect("a transition").patch();
                let waiting = core
                    .switch_thread(world, patch, ThreadId(1))
                    .map_err(text)?;
                complete(core, world, patch, waiting)
            }
            Do::Insmod(module) => core
                .module_coming(world, module_id(module), build_id(module))
                .map_err(text),
            Do::InsmodFailing(module) => {
                core.module_coming(world, module_id(module), build_id(module))
                    .map_err(text)?;
                core.module_going(world, module_id(module))
                    .map_err(text::<()>)
            }
            Do::Rmmod(module) => {
                core.module_going(world, module_id(module))
                    .map_err(text::<()>)?;
                let left = world.images.iter().any(|(_, it)| *it == module_id(module));
                assert!(!left, "something is left of {module}");
                Ok(())
            }
            Do::Veto(patch, module, on) => set(&mut world.vetoes, (patch, module), on),
            Do::Missing(patch, module, on) => set(&mut world.missing, (patch, module), on),
            Do::Stuck(module, on) => set(&mut world.stuck, module, on),
            Do::Runs(module, function) => {
                for thread in [ThreadId(1), ThreadId(3)] {
                    let line = world.runs(thread, module_id(module), function);
                    world.lines.push(line.into());
                }
                Ok(())
            }
            Do::Listed => {
                let names = core
                    .patches()
                    .iter()
                    .map(|patch| world.names[&patch.id()].into());
                world.lines.extend(names);
                Ok(())
            }
            Do::Patched(patch, object) => {
                let object = ObjectId {
                    patch: id(&self.ids, patch),
                    object,
                };
                world
                    .lines
                    .push(u8::from(core.is_object_patched(object)).to_string());
                Ok(())
            }
        }
    }
}

fn set<T: Ord>(set: &mut BTreeSet<T>, item: T, on: bool) -> Result<(), String> {
    if on {
        set.insert(item)
    } else {
        set.remove(&item)
    };
    Ok(())
}

/// Lets threads go, and completes if none is left.
fn start(
    core: &mut Livepatch,
    world: &mut Recorder,
    patch: PatchId,
    busy: bool,
) -> Result<(), String> {
    let behind: &[BlockedThread] = if busy { &[ThreadId(1).into()] } else { &[] };
    let waiting = core.start(world, patch, behind).map_err(text)?;
    complete(core, world, patch, waiting)
}

fn complete(
    core: &mut Livepatch,
    world: &mut Recorder,
    patch: PatchId,
    waiting: usize,
) -> Result<(), String> {
    if waiting == 0 {
        core.complete(world, patch).map_err(text)
    } else {
        Ok(())
    }
}

/// Short words for errors.
fn text<E: Debug>(error: impl Into<Error<E>>) -> String {
    match error.into() {
        Error::Refused(Refusal::AlreadyEnabled(_)) => "EEXIST".into(),
        Error::Refused(Refusal::Forced(_)) => "EEXIST, forced".into(),
        Error::Refused(Refusal::Busy(_)) => "EBUSY".into(),
        Error::Refused(Refusal::NotEnabled(_)) => "not enabled".into(),
        Error::Refused(Refusal::NotInTransition(_) | Refusal::AlreadyHeading(_)) => "EINVAL".into(),
        Error::Refused(Refusal::OlderState { .. }) => "older state".into(),
        Error::Refused(refusal) => format!("{refusal:?}"),
        Error::Prepare(_, _, error)
        | Error::PrePatch(_, error)
        | Error::Site(_, _, error)
        | Error::Threads(_, error) => format!("{error:?}").replace('"', ""),
    }
}

// The log alphabet of the record.

fn lines(lines: &[&str]) -> Lines {
    lines.iter().map(ToString::to_string).collect()
}

fn calls(kind: &str, patch: &str, modules: &[&str]) -> Lines {
    modules
        .iter()
        .map(|module| format!("{kind} {patch} {module}"))
        .collect()
}

fn opens(patch: &str, modules: &[&str]) -> Lines {
    let first = vec![
        format!("enabling {patch}"),
        format!("{patch}: initializing patching"),
    ];
    [first, calls("pre_patch", patch, modules)].concat()
}

fn begins(patch: &str, modules: &[&str]) -> Lines {
    let start = vec![format!("{patch}: starting patching")];
    [opens(patch, modules), start].concat()
}

fn ends(patch: &str, modules: &[&str]) -> Lines {
    let first = vec![format!("{patch}: completing patching")];
    [
        first,
        calls("post_patch", patch, modules),
        vec![format!("{patch}: patching complete")],
    ]
    .concat()
}

/// EN(p).
fn en(patch: &str, modules: &[&str]) -> Lines {
    [begins(patch, modules), ends(patch, modules)].concat()
}

/// EN(p), and what it replaces leaves without a word.
fn replacing(patch: &str, modules: &[&str], old: &[&str]) -> Lines {
    [
        en(patch, modules),
        old.iter().map(|old| format!("{old} removed")).collect(),
    ]
    .concat()
}

fn unpatching(patch: &str, modules: &[&str]) -> Lines {
    let first = vec![format!("{patch}: completing unpatching")];
    let last = vec![
        format!("{patch}: unpatching complete"),
        format!("{patch} removed"),
    ];
    [first, calls("post_unpatch", patch, modules), last].concat()
}

fn leaves(patch: &str, modules: &[&str]) -> Lines {
    let first = vec![format!("{patch}: initializing unpatching")];
    let start = vec![format!("{patch}: starting unpatching")];
    [first, calls("pre_unpatch", patch, modules), start].concat()
}

/// DIS(p).
fn dis(patch: &str, modules: &[&str]) -> Lines {
    [leaves(patch, modules), unpatching(patch, modules)].concat()
}

/// COME(p, m).
fn come(patch: &str, module: &str) -> Lines {
    lines(&[
        &format!("applying {patch} to {module}"),
        &format!("pre_patch {patch} {module}"),
        &format!("post_patch {patch} {module}"),
    ])
}

/// GO(p, m).
fn go(patch: &str, module: &str) -> Lines {
    lines(&[
        &format!("pre_unpatch {patch} {module}"),
        &format!("reverting {patch} on {module}"),
        &format!("post_unpatch {patch} {module}"),
    ])
}

fn applying(patches: &[&str]) -> Lines {
    patches
        .iter()
        .map(|patch| format!("applying {patch} to M"))
        .collect()
}

fn reverting(patches: &[&str]) -> Lines {
    patches
        .iter()
        .map(|patch| format!("reverting {patch} on M"))
        .collect()
}

/// Enabling fails after the transition was initialised.
fn cancels(patch: &str, called: &[&str], why: &str, undone: &[&str]) -> Lines {
    let first = vec![
        format!("enabling {patch}"),
        format!("{patch}: initializing patching"),
    ];
    let failed = lines(&[
        why,
        &format!("failed to enable {patch}"),
        &format!("{patch}: canceling, going to unpatch"),
    ]);
    [
        first,
        calls("pre_patch", patch, called),
        failed,
        unpatching(patch, undone),
    ]
    .concat()
}

fn fails(lines: Lines, error: &str) -> Lines {
    [lines, vec![format!("=> {error}")]].concat()
}

fn nothing() -> Lines {
    Vec::new()
}

type Scenario = (&'static str, Vec<(Do, Lines)>);

fn run(scenarios: Vec<Scenario>) {
    for (name, steps) in scenarios {
        let mut bench = Bench::new();
        for (number, (step, expected)) in steps.into_iter().enumerate() {
            let got = bench.step(step);
            assert_eq!(got, expected, "{name}, step {}: {step:?}", number + 1);
        }
    }
}

include!("scenarios/table.rs");
