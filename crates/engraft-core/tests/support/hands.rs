//! The [`World`] of the core under test: it acts on a process made of data, and complains about
//! everything that would crash or corrupt a real one.

use engraft_core::dispatch::ListedThread;
use engraft_core::door::Door;
use engraft_core::{
    Callback, CallbackScope, Code, Event, LinkAddress, ModuleId, ObjectId, PatchId, PatchState,
    SiteTarget, StateId, ThreadId, Trouble, World,
};

use super::explore::Violation;
use super::process::{ImageState, Phase, Process};

/// A world that breaks a rule, to see that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sabotage {
    #[default]
    None,
    /// Forgets what the patch that refused a module left behind, as the kernel does.
    KeepHalfImages,
    /// Lets a patch bind to a module that is only visible.
    BindVisible,
    /// A module that comes during a transition gets the new code for everyone.
    NoDispatchForComers,
    /// Says that it could not move the others when it has.
    MoveAndFail,
    /// Does not close doors.
    KeepDoors,
}

/// The door of a thread that has left when it has at most so many frames. In this process each
/// frame has eight bytes.
pub fn door(frames: usize) -> Door {
    Door {
        own_stack: [0; 2],
        low: 8,
        return_to: 0,
        depths: [STACK_END - 8 * frames as u64, 0, 0, 0],
    }
}

const STACK_END: u64 = 800;

/// A call that failed on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Injected;

/// The process while the core works on it.
pub struct Hands<'process> {
    pub process: &'process mut Process,
    /// Which of the calls that may fail do: bit n is for the n-th.
    pub fail: u64,
    /// How many such calls there were, and how many of them failed.
    pub calls: u32,
    pub failures: usize,
    pub sabotage: Sabotage,
    pub events: Vec<Event>,
    pub troubles: Vec<Trouble>,
    pub violation: Option<Violation>,
}

impl<'process> Hands<'process> {
    pub fn new(process: &'process mut Process, fail: u64, sabotage: Sabotage) -> Self {
        Self {
            process,
            fail,
            calls: 0,
            failures: 0,
            sabotage,
            events: Vec::new(),
            troubles: Vec::new(),
            violation: None,
        }
    }

    fn may_fail(&mut self) -> Result<(), Injected> {
        let fails = self
            .fail
            .checked_shr(self.calls)
            .is_some_and(|fail| fail & 1 == 1);
        self.calls += 1;
        if fails { self.fails() } else { Ok(()) }
    }

    fn fails(&mut self) -> Result<(), Injected> {
        self.failures += 1;
        Err(Injected)
    }

    fn complain(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }
}

impl World for Hands<'_> {
    type Error = Injected;

    fn prepare_object(&mut self, object: ObjectId, module: ModuleId) -> Result<(), Injected> {
        let phase = self.process.modules[&module];
        let unmapped = phase == Phase::Unmapped;
        if !unmapped && !matches!(phase, Phase::Coming | Phase::Present | Phase::Exiting) {
            self.complain(format!(
                "{object:?} bound to {module:?}, which is {phase:?}"
            ));
        }
        let key = (object, module);
        if self.process.images.insert(key, ImageState::Half).is_some() {
            self.complain(format!("{object:?} prepared twice for {module:?}"));
        }
        self.may_fail()?;
        // The loader can take a module away without notice; the world then finds no old code to
        // compare.
        if unmapped {
            return self.fails();
        }
        self.process.images.insert(key, ImageState::Whole);
        Ok(())
    }

    fn release_object(&mut self, object: ObjectId, module: ModuleId) -> Result<(), Injected> {
        let key = (object, module);
        if self.sabotage == Sabotage::KeepHalfImages
            && self.process.images.get(&key) == Some(&ImageState::Half)
        {
            return Ok(());
        }
        if self.process.images.remove(&key).is_none() {
            self.complain(format!(
                "{object:?} released for {module:?}, where it is not"
            ));
        }
        self.may_fail()
    }

    fn release_patch(&mut self, patch: PatchId) {
        if self
            .process
            .images
            .keys()
            .any(|(object, _)| object.patch == patch)
        {
            self.complain(format!("{patch:?} released before its images"));
        }
    }

    fn release_state(&mut self, _: PatchId, _: StateId) {}

    fn callback(&mut self, _: Callback, _: CallbackScope) -> Result<(), Injected> {
        self.may_fail()
    }

    fn write_site(
        &mut self,
        module: ModuleId,
        function: LinkAddress,
        target: SiteTarget,
    ) -> Result<(), Injected> {
        let phase = self.process.modules[&module];
        if phase == Phase::Unmapped {
            return self.fails();
        }
        if !phase.mapped() {
            self.complain(format!(
                "{function:?} of {module:?} written, which is {phase:?}"
            ));
        }
        self.may_fail()?;
        let target = match target {
            SiteTarget::Dispatch {
                new: Code::Func(new),
                ..
            } if phase == Phase::Coming && self.sabotage == Sabotage::NoDispatchForComers => {
                SiteTarget::Direct(new)
            }
            target => target,
        };
        let key = (module, function);
        if target == SiteTarget::Original {
            self.process.sites.remove(&key);
        } else {
            self.process.sites.insert(key, target);
        }
        Ok(())
    }

    fn open_transition(
        &mut self,
        others: PatchState,
        threads: &mut dyn Iterator<Item = ListedThread>,
    ) -> Result<(), Injected> {
        self.may_fail()?;
        let states = |process: &Process| -> Vec<_> {
            process.everybody().map(|it| process.state(it)).collect()
        };
        let open = self.process.table.is_some();
        let before = states(self.process);
        let threads: Vec<_> = threads.collect();
        self.process.doors.clear();
        for it in &threads {
            if let Some(door) = &it.door {
                self.set_door(it.thread, door);
            }
        }
        let threads = threads.iter().map(|it| (it.thread, it.state));
        self.process.table = Some((others, threads.collect()));
        if open && states(self.process) != before {
            self.complain("listing has moved somebody".into());
        }
        Ok(())
    }

    fn switch_others(&mut self, state: PatchState) -> Result<(), Injected> {
        let failed = self.may_fail();
        if failed.is_err() && self.sabotage != Sabotage::MoveAndFail {
            return failed;
        }
        match &mut self.process.table {
            Some((others, _)) => *others = state,
            None => self.complain("others switched without a transition".into()),
        }
        failed
    }

    fn switch_thread(&mut self, thread: ThreadId, state: PatchState) -> Result<(), Injected> {
        self.may_fail()?;
        match &mut self.process.table {
            Some((others, threads)) if *others == state && threads.contains_key(&thread) => {
                threads.insert(thread, state);
            }
            table => {
                let what = format!("{thread:?} switched to {state:?}, with {table:?}");
                self.complain(what);
            }
        }
        Ok(())
    }

    fn thread_state(&mut self, thread: ThreadId) -> Option<PatchState> {
        let (_, threads) = self.process.table.as_ref()?;
        threads.get(&thread).copied()
    }

    fn shut_door(&mut self, thread: ThreadId) -> Option<PatchState> {
        if self.sabotage != Sabotage::KeepDoors {
            self.process.doors.remove(&thread);
        }
        self.thread_state(thread)
    }

    fn set_door(&mut self, thread: ThreadId, door: &Door) {
        let frames = (STACK_END - door.depths[0]) / 8;
        self.process.doors.insert(thread, frames as usize);
    }

    fn close_transition(&mut self) {
        self.process.table = None;
        self.process.doors.clear();
    }

    fn event(&mut self, event: Event) {
        self.events.push(event);
        if let Err(what) = self.process.log.accept(event) {
            self.complain(what);
        }
    }

    fn report(&mut self, trouble: Trouble, _: Injected) {
        self.troubles.push(trouble);
    }
}
