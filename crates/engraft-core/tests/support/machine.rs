//! A process, the real core that patches it, and everything that either can do.
//!
//! The main program has the function a; a library has b, and up to two modules are instances of
//! it. What a call must run is worked out a second time here, from the history alone
//! ([`History`]), and compared with where the sites lead.

use std::collections::BTreeMap;

use engraft_core::{
    BuildId, Callbacks, Code, Error, FuncId, LinkAddress, Livepatch, ModuleId, ObjectDefinition,
    ObjectId, PatchDefinition, PatchId, PatchState, StateDefinition, StateId, ThreadId,
    ThreadReport, Trouble,
};

use super::explore::{Model, Violation};
use super::process::{Frame, Hands, ImageState, Injected, Phase, Process, Sabotage, Thread};

pub const A: LinkAddress = LinkAddress(0xa);
pub const B: LinkAddress = LinkAddress(0xb);
pub const MAIN: ModuleId = ModuleId(0);
pub const M: ModuleId = ModuleId(1);
pub const N: ModuleId = ModuleId(2);
pub const T1: ThreadId = ThreadId(1);

pub fn program() -> BuildId {
    BuildId::new(b"a").expect("short")
}

pub fn library() -> BuildId {
    BuildId::new(b"b").expect("short")
}

/// Which of the two functions a patch changes.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub a: bool,
    pub b: bool,
    pub replace: bool,
    pub callbacks: Callbacks,
    /// The version of state 1 that it has.
    pub state: Option<u32>,
}

impl Plan {
    pub const BOTH: Self = Self {
        a: true,
        b: true,
        replace: false,
        callbacks: Callbacks::ALL,
        state: None,
    };

    pub fn definition(&self, patch: PatchId) -> PatchDefinition {
        let object = |build_id, funcs| ObjectDefinition {
            build_id,
            funcs,
            callbacks: self.callbacks,
        };
        let main = self.a.then(|| object(program(), vec![A]));
        let library = self.b.then(|| object(library(), vec![B]));
        let state = self.state.map(|version| StateDefinition {
            id: StateId(1),
            version,
            callbacks: self.callbacks,
            shadow: true,
        });
        PatchDefinition {
            name: vec![b'0' + patch.0 as u8],
            set: Vec::new(),
            replace: self.replace,
            objects: main.into_iter().chain(library).collect(),
            states: state.into_iter().collect(),
        }
    }

    /// The func that the patch has for a function.
    fn func(&self, patch: PatchId, function: LinkAddress) -> Option<FuncId> {
        let object = if function == A {
            self.a.then_some(0)
        } else {
            self.b.then_some(self.a.into())
        };
        object.map(|object| FuncId {
            patch,
            object,
            func: 0,
        })
    }
}

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Control {
    #[default]
    None,
    /// Rules 1 and 2: before 2015, a patch bound to whatever was visible.
    BindByName,
    /// Rule 3: the module's code runs before the coming work.
    RunBeforeComing,
    /// Rule 4: what a patch left behind that refused a module is forgotten.
    KeepHalfImages,
    /// Rule 5: the patches leave before the destructors have run.
    GoBeforeDestructors,
    /// Rule 5: the module is unmapped and nobody says so.
    UnmapSilently,
    /// Rule 6: a module that comes in a transition gets the new code for everyone.
    NoDispatchForComers,
    /// Threads switch without a look at their stacks.
    SwitchBlindly,
}

/// What can happen and what cannot.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The patches, numbered from 1.
    pub plans: Vec<Plan>,
    pub modules: Vec<ModuleId>,
    pub threads: u64,
    /// Whether threads may call b from within a.
    pub nested: bool,
    /// Whether threads may end, and begin again with the same thread pointer.
    pub births: bool,
    /// Whether requests are also made that have to be refused.
    pub nonsense: bool,
    pub reverse: bool,
    pub force: bool,
    /// Whether every call of the world that can fail does so once.
    pub faults: bool,
    /// Whether modules may vanish without notice.
    pub vanish: bool,
    pub control: Control,
    /// Only violations whose text contains this are looked for.
    pub only: &'static str,
}

impl Scope {
    pub fn new(plans: Vec<Plan>) -> Self {
        Self {
            plans,
            modules: vec![M],
            threads: 0,
            nested: true,
            births: false,
            nonsense: true,
            reverse: true,
            force: false,
            faults: false,
            vanish: false,
            control: Control::None,
            only: "",
        }
    }

    fn plan(&self, patch: PatchId) -> &Plan {
        &self.plans[patch.0 as usize - 1]
    }

    fn judge(&self, result: Result<Outcome, Violation>) -> Result<Machine, Violation> {
        let outcome = result?;
        match outcome.violation {
            Some(violation) if violation.contains(self.only) => Err(violation),
            Some(_) | None => Ok(outcome.machine),
        }
    }

    fn patches(&self) -> impl Iterator<Item = PatchId> + use<> {
        (1..=self.plans.len() as u32).map(PatchId)
    }
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Prepare(PatchId),
    Abandon(PatchId),
    Begin(PatchId),
    Disable(PatchId),
    Reverse(PatchId, PatchState),
    Force(PatchId),
    Switch(ThreadId),
    Complete(PatchId),
    /// The loader has mapped the module.
    Appear(ModuleId),
    /// The loader tells the core that the module comes.
    Come(ModuleId),
    /// The loader gives up a module that has not come.
    Vanish(ModuleId),
    /// The destructors begin.
    Exit(ModuleId),
    /// They have run; the loader tells the core, and unmaps the module.
    Go(ModuleId),
    /// The loader unmaps the module without a word.
    Unmap(ModuleId),
    /// The core hears of that.
    FindGone(ModuleId),
    Call(ThreadId, ModuleId, LinkAddress),
    Return(ThreadId),
    End(ThreadId),
    Born(ThreadId),
}

/// [`Act`], and which call of the world failed in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub act: Act,
    pub fail_at: Option<u32>,
}

/// What has happened, without any of the core's bookkeeping.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct History {
    /// Enabled patches, oldest first.
    pub order: Vec<PatchId>,
    pub transition: Option<(PatchId, PatchState)>,
    /// The universes of the threads that were there when it began.
    pub universes: BTreeMap<ThreadId, PatchState>,
}

impl History {
    fn universe(&self, thread: ThreadId) -> Option<PatchState> {
        let (_, target) = self.transition?;
        Some(self.universes.get(&thread).copied().unwrap_or(target))
    }

    /// What a call by the thread has to run: the newest patch that it may see and that changes the
    /// function. This is the whole meaning of live patching.
    pub fn expected(&self, scope: &Scope, thread: ThreadId, function: LinkAddress) -> Code {
        let universe = self.universe(thread);
        for patch in self.order.iter().rev().copied() {
            let moving = self.transition.is_some_and(|(it, _)| it == patch);
            if moving && universe == Some(PatchState::Unpatched) {
                continue;
            }
            if let Some(func) = scope.plan(patch).func(patch, function) {
                return Code::Func(func);
            }
            if scope.plan(patch).replace {
                break;
            }
        }
        Code::Original
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Machine {
    pub core: Livepatch,
    pub process: Process,
    pub history: History,
}

/// What a step did, for tests and stories.
pub struct Outcome {
    pub machine: Machine,
    pub events: Vec<engraft_core::Event>,
    pub troubles: Vec<Trouble>,
    pub error: Option<Error<Injected>>,
    /// Whether the call that was to fail did.
    pub failed: bool,
    /// The property that no longer holds.
    pub violation: Option<Violation>,
}

impl Machine {
    pub fn new(scope: &Scope) -> Self {
        let mut core = match scope.control {
            Control::BindByName => Livepatch::binding_by_name(),
            _ => Livepatch::new(),
        };
        core.adopt_live_module(MAIN, program()).expect("empty");
        let absent = scope.modules.iter().map(|module| (*module, Phase::Absent));
        let threads = (1..=scope.threads).map(|id| Thread {
            id: ThreadId(id),
            alive: true,
            frames: Vec::new(),
            forced: false,
        });
        let process = Process {
            modules: std::iter::once((MAIN, Phase::Present))
                .chain(absent)
                .collect(),
            images: BTreeMap::new(),
            sites: BTreeMap::new(),
            threads: threads.collect(),
            table: None,
            log: Default::default(),
        };
        Self {
            core,
            process,
            history: History::default(),
        }
    }

    /// What can happen now. Requests that make no sense are included; they must change nothing.
    pub fn acts(&self, scope: &Scope, acts: &mut Vec<Act>) {
        self.controller_acts(scope, acts);
        self.loader_acts(scope, acts);
        self.thread_acts(scope, acts);
    }

    fn controller_acts(&self, scope: &Scope, acts: &mut Vec<Act>) {
        let busy = self.core.prepared().is_some() || self.core.transition().is_some();
        if scope.nonsense || !busy {
            for patch in scope.patches() {
                acts.extend([Act::Prepare(patch), Act::Disable(patch)]);
            }
        }
        if let Some(patch) = self.core.prepared() {
            acts.extend([Act::Begin(patch.id()), Act::Abandon(patch.id())]);
        }
        if let Some(transition) = self.core.transition() {
            let patch = transition.patch();
            acts.push(Act::Complete(patch));
            if scope.reverse {
                acts.push(Act::Reverse(patch, transition.target().other()));
            }
            if scope.force && transition.waiting().next().is_some() {
                acts.push(Act::Force(patch));
            }
            acts.extend(transition.waiting().map(Act::Switch));
        }
    }

    fn loader_acts(&self, scope: &Scope, acts: &mut Vec<Act>) {
        for module in scope.modules.iter().copied() {
            // A library must not be unloaded under a thread that is inside of it.
            let used = self
                .process
                .threads
                .iter()
                .any(|thread| thread.frames.iter().any(|frame| frame.module == module));
            match self.process.modules[&module] {
                Phase::Absent => acts.push(Act::Appear(module)),
                Phase::Visible => acts.extend([Act::Come(module), Act::Vanish(module)]),
                Phase::Present => {
                    if scope.control == Control::RunBeforeComing
                        && self.core.module(module).is_some_and(|it| !it.is_alive())
                    {
                        acts.push(Act::Come(module));
                        continue;
                    }
                    acts.push(Act::Exit(module));
                    if scope.vanish && !used {
                        acts.push(Act::Unmap(module));
                    }
                }
                Phase::Exiting if !used => acts.push(Act::Go(module)),
                Phase::Unmapped => acts.push(Act::FindGone(module)),
                Phase::Exiting | Phase::Coming | Phase::Going => {}
            }
        }
    }

    fn thread_acts(&self, scope: &Scope, acts: &mut Vec<Act>) {
        for thread in &self.process.threads {
            let id = thread.id;
            if !thread.alive {
                acts.push(Act::Born(id));
                continue;
            }
            let outermost = thread.frames.is_empty();
            if outermost {
                acts.push(Act::Call(id, MAIN, A));
                if scope.births {
                    acts.push(Act::End(id));
                }
            } else {
                acts.push(Act::Return(id));
            }
            let inside_a = scope.nested && matches!(&*thread.frames, [it] if it.function == A);
            if outermost || inside_a {
                let running = scope
                    .modules
                    .iter()
                    .filter(|it| self.process.modules[it].runs());
                acts.extend(running.map(|module| Act::Call(id, *module, B)));
            }
        }
    }

    /// Lets one thing happen.
    pub fn take(&self, scope: &Scope, step: Step) -> Result<Outcome, Violation> {
        let mut machine = self.clone();
        let Self {
            core,
            process,
            history,
        } = &mut machine;
        let sabotage = match scope.control {
            Control::KeepHalfImages => Sabotage::KeepHalfImages,
            Control::NoDispatchForComers => Sabotage::NoDispatchForComers,
            Control::BindByName => Sabotage::BindVisible,
            _ => Sabotage::None,
        };
        let blind = scope.control == Control::SwitchBlindly;
        let mut hands = Hands::new(process, step.fail_at, sabotage);
        let mut error = None;
        match step.act {
            Act::Prepare(patch) => {
                let definition = scope.plan(patch).definition(patch);
                error = core.prepare(&mut hands, patch, definition).err();
            }
            Act::Abandon(patch) => core
                .abandon(&mut hands, patch)
                .map_err(|it| format!("{it:?}"))?,
            Act::Begin(patch) => {
                let reports = reports(core, hands.process, patch, PatchState::Patched, blind);
                match core.begin(&mut hands, patch, &reports) {
                    Ok(_) => history.open(patch, PatchState::Patched, &reports),
                    Err(it) => error = Some(it),
                }
                if error.is_some() && core.transition().is_some() {
                    // Nobody has switched, and nobody will.
                    history.open(patch, PatchState::Patched, &reports);
                    history.turn(PatchState::Unpatched, reports.iter().map(|it| it.thread));
                    history.settle();
                }
            }
            Act::Disable(patch) => {
                let reports = reports(core, hands.process, patch, PatchState::Unpatched, blind);
                match core.disable(&mut hands, patch, &reports) {
                    Ok(_) => history.open(patch, PatchState::Unpatched, &reports),
                    Err(Error::Site(..)) if core.transition().is_some() => {
                        history.open(patch, PatchState::Unpatched, &[]);
                        history.turn(PatchState::Patched, [].into_iter());
                    }
                    Err(it) => error = Some(it),
                }
            }
            Act::Reverse(patch, target) => {
                let alive = hands.process.threads.iter().filter(|thread| thread.alive);
                let threads: Vec<_> = alive.map(|thread| thread.id).collect();
                match core.reverse(&mut hands, patch, target, &threads) {
                    Ok(_) => history.turn(target, threads.into_iter()),
                    Err(it) => error = Some(it),
                }
            }
            Act::Force(patch) => {
                let waiting: Vec<_> = core
                    .transition()
                    .into_iter()
                    .flat_map(|it| it.waiting())
                    .collect();
                core.force(&mut hands, patch)
                    .map_err(|it| format!("{it:?}"))?;
                for thread in &mut hands.process.threads {
                    thread.forced |= waiting.contains(&thread.id) && !thread.frames.is_empty();
                }
                history.settle();
            }
            Act::Switch(thread) => {
                let Some((patch, target)) = history.transition else {
                    return Err("a thread waits without a transition".into());
                };
                let reports = reports(core, hands.process, patch, target, blind);
                if reports.iter().any(|it| it.thread == thread && it.clear) {
                    core.switch_thread(&mut hands, patch, thread)
                        .map_err(|it| format!("{it:?}"))?;
                    history.universes.insert(thread, target);
                }
            }
            Act::Complete(patch) => match core.complete(&mut hands, patch) {
                Ok(()) => history.close(scope),
                Err(it) => error = Some(it),
            },
            Act::Appear(module) => {
                core.module_forming(module, library())
                    .map_err(|it| format!("{it:?}"))?;
                let early = scope.control == Control::RunBeforeComing;
                let phase = if early {
                    Phase::Present
                } else {
                    Phase::Visible
                };
                hands.process.modules.insert(module, phase);
            }
            Act::Come(module) => {
                hands.process.modules.insert(module, Phase::Coming);
                error = core.module_coming(&mut hands, module, library()).err();
                let phase = if error.is_some() {
                    Phase::Absent
                } else {
                    Phase::Present
                };
                hands.process.unmap_or(module, phase);
                if error.is_none() {
                    core.module_live(module).map_err(|it| format!("{it:?}"))?;
                }
            }
            Act::Vanish(module) => {
                core.module_going(&mut hands, module)
                    .map_err(|it| format!("{it:?}"))?;
                hands.process.unmap_or(module, Phase::Absent);
            }
            Act::Exit(module) => {
                if scope.control == Control::GoBeforeDestructors {
                    core.module_going(&mut hands, module)
                        .map_err(|it| format!("{it:?}"))?;
                } else {
                    core.module_exiting(module)
                        .map_err(|it| format!("{it:?}"))?;
                }
                hands.process.modules.insert(module, Phase::Exiting);
            }
            Act::Go(module) => {
                hands.process.modules.insert(module, Phase::Going);
                match scope.control {
                    Control::GoBeforeDestructors | Control::UnmapSilently => {}
                    _ => core
                        .module_going(&mut hands, module)
                        .map_err(|it| format!("{it:?}"))?,
                }
                hands.process.unmap_or(module, Phase::Absent);
            }
            Act::Unmap(module) => hands.process.unmap_or(module, Phase::Unmapped),
            Act::FindGone(module) => {
                core.module_gone(&mut hands, module)
                    .map_err(|it| format!("{it:?}"))?;
                hands.process.modules.insert(module, Phase::Absent);
            }
            Act::Call(thread, module, function) => {
                let code = hands.process.resolve(thread, module, function);
                hands.process.thread(thread).frames.push(Frame {
                    module,
                    function,
                    code,
                });
            }
            Act::Return(thread) => {
                let thread = hands.process.thread(thread);
                thread.frames.pop();
                thread.forced &= !thread.frames.is_empty();
            }
            Act::End(thread) => {
                hands.process.thread(thread).alive = false;
                core.thread_exited(&mut hands, thread);
                history.universes.remove(&thread);
            }
            Act::Born(thread) => hands.process.thread(thread).alive = true,
        }
        let failed = step.fail_at.is_some_and(|at| at < hands.calls);
        let Hands {
            events,
            troubles,
            violation,
            ..
        } = hands;
        machine.process.log.rest()?;
        let violation = violation.or_else(|| machine.check(scope, self, step.act, error).err());
        Ok(Outcome {
            machine,
            events,
            troubles,
            error,
            failed,
            violation,
        })
    }

    /// All properties.
    fn check(
        &self,
        scope: &Scope,
        before: &Self,
        act: Act,
        error: Option<Error<Injected>>,
    ) -> Result<(), Violation> {
        let undone = error.map_or(Ok(()), |error| self.check_undone(before, act, error));
        let checks = [
            self.process.check_references(),
            self.check_order(),
            self.check_calls(scope),
            self.check_modules(),
            undone,
        ];
        let violations: Vec<_> = checks.into_iter().filter_map(Result::err).collect();
        if violations.is_empty() {
            Ok(())
        } else {
            Err(violations.join("\n"))
        }
    }

    /// Every call goes where the history says, and nobody is inside of anything else.
    fn check_calls(&self, scope: &Scope) -> Result<(), Violation> {
        let observer = ThreadId(u64::MAX);
        let alive = self.process.threads.iter().filter(|thread| thread.alive);
        for thread in alive.clone().map(|thread| thread.id).chain([observer]) {
            for (module, phase) in &self.process.modules {
                if !phase.runs() {
                    continue;
                }
                let function = if *module == MAIN { A } else { B };
                let code = self.process.resolve(thread, *module, function);
                let expected = self.history.expected(scope, thread, function);
                if code != expected {
                    return Err(format!(
                        "{thread:?} calling {function:?} of {module:?} gets {code:?}, not {expected:?}"
                    ));
                }
            }
        }
        for thread in alive.filter(|thread| !thread.forced) {
            for frame in &thread.frames {
                let expected = self.history.expected(scope, thread.id, frame.function);
                if frame.code != expected {
                    return Err(format!(
                        "{:?} sees two universes: inside of {frame:?}, but calls get {expected:?}",
                        thread.id
                    ));
                }
            }
        }
        Ok(())
    }

    /// Rule 1: every func stack is in the order of the list.
    fn check_order(&self) -> Result<(), Violation> {
        for module in self.core.modules() {
            for site in module.sites() {
                let mut stack: Vec<_> = site.func_stack().map(|func| func.patch).collect();
                let newest_first = self.history.order.iter().rev().copied();
                let wanted: Vec<_> = newest_first.filter(|it| stack.contains(it)).collect();
                if stack != wanted {
                    stack.dedup();
                    return Err(format!(
                        "the stack of {:?} in {:?} is {stack:?}, enabled last were {wanted:?}",
                        site.function(),
                        module.id()
                    ));
                }
            }
        }
        let listed: Vec<_> = self.core.patches().iter().map(|patch| patch.id()).collect();
        if listed != self.history.order {
            return Err(format!(
                "{listed:?} listed, but {:?} enabled",
                self.history.order
            ));
        }
        Ok(())
    }

    /// The core knows the modules that are there and no others, and no image is half done.
    fn check_modules(&self) -> Result<(), Violation> {
        for (module, phase) in &self.process.modules {
            if (*phase == Phase::Absent) != self.core.module(*module).is_none() {
                return Err(format!("{module:?} is {phase:?}, the core disagrees"));
            }
        }
        if let Some((image, _)) = self
            .process
            .images
            .iter()
            .find(|(_, state)| **state == ImageState::Half)
        {
            return Err(format!("{image:?} was left half done"));
        }
        Ok(())
    }

    /// After a failure, everything is as before, or as is documented.
    fn check_undone(
        &self,
        before: &Self,
        act: Act,
        error: Error<Injected>,
    ) -> Result<(), Violation> {
        if self.core.transition().is_some_and(|it| it.is_canceled()) {
            return Ok(());
        }
        let mut scratch = before.clone();
        let mut hands = Hands::new(&mut scratch.process, None, Sabotage::None);
        match (act, error) {
            // Sites that are written already are right, the rest is as before.
            (Act::Complete(_) | Act::Reverse(..), Error::Site(..) | Error::Threads(..)) => {
                return Ok(());
            }
            (_, Error::Refused(_)) => {}
            (Act::Begin(patch), _) => {
                scratch
                    .core
                    .abandon(&mut hands, patch)
                    .map_err(|it| format!("{it:?}"))?;
            }
            (Act::Come(module), _) => {
                scratch
                    .core
                    .module_going(&mut hands, module)
                    .map_err(|it| format!("{it:?}"))?;
                scratch.process.modules.insert(module, Phase::Absent);
            }
            _ => {}
        }
        scratch.process.log = self.process.log.clone();
        if *self != scratch {
            return Err(format!("after {error:?} something else has changed"));
        }
        Ok(())
    }
}

impl Process {
    fn thread(&mut self, id: ThreadId) -> &mut Thread {
        self.threads
            .iter_mut()
            .find(|thread| thread.id == id)
            .expect("a thread of the scope")
    }

    /// Gives the module its next phase; its bytes are gone if it is not mapped then.
    fn unmap_or(&mut self, module: ModuleId, phase: Phase) {
        self.modules.insert(module, phase);
        if matches!(phase, Phase::Absent | Phase::Unmapped) {
            self.sites.retain(|(it, _), _| *it != module);
        }
    }
}

impl History {
    fn open(&mut self, patch: PatchId, target: PatchState, reports: &[ThreadReport]) {
        if target == PatchState::Patched {
            self.order.push(patch);
        }
        self.transition = Some((patch, target));
        let state = |it: &ThreadReport| if it.clear { target } else { target.other() };
        self.universes = reports.iter().map(|it| (it.thread, state(it))).collect();
    }

    fn turn(&mut self, target: PatchState, threads: impl Iterator<Item = ThreadId>) {
        let Some((patch, old)) = self.transition else {
            return;
        };
        self.universes = threads
            .map(|it| (it, self.universes.get(&it).copied().unwrap_or(old)))
            .collect();
        self.transition = Some((patch, target));
    }

    fn settle(&mut self) {
        if let Some((_, target)) = self.transition {
            self.universes
                .values_mut()
                .for_each(|state| *state = target);
        }
    }

    fn close(&mut self, scope: &Scope) {
        let Some((patch, target)) = self.transition.take() else {
            return;
        };
        self.universes.clear();
        match target {
            PatchState::Unpatched => self.order.retain(|it| *it != patch),
            PatchState::Patched if scope.plan(patch).replace => {
                let newer = self.order.iter().position(|it| *it == patch).unwrap_or(0);
                self.order.drain(..newer);
            }
            PatchState::Patched => {}
        }
    }
}

/// What a controller sees that looks at all stacks.
fn reports(
    core: &Livepatch,
    process: &Process,
    patch: PatchId,
    target: PatchState,
    blind: bool,
) -> Vec<ThreadReport> {
    let mut leaving = Vec::new();
    // An unknown patch is about to be refused.
    let _ = core.leaving(patch, target, |body| {
        leaving.push(Frame {
            module: body.module,
            function: body.function,
            code: body.code,
        });
    });
    let alive = process.threads.iter().filter(|thread| thread.alive);
    let clear =
        |thread: &Thread| blind || !thread.frames.iter().any(|frame| leaving.contains(frame));
    alive
        .map(|thread| ThreadReport {
            thread: thread.id,
            clear: clear(thread),
        })
        .collect()
}

/// Whether an image is whole, for tests.
pub fn has_image(machine: &Machine, object: ObjectId, module: ModuleId) -> bool {
    machine.process.images.get(&(object, module)) == Some(&ImageState::Whole)
}

impl Model for Scope {
    type State = Machine;
    type Step = Step;

    fn initial(&self) -> Machine {
        Machine::new(self)
    }

    fn successors(&self, state: &Machine, visit: &mut dyn FnMut(Step, Result<Machine, Violation>)) {
        let mut acts = Vec::new();
        state.acts(self, &mut acts);
        for act in acts {
            let step = Step { act, fail_at: None };
            visit(step, self.judge(state.take(self, step)));
            if !self.faults {
                continue;
            }
            for call in 0.. {
                let step = Step {
                    act,
                    fail_at: Some(call),
                };
                let result = state.take(self, step);
                if result.as_ref().is_ok_and(|outcome| !outcome.failed) {
                    break;
                }
                let broken = result.is_err();
                visit(step, self.judge(result));
                if broken {
                    break;
                }
            }
        }
    }
}
