//! Everything that can happen, and when it can.

use engraft_core::{LinkAddress, ModuleId, PatchId, PatchState, ThreadId};

use super::machine::Machine;
use super::process::Phase;
use super::scope::{A, B, Control, MAIN, Scope};

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Prepare(PatchId),
    Abandon(PatchId),
    Begin(PatchId),
    Disable(PatchId),
    /// A controller looks at all stacks and lets everybody go who is clear.
    Start(PatchId),
    /// The same, but no stack can be read.
    StartNobody(PatchId),
    Reverse(PatchId, PatchState),
    Force(PatchId),
    Switch(ThreadId),
    /// A controller looks at a thread that stayed behind, is inside, and gets a door.
    SetDoor(ThreadId),
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
    /// The core hears again of a thread that has ended, because it could not forget it the first
    /// time.
    Exited(ThreadId),
    Born(ThreadId),
}

/// [`Act`], and which calls of the world fail in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub act: Act,
    /// Bit n is for the n-th call that can fail.
    pub fail: u64,
}

impl Machine {
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
            let started = transition.is_started();
            if scope.nonsense || started {
                acts.push(Act::Complete(patch));
            }
            if scope.nonsense || !started {
                acts.push(Act::Start(patch));
                if scope.unreadable {
                    acts.push(Act::StartNobody(patch));
                }
            }
            if scope.reverse {
                acts.push(Act::Reverse(patch, transition.target().other()));
            }
            if scope.force && (!started || transition.waiting().next().is_some()) {
                acts.push(Act::Force(patch));
            }
            acts.extend(transition.waiting().map(Act::Switch));
            if scope.doors {
                let without = |it: &ThreadId| !self.process.doors.contains_key(it);
                acts.extend(transition.waiting().filter(without).map(Act::SetDoor));
            }
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
                if self
                    .core
                    .transition()
                    .is_some_and(|it| it.exceptions().any(|it| it.0 == id))
                {
                    acts.push(Act::Exited(id));
                }
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
}
