//! The commands of a transition: most threads switch while all are stopped, the others one by one.

use alloc::vec::Vec;

use engraft_abi::{Outcome, ThreadRecord};
use engraft_core::door::Door;
use engraft_core::{BlockedThread, Error, PatchId, ThreadId, Transition};

use crate::model::agent::{Agent, extend, refusal};
use crate::patch::dispatch;
use crate::system::control::Answer;
use crate::system::failure::Failure;

impl Agent {
    /// Enables a prepared patch. All threads are stopped; those in `behind` are not clear.
    pub(crate) fn enable(&mut self, patch: PatchId, behind: &[ThreadRecord]) -> Answer {
        self.forget_unmapped()?;
        // Before new code can be on a stack.
        self.host.unwinders.redirect(self.host.writer, true, None)?;
        let begun = self.core.begin(&mut self.host, patch);
        begun.map_err(|error| self.describe(error))?;
        self.start_or_undo(patch, behind)
    }

    /// Disables a patch. All threads are stopped; those in `behind` are not clear of its code.
    pub(crate) fn disable(&mut self, patch: PatchId, behind: &[ThreadRecord]) -> Answer {
        self.forget_unmapped()?;
        let begun = self.core.disable(&mut self.host, patch);
        begun.map_err(|error| self.describe(error))?;
        self.start_or_undo(patch, behind)
    }

    /// Starts a transition that was opened or reversed: switches all threads but those in `behind`,
    /// which are not clear. All threads are stopped.
    pub(crate) fn start(&mut self, patch: PatchId, behind: &[ThreadRecord]) -> Answer {
        dispatch::reserve(behind.len())?;
        let mut threads = Vec::new();
        extend(
            &mut threads,
            behind.iter().map(|it| BlockedThread {
                thread: ThreadId(it.pointer),
                door: door(it),
            }),
        )?;
        let started = self.core.start(&mut self.host, patch, &threads);
        match started.map_err(|error| self.describe(error))? {
            0 => self.complete(patch),
            waiting => Ok((Outcome::Done, waiting as u64)),
        }
    }

    /// Starts a transition that has just been opened. If no thread could be switched, the
    /// transition is undone.
    fn start_or_undo(&mut self, patch: PatchId, behind: &[ThreadRecord]) -> Answer {
        let started = self.start(patch, behind);
        let is_open = |transition: &Transition| transition.is_started();
        if started.is_err() && self.core.transition().is_some_and(|it| !is_open(it)) {
            let target = self.core.transition().map(|it| it.target().other());
            if let Some(target) = target
                && self.core.reverse(&mut self.host, patch, target).is_ok()
            {
                // If that fails as well, the transition stays open for the next controller.
                let _ = self.complete(patch);
            }
        }
        started
    }

    /// Reverses the transition of a patch. All threads are stopped; those in `behind` are not clear
    /// of the code that is to be left now.
    pub(crate) fn reverse(&mut self, patch: PatchId, behind: &[ThreadRecord]) -> Answer {
        let transition = self.in_transition(patch)?;
        let target = transition.target().other();
        let reversed = self.core.reverse(&mut self.host, patch, target);
        reversed.map_err(|error| self.describe(error))?;
        let transition = self.in_transition(patch)?;
        match (transition.is_started(), transition.waiting().count()) {
            (false, _) => self.start(patch, behind),
            // The blocked threads of the transition before are waited for.
            (true, 0) => self.complete(patch),
            (true, waiting) => Ok((Outcome::Done, waiting as u64)),
        }
    }

    /// Switches one thread, which is stopped and clear.
    pub(crate) fn switch(&mut self, patch: PatchId, thread: ThreadId) -> Answer {
        let switched = self.core.switch_thread(&mut self.host, patch, thread);
        let waiting = switched.map_err(|error| self.describe(error))?;
        Ok((Outcome::Done, waiting as u64))
    }

    /// Notes how the one blocked thread of the list may switch by itself. It is stopped.
    pub(crate) fn set_door(&mut self, patch: PatchId, list: &[ThreadRecord]) -> Answer {
        let mut waiting = self.core.note_switched(&mut self.host);
        for it in list {
            if let Some(door) = door(it) {
                let thread = ThreadId(it.pointer);
                let set = self.core.set_door(&mut self.host, patch, thread, &door);
                waiting = set.map_err(refusal)?;
            }
        }
        Ok((Outcome::Done, waiting as u64))
    }

    /// Notes that the last thread with a thread pointer has ended.
    pub(crate) fn thread_exited(&mut self, patch: PatchId, thread: ThreadId) -> Answer {
        self.in_transition(patch)?;
        let exited = self.core.thread_exited(&mut self.host, thread);
        let waiting = exited.map_err(|error| self.describe(error))?;
        Ok((Outcome::Done, waiting as u64))
    }

    /// Completes a transition that waits for no thread. All threads are stopped.
    pub(crate) fn complete(&mut self, patch: PatchId) -> Answer {
        self.forget_unmapped()?;
        // What an earlier command could not undo, that command has reported.
        self.host.trouble = None;
        let completed = self.core.complete(&mut self.host, patch);
        completed.map_err(|error| self.describe(error))?;
        if let Some(failure) = self.host.trouble.take() {
            return Err(failure);
        }
        if self.core.patches().is_empty() && self.core.forced().next().is_none() {
            // The loader gets its own bytes back, too.
            self.detach()?;
        }
        Ok((Outcome::Done, 0))
    }

    /// Completes a transition wherever threads are. All threads are stopped.
    pub(crate) fn force(&mut self, patch: PatchId) -> Answer {
        let forced = self.core.force(&mut self.host, patch);
        forced.map_err(|error| self.describe(error))?;
        self.complete(patch)
    }

    fn in_transition(&self, patch: PatchId) -> Result<&Transition, Failure> {
        let transition = self.core.transition();
        transition
            .filter(|transition| transition.patch() == patch)
            .ok_or_else(|| {
                self.describe(Error::from(engraft_core::Refusal::NotInTransition(patch)))
            })
    }
}

/// The door of a thread, if the controller has found one.
fn door(thread: &ThreadRecord) -> Option<Door> {
    let door = Door {
        own_stack: thread.own_stack,
        low: thread.low,
        return_to: thread.return_to,
        depths: thread.depths,
    };
    door.is_sound().then_some(door)
}
