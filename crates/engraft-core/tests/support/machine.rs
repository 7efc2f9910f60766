//! A process, the real core that patches it, and what has happened to them; and how one thing more
//! happens.

use std::collections::BTreeMap;
use std::fmt::Debug;

use engraft_core::{
    Error, Event, Livepatch, ModuleId, PatchId, PatchState, Refusal, ThreadId, ThreadReport,
    Trouble,
};

use super::act::{Act, Step};
use super::explore::{Model, Violation};
use super::history::History;
use super::process::{Frame, Hands, Injected, Phase, Process, Sabotage, Thread};
use super::scope::{Control, MAIN, Scope, library, program};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Machine {
    pub core: Livepatch,
    pub process: Process,
    pub history: History,
}

/// What a step did.
pub struct Outcome {
    pub machine: Machine,
    pub events: Vec<Event>,
    pub troubles: Vec<Trouble>,
    pub error: Option<Error<Injected>>,
    /// Whether the call that was to fail did.
    pub failed: bool,
    /// What was wrong with the step itself; see also [`Machine::check`].
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
        let threads = (1..=scope.threads).map(|id| Thread::new(ThreadId(id)));
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

    /// Lets one thing happen. An error means that the core refused what cannot be refused.
    pub fn take(&self, scope: &Scope, step: Step) -> Result<Outcome, Violation> {
        let mut machine = self.clone();
        let Self {
            core,
            process,
            history,
        } = &mut machine;
        let hands = Hands::new(process, step.fail, sabotage(scope.control));
        let mut turn = Turn {
            scope,
            core,
            history,
            hands,
        };
        let error = turn.act(step.act)?;
        let Hands {
            events,
            troubles,
            violation,
            failures,
            ..
        } = turn.hands;
        let told = troubles.len() + usize::from(error.is_some_and(is_of_world));
        let stopped = machine.process.log.rest().err();
        let undone = || machine.check_undone(self, step.act, error?).err();
        let swallowed = (failures != told)
            .then(|| format!("{failures} calls failed, {told} were told: {error:?} {troubles:?}"));
        let violation = violation.or(stopped).or_else(undone).or(swallowed);
        let failed = failures > 0;
        Ok(Outcome {
            machine,
            events,
            troubles,
            error,
            failed,
            violation,
        })
    }
}

fn sabotage(control: Control) -> Sabotage {
    match control {
        Control::KeepHalfImages => Sabotage::KeepHalfImages,
        Control::NoDispatchForComers => Sabotage::NoDispatchForComers,
        Control::BindByName => Sabotage::BindVisible,
        _ => Sabotage::None,
    }
}

/// A machine while one thing happens to it.
struct Turn<'machine> {
    scope: &'machine Scope,
    core: &'machine mut Livepatch,
    history: &'machine mut History,
    hands: Hands<'machine>,
}

/// Whether it has a failure of the world in it.
fn is_of_world(error: Error<Injected>) -> bool {
    !matches!(error, Error::Refused(_))
}

/// Refusals that a step must not meet.
fn never<T: Debug>(refusal: T) -> Violation {
    format!("refused: {refusal:?}")
}

impl Turn<'_> {
    /// Returns how the core refused.
    fn act(&mut self, act: Act) -> Result<Option<Error<Injected>>, Violation> {
        let Self {
            core,
            hands,
            history,
            scope,
        } = self;
        let result = match act {
            Act::Prepare(patch) => core.prepare(hands, patch, scope.plan(patch).definition(patch)),
            Act::Abandon(patch) => core.abandon(hands, patch).map_err(Error::from),
            Act::Begin(patch) => self.begin(patch),
            Act::Disable(patch) => self.disable(patch),
            Act::Reverse(patch, target) => self.reverse(patch, target),
            Act::Force(patch) => return self.force(patch).map(|()| None).map_err(never),
            Act::Switch(thread) => return self.switch(thread).map(|()| None).map_err(never),
            Act::Complete(patch) => {
                let completed = core.complete(hands, patch);
                completed.inspect(|()| history.close(scope))
            }
            Act::Come(module) => self.come(module),
            Act::Appear(module)
            | Act::Vanish(module)
            | Act::Exit(module)
            | Act::Go(module)
            | Act::Unmap(module)
            | Act::FindGone(module) => {
                return self.load(act, module).map(|()| None).map_err(never);
            }
            Act::Call(..) | Act::Return(_) | Act::End(_) | Act::Born(_) => {
                self.run(act);
                Ok(())
            }
        };
        Ok(result.err())
    }

    fn begin(&mut self, patch: PatchId) -> Result<(), Error<Injected>> {
        let reports = self.reports(patch, PatchState::Patched);
        let begun = self.core.begin(&mut self.hands, patch, &reports);
        if begun.is_ok() || self.core.transition().is_some() {
            self.history.open(patch, PatchState::Patched, &reports);
        }
        if begun.is_err() {
            // If it could not even be undone: nobody has switched, and nobody will.
            self.history
                .turn(PatchState::Unpatched, reports.iter().map(|it| it.thread));
            self.history.settle();
        }
        begun.map(|_| ())
    }

    fn disable(&mut self, patch: PatchId) -> Result<(), Error<Injected>> {
        let idle = self.core.transition().is_none();
        let reports = self.reports(patch, PatchState::Unpatched);
        let begun = self.core.disable(&mut self.hands, patch, &reports);
        if begun.is_ok() {
            self.history.open(patch, PatchState::Unpatched, &reports);
        } else if idle && self.core.transition().is_some() {
            // It could not even be undone: nobody has switched, and nobody will.
            self.history.open(patch, PatchState::Unpatched, &[]);
            self.history.turn(PatchState::Patched, std::iter::empty());
        }
        begun.map(|_| ())
    }

    fn reverse(&mut self, patch: PatchId, target: PatchState) -> Result<(), Error<Injected>> {
        let alive = self
            .hands
            .process
            .threads
            .iter()
            .filter(|thread| thread.alive);
        let threads: Vec<_> = alive.map(|thread| thread.id).collect();
        self.core
            .reverse(&mut self.hands, patch, target, &threads)?;
        self.history.turn(target, threads.into_iter());
        Ok(())
    }

    fn force(&mut self, patch: PatchId) -> Result<(), Refusal> {
        let transition = self.core.transition().into_iter();
        let waiting: Vec<_> = transition.flat_map(|it| it.waiting()).collect();
        self.core.force(&mut self.hands, patch)?;
        for thread in &mut self.hands.process.threads {
            thread.forced |= waiting.contains(&thread.id) && !thread.frames.is_empty();
        }
        self.history.settle();
        Ok(())
    }

    fn switch(&mut self, thread: ThreadId) -> Result<(), Refusal> {
        let Some((patch, target)) = self.history.transition else {
            return Ok(());
        };
        let reports = self.reports(patch, target);
        if reports.iter().any(|it| it.thread == thread && it.clear) {
            self.core.switch_thread(&mut self.hands, patch, thread)?;
            self.history.universes.insert(thread, target);
        }
        Ok(())
    }

    fn come(&mut self, module: ModuleId) -> Result<(), Error<Injected>> {
        self.hands.process.modules.insert(module, Phase::Coming);
        let come = self.core.module_coming(&mut self.hands, module, library());
        let phase = if come.is_ok() {
            Phase::Present
        } else {
            Phase::Absent
        };
        self.hands.process.enter(module, phase);
        come?;
        Ok(self.core.module_live(module)?)
    }

    fn load(&mut self, act: Act, module: ModuleId) -> Result<(), Refusal> {
        let Self {
            core, hands, scope, ..
        } = self;
        match act {
            Act::Appear(_) => {
                core.module_forming(module, library())?;
                let early = scope.control == Control::RunBeforeComing;
                let phase = if early {
                    Phase::Present
                } else {
                    Phase::Visible
                };
                hands.process.enter(module, phase);
            }
            Act::Vanish(_) => {
                core.module_going(hands, module)?;
                hands.process.enter(module, Phase::Absent);
            }
            Act::Exit(_) => {
                match scope.control {
                    Control::GoBeforeDestructors => core.module_going(hands, module)?,
                    _ => core.module_exiting(module)?,
                }
                hands.process.enter(module, Phase::Exiting);
            }
            Act::Go(_) => {
                hands.process.enter(module, Phase::Going);
                match scope.control {
                    Control::GoBeforeDestructors | Control::UnmapSilently => {}
                    _ => core.module_going(hands, module)?,
                }
                hands.process.enter(module, Phase::Absent);
            }
            Act::Unmap(_) => hands.process.enter(module, Phase::Unmapped),
            _ => {
                core.module_gone(hands, module)?;
                hands.process.enter(module, Phase::Absent);
            }
        }
        Ok(())
    }

    fn run(&mut self, act: Act) {
        let process = &mut *self.hands.process;
        match act {
            Act::Call(thread, module, function) => {
                let code = process.resolve(thread, module, function);
                process.thread(thread).frames.push(Frame {
                    module,
                    function,
                    code,
                });
            }
            Act::Return(thread) => {
                let thread = process.thread(thread);
                thread.frames.pop();
                thread.forced &= !thread.frames.is_empty();
            }
            Act::End(thread) => {
                process.thread(thread).alive = false;
                self.core.thread_exited(&mut self.hands, thread);
                self.history.universes.remove(&thread);
            }
            Act::Born(thread) => process.thread(thread).alive = true,
            _ => {}
        }
    }

    /// What a controller sees that looks at all stacks.
    fn reports(&self, patch: PatchId, target: PatchState) -> Vec<ThreadReport> {
        let mut leaving = Vec::new();
        // An unknown patch is about to be refused.
        let _ = self.core.leaving(patch, target, |body| {
            let (module, function, code) = (body.module, body.function, body.code);
            leaving.push(Frame {
                module,
                function,
                code,
            });
        });
        let blind = self.scope.control == Control::SwitchBlindly;
        let clear =
            |thread: &Thread| blind || !thread.frames.iter().any(|frame| leaving.contains(frame));
        let alive = self
            .hands
            .process
            .threads
            .iter()
            .filter(|thread| thread.alive);
        alive
            .map(|thread| ThreadReport {
                thread: thread.id,
                clear: clear(thread),
            })
            .collect()
    }
}

impl Scope {
    fn judge(&self, result: Result<Outcome, Violation>) -> Result<Machine, Violation> {
        let outcome = result?;
        self.counts(outcome.violation.map_or(Ok(()), Err))
            .map(|()| outcome.machine)
    }

    fn counts(&self, result: Result<(), Violation>) -> Result<(), Violation> {
        match result {
            Err(violation) if violation.contains(self.only) => Err(violation),
            Err(_) | Ok(()) => Ok(()),
        }
    }
}

impl Model for Scope {
    type State = Machine;
    type Step = Step;

    fn initial(&self) -> Machine {
        Machine::new(self)
    }

    fn check(&self, machine: &Machine) -> Result<(), Violation> {
        self.counts(machine.check(self))
    }

    fn successors(
        &self,
        machine: &Machine,
        visit: &mut dyn FnMut(Step, Result<Machine, Violation>),
    ) {
        let mut acts = Vec::new();
        machine.acts(self, &mut acts);
        for act in acts {
            let step = Step { act, fail: 0 };
            visit(step, self.judge(machine.take(self, step)));
            // Then once more for each call of the world, with that call failing, and with all
            // that come after it failing as well.
            for call in (0..64).take_while(|_| self.faults) {
                let mut failed = false;
                for fail in [1 << call, u64::MAX << call] {
                    let step = Step { act, fail };
                    let result = machine.take(self, step);
                    failed |= result.as_ref().is_ok_and(|outcome| outcome.failed);
                    visit(step, self.judge(result));
                }
                if !failed {
                    break;
                }
            }
        }
    }
}
