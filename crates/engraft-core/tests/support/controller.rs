//! What a controller does, and what it means for the history.

use engraft_core::door::Door;
use engraft_core::{BlockedThread, Error, PatchId, PatchState, ThreadId, Transition};

use super::hands::{Injected, door};
use super::machine::Turn;
use super::process::{Frame, OBSERVER, Thread};
use super::scope::Control;

impl Turn<'_> {
    pub fn begin(&mut self, patch: PatchId) -> Result<(), Error<Injected>> {
        let begun = self.core.begin(&mut self.hands, patch);
        if begun.is_ok() || self.core.transition().is_some() {
            self.open(patch, PatchState::Patched);
        }
        if begun.is_err() {
            // If it could not even be undone: nobody has switched, and nobody will.
            self.history.turn(PatchState::Unpatched);
        }
        begun
    }

    pub fn disable(&mut self, patch: PatchId) -> Result<(), Error<Injected>> {
        let idle = self.core.transition().is_none();
        let begun = self.core.disable(&mut self.hands, patch);
        if begun.is_ok() {
            self.open(patch, PatchState::Unpatched);
        } else if idle && self.core.transition().is_some() {
            // It could not even be undone: nobody has switched, and nobody will.
            self.open(patch, PatchState::Unpatched);
            self.history.turn(PatchState::Patched);
        }
        begun
    }

    fn open(&mut self, patch: PatchId, target: PatchState) {
        let threads = self.hands.process.threads.iter();
        let alive = threads.filter(|thread| thread.alive);
        self.history
            .open(patch, target, alive.map(|thread| thread.id));
        if self.scope.control == Control::StaleLook {
            *self.stale = Some(self.behind(patch, target));
        }
    }

    pub fn reverse(&mut self, patch: PatchId, target: PatchState) -> Result<(), Error<Injected>> {
        self.core.reverse(&mut self.hands, patch, target)?;
        self.history.turn(target);
        if self.scope.control == Control::StaleTurn {
            *self.stale = Some(self.behind(patch, target));
        }
        Ok(())
    }

    pub fn start(&mut self, patch: PatchId) -> Result<(), Error<Injected>> {
        let target = self.core.transition().map(Transition::target);
        let fresh = target.map(|target| self.behind(patch, target));
        let behind = self.stale.take().or(fresh).unwrap_or_default();
        let with_doors: Vec<_> = behind
            .iter()
            .map(|thread| BlockedThread {
                thread: *thread,
                door: target.and_then(|target| self.door(patch, target, *thread)),
            })
            .collect();
        self.core.start(&mut self.hands, patch, &with_doors)?;
        self.history.start(&behind);
        Ok(())
    }

    pub fn start_nobody(&mut self, patch: PatchId) -> Result<(), Error<Injected>> {
        let threads = self.hands.process.threads.iter();
        let alive = threads.filter(|thread| thread.alive);
        let behind: Vec<_> = alive.map(|thread| thread.id).collect();
        let unreadable: Vec<_> = behind.iter().copied().map(BlockedThread::from).collect();
        self.core.start(&mut self.hands, patch, &unreadable)?;
        self.history.start(&behind);
        Ok(())
    }

    pub fn force(&mut self, patch: PatchId) -> Result<(), Error<Injected>> {
        let forced = self.core.force(&mut self.hands, patch);
        let Some(moving) = &mut self.history.transition else {
            return forced;
        };
        // Who has moved before it failed is only seen in what dispatch finds.
        let process = &mut *self.hands.process;
        let state = |thread| match forced {
            Ok(()) => moving.target,
            Err(_) => process.state(thread).expect("a transition"),
        };
        let everybody: Vec<_> = process.everybody().map(|it| (it, state(it))).collect();
        for (thread, state) in everybody {
            if thread == OBSERVER {
                moving.newborn = state;
            } else if let Some(universe) = moving.universes.get_mut(&thread)
                && *universe != state
            {
                *universe = state;
                let thread = process.thread(thread);
                thread.forced |= !thread.frames.is_empty();
            }
        }
        forced
    }

    pub fn switch(&mut self, thread: ThreadId) -> Result<(), Error<Injected>> {
        let Some(moving) = &self.history.transition else {
            return Ok(());
        };
        let (patch, target) = (moving.patch, moving.target);
        let alive = self.hands.process.thread(thread).alive;
        if alive && !self.behind(patch, target).contains(&thread) {
            self.core.switch_thread(&mut self.hands, patch, thread)?;
            self.history.switch(thread);
        }
        Ok(())
    }

    pub fn set_door(&mut self, thread: ThreadId) -> Result<(), Error<Injected>> {
        let Some(moving) = &self.history.transition else {
            return Ok(());
        };
        let (patch, target) = (moving.patch, moving.target);
        if let Some(door) = self.door(patch, target, thread) {
            self.core.set_door(&mut self.hands, patch, thread, &door)?;
        }
        Ok(())
    }

    /// The door of a thread, if it is inside.
    fn door(&self, patch: PatchId, target: PatchState, thread: ThreadId) -> Option<Door> {
        let leaving = self.leaving(patch, target);
        let mut threads = self.hands.process.threads.iter();
        let thread = threads.find(|it| it.id == thread && it.alive)?;
        let mut frames = thread.frames.iter();
        let is_inside = |frame: &Frame| leaving.contains(frame);
        let outermost = match self.scope.control {
            Control::InnerDoor => frames.rposition(is_inside)?,
            _ => frames.position(is_inside)?,
        };
        self.scope.doors.then(|| door(outermost))
    }

    pub fn exited(&mut self, thread: ThreadId) -> Result<(), Error<Injected>> {
        self.core.thread_exited(&mut self.hands, thread)?;
        self.history.exited(thread);
        Ok(())
    }

    /// The threads that a controller has to leave behind that looks at all stacks now.
    fn behind(&self, patch: PatchId, target: PatchState) -> Vec<ThreadId> {
        let leaving = self.leaving(patch, target);
        let blind = self.scope.control == Control::SwitchBlindly;
        let inside = |thread: &&Thread| {
            !blind && thread.alive && thread.frames.iter().any(|frame| leaving.contains(frame))
        };
        let threads = self.hands.process.threads.iter();
        threads.filter(inside).map(|thread| thread.id).collect()
    }

    /// What must not be left by whoever switches.
    fn leaving(&self, patch: PatchId, target: PatchState) -> Vec<Frame> {
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
        leaving
    }
}
