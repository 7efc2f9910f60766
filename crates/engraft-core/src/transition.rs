//! The transition: threads move, one by one, from one universe to the other.

use alloc::vec::Vec;

use crate::{
    Code, Error, Event, LinkAddress, Livepatch, Module, ModuleId, Patch, PatchId, Refusal,
    ThreadId, World, grow,
};

/// Which universe a thread is in, for the patch in transition (`task_struct::patch_state`; its
/// third value, "idle", is the absence of a transition here).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PatchState {
    /// Runs what there was without the patch.
    Unpatched,
    /// Runs what the patch brings.
    Patched,
}

impl PatchState {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Unpatched => Self::Patched,
            Self::Patched => Self::Unpatched,
        }
    }
}

/// What the caller saw of a stopped thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ThreadReport {
    /// The thread. Threads that share a thread pointer are reported once each, and switch together.
    pub thread: ThreadId,
    /// Whether nothing that [`Livepatch::leaving`] lists can be returned into on its stack.
    pub clear: bool,
}

/// Code that threads must not be inside of when they switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leaving {
    /// The module.
    pub module: ModuleId,
    /// The old function.
    pub function: LinkAddress,
    /// Which of its bodies.
    pub code: Code,
}

/// A thread that was there when the transition opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ThreadRecord {
    thread: ThreadId,
    state: PatchState,
    clear: bool,
}

/// A transition. There is at most one at a time.
///
/// Threads that it does not know were born after it opened: their stacks were empty, so they start
/// in the target universe and nobody waits for them.
#[cfg_attr(feature = "controls", derive(Clone))]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Transition {
    patch: PatchId,
    target: PatchState,
    /// Sorted by thread, each once.
    threads: Vec<ThreadRecord>,
    pub(crate) forced: bool,
    pub(crate) canceled: bool,
}

impl Transition {
    /// All threads begin in the universe that is to be left.
    pub(crate) fn new(
        patch: PatchId,
        target: PatchState,
        reports: &[ThreadReport],
    ) -> Result<Self, Refusal> {
        let mut threads = Vec::new();
        for report in reports {
            let ThreadReport { thread, clear } = *report;
            grow::push(
                &mut threads,
                ThreadRecord {
                    thread,
                    state: target.other(),
                    clear,
                },
            )?;
        }
        Ok(Self {
            patch,
            target,
            threads: merged(threads),
            forced: false,
            canceled: false,
        })
    }

    /// The same transition towards the other state. Threads that were born in between become known
    /// now: they are in the universe that was the target and have to leave it like the others.
    pub(crate) fn reversed(&self, all: &[ThreadId]) -> Result<Self, Refusal> {
        let mut threads = Vec::new();
        for thread in all.iter().copied() {
            let state = self.thread_state(thread);
            grow::push(
                &mut threads,
                ThreadRecord {
                    thread,
                    state,
                    clear: false,
                },
            )?;
        }
        let target = self.target.other();
        let Self {
            patch,
            forced,
            canceled,
            ..
        } = *self;
        Ok(Self {
            patch,
            target,
            threads: merged(threads),
            forced,
            canceled,
        })
    }

    /// The patch.
    pub const fn patch(&self) -> PatchId {
        self.patch
    }

    /// Where it leads.
    pub const fn target(&self) -> PatchState {
        self.target
    }

    /// Whether it only undoes what could not be done, and cannot be turned round.
    pub const fn is_canceled(&self) -> bool {
        self.canceled
    }

    /// The threads that have yet to switch.
    pub fn waiting(&self) -> impl Iterator<Item = ThreadId> + '_ {
        let waiting = self
            .threads
            .iter()
            .filter(|record| record.state != self.target);
        waiting.map(|record| record.thread)
    }

    /// The universe that a thread is in.
    pub fn thread_state(&self, thread: ThreadId) -> PatchState {
        match self
            .threads
            .binary_search_by_key(&thread, |record| record.thread)
        {
            Ok(index) => self
                .threads
                .get(index)
                .map_or(self.target, |record| record.state),
            Err(_) => self.target,
        }
    }

    pub(crate) fn states(&self) -> impl Iterator<Item = (ThreadId, PatchState)> + '_ {
        self.threads
            .iter()
            .map(|record| (record.thread, record.state))
    }

    /// Switches all threads for which `chosen` holds.
    fn switch<W: World>(&mut self, world: &mut W, chosen: impl Fn(&ThreadRecord) -> bool) {
        let target = self.target;
        for record in &mut self.threads {
            if record.state != target && chosen(record) {
                record.state = target;
                world.switch_thread(record.thread, target);
            }
        }
    }

    /// Switches the threads that were clear from the start.
    pub(crate) fn switch_clear<W: World>(&mut self, world: &mut W) {
        self.switch(world, |record| record.clear);
    }

    /// Nothing was patched, so everyone is in the universe that is to be restored.
    pub(crate) fn cancel(&mut self) {
        self.target = self.target.other();
        self.canceled = true;
    }
}

/// Sorted, each thread once, and clear only if it was so in every report.
fn merged(mut threads: Vec<ThreadRecord>) -> Vec<ThreadRecord> {
    threads.sort_unstable_by_key(|record| record.thread);
    threads.dedup_by(|later, kept| {
        let same = later.thread == kept.thread;
        kept.clear &= !same || later.clear;
        same
    });
    threads
}

impl Livepatch {
    /// Visits the bodies that a thread must not be inside of, or able to return into, when it
    /// switches to `target` of `patch`, which is prepared, enabled or in transition.
    ///
    /// Towards `Patched` these are what its funcs come on top of, and all code of the patches that
    /// it replaces: the kernel looks only at the former, and so may free code that a thread was
    /// forced past. Towards `Unpatched` it is all code of the patch, also where a newer one hides
    /// it.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotEnabled`].
    pub fn leaving(
        &self,
        patch: PatchId,
        target: PatchState,
        mut visit: impl FnMut(Leaving),
    ) -> Result<(), Refusal> {
        let mut known = self.patches.iter().chain(&self.prepared);
        let newest = known
            .find(|it| it.id() == patch)
            .ok_or(Refusal::NotEnabled(patch))?;
        for module in self.modules.iter().filter(|module| module.is_alive()) {
            if target == PatchState::Unpatched {
                each_body(module, newest, &mut visit);
                continue;
            }
            each_below(module, newest, &mut visit);
            let older = self.patches.iter().take_while(|it| it.id() != patch);
            for older in older.filter(|older| older.is_replaced_by(newest)) {
                each_body(module, older, &mut visit);
            }
        }
        Ok(())
    }

    /// Switches a thread that is clear now. Returns how many have yet to switch. A thread that is
    /// not known or has switched already is where it should be.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotInTransition`].
    pub fn switch_thread<W: World>(
        &mut self,
        world: &mut W,
        patch: PatchId,
        thread: ThreadId,
    ) -> Result<usize, Refusal> {
        let transition = self.transition_of(patch)?;
        transition.switch(world, |record| record.thread == thread);
        Ok(transition.waiting().count())
    }

    /// A thread has ended, and no other with the same thread pointer is left. Should its thread
    /// pointer be given to a new thread, that one counts as unknown. Returns how many have yet to
    /// switch.
    pub fn thread_exited<W: World>(&mut self, world: &mut W, thread: ThreadId) -> usize {
        let Some(transition) = &mut self.transition else {
            return 0;
        };
        transition.switch(world, |record| record.thread == thread);
        transition.threads.retain(|record| record.thread != thread);
        transition.waiting().count()
    }

    /// Turns the transition of `patch` round, towards `target`. All threads are stopped, and
    /// `threads` names them all; each keeps its universe until it is switched back. (The kernel
    /// does this for a write to `enabled` during the patch's transition.)
    ///
    /// # Errors
    ///
    /// [`Refusal::NotInTransition`], [`Refusal::AlreadyHeading`], [`Refusal::Canceled`],
    /// [`Refusal::OutOfMemory`], [`Error::Site`], [`Error::Threads`]: the transition goes on as it
    /// did; after the latter two, sites that sent everyone to one place may choose by thread
    /// again, which makes no difference.
    pub fn reverse<W: World>(
        &mut self,
        world: &mut W,
        patch: PatchId,
        target: PatchState,
        threads: &[ThreadId],
    ) -> Result<usize, Error<W::Error>> {
        let transition = self.transition_of(patch)?;
        if transition.canceled {
            return Err(Refusal::Canceled(patch).into());
        }
        if transition.target == target {
            return Err(Refusal::AlreadyHeading(patch).into());
        }
        let reversed = transition.reversed(threads)?;
        // Completing may have been tried, and may have failed after some sites.
        self.split_sites(world, patch)?;
        world
            .open_transition(target, &mut reversed.states())
            .map_err(|error| Error::Threads(patch, error))?;
        let waiting = reversed.waiting().count();
        self.transition = Some(reversed);
        world.event(Event::Reversing(patch, target));
        world.event(Event::Starting(patch, target));
        if let Some(patch) = self.patches.iter_mut().find(|it| it.id() == patch) {
            patch.enabled = target == PatchState::Patched;
        }
        Ok(waiting)
    }

    /// Declares all threads switched, wherever they are. What they may still be inside of is never
    /// released: the patch that leaves, or those that are replaced, can never come again.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotInTransition`]; [`Refusal::Canceled`], nobody waits then.
    pub fn force<W: World>(&mut self, world: &mut W, patch: PatchId) -> Result<(), Refusal> {
        let transition = self.transition_of(patch)?;
        if transition.canceled {
            return Err(Refusal::Canceled(patch));
        }
        world.event(Event::Forcing(patch, transition.target));
        transition.forced = true;
        transition.switch(world, |_| true);
        Ok(())
    }

    fn transition_of(&mut self, patch: PatchId) -> Result<&mut Transition, Refusal> {
        self.transition
            .as_mut()
            .filter(|transition| transition.patch == patch)
            .ok_or(Refusal::NotInTransition(patch))
    }
}

/// The bodies that a patch brings to a module; for a nop, the original.
fn each_body(module: &Module, patch: &Patch, visit: &mut impl FnMut(Leaving)) {
    let Some((id, object)) = patch.object(module.build_id()) else {
        return;
    };
    for (function, entry) in object.entries(id) {
        visit(Leaving {
            module: module.id(),
            function,
            code: entry.code(),
        });
    }
}

/// The bodies that run in a module where a patch's funcs are not on top, or not yet.
fn each_below(module: &Module, patch: &Patch, visit: &mut impl FnMut(Leaving)) {
    let Some((id, object)) = patch.object(module.build_id()) else {
        return;
    };
    for (function, entry) in object.entries(id) {
        let mut sites = module.sites().iter();
        let site = sites.find(|site| site.function() == function);
        if let Some(code) = site.map_or(Some(Code::Original), |site| site.below(entry.func)) {
            visit(Leaving {
                module: module.id(),
                function,
                code,
            });
        }
    }
}
