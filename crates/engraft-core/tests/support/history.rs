//! The specification: what a call has to run, worked out from what has happened, without any of the
//! core's bookkeeping.

use std::collections::BTreeMap;

use engraft_core::{Code, LinkAddress, PatchId, PatchState, ThreadId, ThreadReport};

use super::scope::Scope;

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

    pub fn open(&mut self, patch: PatchId, target: PatchState, reports: &[ThreadReport]) {
        if target == PatchState::Patched {
            self.order.push(patch);
        }
        self.transition = Some((patch, target));
        let state = |it: &ThreadReport| if it.clear { target } else { target.other() };
        self.universes = reports.iter().map(|it| (it.thread, state(it))).collect();
    }

    pub fn turn(&mut self, target: PatchState, threads: impl Iterator<Item = ThreadId>) {
        let Some((patch, old)) = self.transition else {
            return;
        };
        self.universes = threads
            .map(|it| (it, self.universes.get(&it).copied().unwrap_or(old)))
            .collect();
        self.transition = Some((patch, target));
    }

    pub fn settle(&mut self) {
        if let Some((_, target)) = self.transition {
            self.universes
                .values_mut()
                .for_each(|state| *state = target);
        }
    }

    pub fn close(&mut self, scope: &Scope) {
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
