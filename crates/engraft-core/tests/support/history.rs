//! The specification: what a call has to run, worked out from what has happened, without any of the
//! core's bookkeeping.

use std::collections::BTreeMap;

use engraft_core::{Code, LinkAddress, PatchId, PatchState, ThreadId};

use super::scope::Scope;

/// What has happened, without any of the core's bookkeeping.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct History {
    /// Enabled patches, oldest first.
    pub order: Vec<PatchId>,
    pub transition: Option<Moving>,
}

/// A transition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Moving {
    pub patch: PatchId,
    pub target: PatchState,
    /// The universe of each thread, also of one that has ended and is not forgotten.
    pub universes: BTreeMap<ThreadId, PatchState>,
    /// The universe that threads are born into.
    pub newborn: PatchState,
}

impl Moving {
    fn universe(&self, thread: ThreadId) -> PatchState {
        self.universes.get(&thread).copied().unwrap_or(self.newborn)
    }
}

impl History {
    pub fn universe(&self, thread: ThreadId) -> Option<PatchState> {
        self.transition.as_ref().map(|it| it.universe(thread))
    }

    /// What a call by the thread has to run: the newest patch that it may see and that changes the
    /// function. This is the whole meaning of live patching.
    pub fn expected(&self, scope: &Scope, thread: ThreadId, function: LinkAddress) -> Code {
        let universe = self.universe(thread);
        for patch in self.order.iter().rev().copied() {
            let moving = self.transition.as_ref().is_some_and(|it| it.patch == patch);
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

    /// A transition opens: everybody is where they were.
    pub fn open(
        &mut self,
        patch: PatchId,
        target: PatchState,
        threads: impl Iterator<Item = ThreadId>,
    ) {
        if target == PatchState::Patched {
            self.order.push(patch);
        }
        let old = target.other();
        self.transition = Some(Moving {
            patch,
            target,
            universes: threads.map(|it| (it, old)).collect(),
            newborn: old,
        });
    }

    /// It turns round: nobody moves.
    pub fn turn(&mut self, target: PatchState) {
        if let Some(moving) = &mut self.transition {
            moving.target = target;
        }
    }

    /// It starts: everybody moves, except those that stay behind.
    pub fn start(&mut self, behind: &[ThreadId]) {
        let Some(moving) = &mut self.transition else {
            return;
        };
        moving.newborn = moving.target;
        for (thread, state) in &mut moving.universes {
            if !behind.contains(thread) {
                *state = moving.target;
            }
        }
    }

    pub fn switch(&mut self, thread: ThreadId) {
        if let Some(moving) = &mut self.transition {
            moving.universes.insert(thread, moving.target);
        }
    }

    pub fn born(&mut self, thread: ThreadId) {
        if let Some(moving) = &mut self.transition {
            moving.universes.entry(thread).or_insert(moving.newborn);
        }
    }

    pub fn exited(&mut self, thread: ThreadId) {
        if let Some(moving) = &mut self.transition {
            moving.universes.remove(&thread);
        }
    }

    pub fn close(&mut self, scope: &Scope) {
        let Some(Moving { patch, target, .. }) = self.transition.take() else {
            return;
        };
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
