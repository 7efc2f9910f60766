//! A process, the real core that patches it, and what has happened to them; and how one thing more
//! happens.

use std::collections::BTreeMap;
use std::fmt::Debug;

use engraft_core::{
    Error, Event, Livepatch, ModuleId, PatchId, PatchState, Refusal, ThreadId, Transition, Trouble,
};

use super::act::{Act, Step};
use super::explore::{Model, Violation};
use super::hands::{Hands, Injected, Sabotage};
use super::history::History;
use super::process::{Frame, Phase, Process, Thread};
use super::scope::{Control, MAIN, Scope, library, program};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Machine {
    pub core: Livepatch,
    pub process: Process,
    pub history: History,
    /// What was seen of the stacks when the transition opened or was turned round; kept only for
    /// the controls that use it.
    stale: Option<Vec<ThreadId>>,
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
            doors: BTreeMap::new(),
            log: Default::default(),
        };
        Self {
            core,
            process,
            history: History::default(),
            stale: None,
        }
    }

    /// Lets one thing happen. An error means that the core refused what cannot be refused.
    pub fn take(&self, scope: &Scope, step: Step) -> Result<Outcome, Violation> {
        let mut machine = self.clone();
        let Self {
            core,
            process,
            history,
            stale,
        } = &mut machine;
        let hands = Hands::new(process, step.fail, sabotage(scope.control));
        let mut turn = Turn {
            scope,
            core,
            history,
            stale,
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
        let moving = machine.moving();
        let stopped = machine.process.log.rest(moving).err();
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

    /// What the log has to say of the transition. A disabling that was canceled is not in it.
    fn moving(&self) -> Option<(PatchId, PatchState, bool)> {
        let silent = |it: &&Transition| it.is_canceled() && it.target() == PatchState::Patched;
        let transition = self.core.transition().filter(|it| !silent(it))?;
        Some((
            transition.patch(),
            transition.target(),
            transition.is_started(),
        ))
    }
}

fn sabotage(control: Control) -> Sabotage {
    match control {
        Control::KeepHalfImages => Sabotage::KeepHalfImages,
        Control::NoDispatchForComers => Sabotage::NoDispatchForComers,
        Control::BindByName => Sabotage::BindVisible,
        Control::MoveAndFail => Sabotage::MoveAndFail,
        Control::DoorsStayOpen => Sabotage::KeepDoors,
        _ => Sabotage::None,
    }
}

/// A machine while one thing happens to it.
pub struct Turn<'machine> {
    pub scope: &'machine Scope,
    pub core: &'machine mut Livepatch,
    pub history: &'machine mut History,
    pub stale: &'machine mut Option<Vec<ThreadId>>,
    pub hands: Hands<'machine>,
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
            ..
        } = self;
        let result = match act {
            Act::Prepare(patch) => core.prepare(hands, patch, scope.plan(patch).definition(patch)),
            Act::Abandon(patch) => core.abandon(hands, patch).map_err(Error::from),
            Act::Begin(patch) => self.begin(patch),
            Act::Disable(patch) => self.disable(patch),
            Act::Reverse(patch, target) => self.reverse(patch, target),
            Act::Start(patch) => self.start(patch),
            Act::StartNobody(patch) => self.start_nobody(patch),
            Act::Force(patch) => self.force(patch),
            Act::Switch(thread) => self.switch(thread),
            Act::SetDoor(thread) => self.set_door(thread),
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
            Act::End(thread) => {
                hands.process.thread(thread).alive = false;
                self.exited(thread)
            }
            Act::Exited(thread) => self.exited(thread),
            Act::Call(..) | Act::Return(_) | Act::Born(_) => {
                self.run(act);
                Ok(())
            }
        };
        Ok(result.err())
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
                if process.pass_door(thread).is_some() {
                    self.history.switch(thread);
                }
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
            Act::Born(thread) => {
                process.thread(thread).alive = true;
                self.history.born(thread);
            }
            _ => {}
        }
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
