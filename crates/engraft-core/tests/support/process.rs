//! A process as data: what is mapped, where its sites lead, what its threads are inside of.
//!
//! It is the [`World`] of the core under test, and it complains about everything that would crash
//! or corrupt a real process.

use std::collections::BTreeMap;

use engraft_core::{
    Callback, CallbackScope, Code, Event, LinkAddress, ModuleId, ObjectId, PatchId, PatchState,
    SiteTarget, StateId, ThreadId, Trouble, World,
};

use super::explore::Violation;
use super::log::Log;

/// Where a module is in the loader's eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    Absent,
    /// Mapped and listed; the coming work has not begun.
    Visible,
    /// The coming work runs.
    Coming,
    /// Its code runs: constructors, then everybody.
    Present,
    /// Its destructors run.
    Exiting,
    /// The going work runs.
    Going,
    /// The loader has unmapped it; the core has not heard of it.
    Unmapped,
}

impl Phase {
    /// Whether threads may be inside.
    pub fn runs(self) -> bool {
        matches!(self, Self::Present | Self::Exiting)
    }

    fn mapped(self) -> bool {
        !matches!(self, Self::Absent | Self::Unmapped)
    }
}

/// A call that a thread is inside of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Frame {
    pub module: ModuleId,
    pub function: LinkAddress,
    pub code: Code,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Thread {
    pub id: ThreadId,
    pub alive: bool,
    /// Outermost first.
    pub frames: Vec<Frame>,
    /// Was declared switched while inside of what was to be left: all bets are off, except that
    /// nothing may crash, until it has left everything.
    pub forced: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageState {
    /// Preparing it failed half-way.
    Half,
    Whole,
}

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
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process {
    pub modules: BTreeMap<ModuleId, Phase>,
    pub images: BTreeMap<(ObjectId, ModuleId), ImageState>,
    pub sites: BTreeMap<(ModuleId, LinkAddress), SiteTarget>,
    pub threads: Vec<Thread>,
    /// What dispatch finds: the states of listed threads, and of all others.
    pub table: Option<(PatchState, BTreeMap<ThreadId, PatchState>)>,
    pub log: Log,
}

impl Thread {
    pub fn new(id: ThreadId) -> Self {
        Self {
            id,
            alive: true,
            frames: Vec::new(),
            forced: false,
        }
    }
}

impl Process {
    pub fn thread(&mut self, id: ThreadId) -> &mut Thread {
        self.threads
            .iter_mut()
            .find(|thread| thread.id == id)
            .expect("a thread of the scope")
    }

    /// Gives a module its next phase; its bytes are gone if it is not mapped then.
    pub fn enter(&mut self, module: ModuleId, phase: Phase) {
        self.modules.insert(module, phase);
        if !phase.mapped() {
            self.sites.retain(|(it, _), _| *it != module);
        }
    }

    /// Where a call by `thread` would go.
    pub fn resolve(&self, thread: ThreadId, module: ModuleId, function: LinkAddress) -> Code {
        match self
            .sites
            .get(&(module, function))
            .copied()
            .unwrap_or(SiteTarget::Original)
        {
            SiteTarget::Original => Code::Original,
            SiteTarget::Direct(func) => Code::Func(func),
            SiteTarget::Dispatch { old, new } => {
                let state = self
                    .table
                    .as_ref()
                    .map(|(others, threads)| threads.get(&thread).copied().unwrap_or(*others));
                match state {
                    Some(PatchState::Patched) => new,
                    Some(PatchState::Unpatched) | None => old,
                }
            }
        }
    }

    /// Nothing may refer to code that is not there.
    pub fn check_references(&self) -> Result<(), Violation> {
        for ((module, function), target) in &self.sites {
            if !self.modules[module].mapped() && self.modules[module] != Phase::Unmapped {
                return Err(format!(
                    "site {module:?} {function:?} of a module that is gone"
                ));
            }
            for code in codes(*target) {
                self.check_code(*module, code, "a site")?;
            }
            if matches!(target, SiteTarget::Dispatch { .. }) && self.table.is_none() {
                return Err(format!(
                    "site {module:?} {function:?} dispatches, no transition"
                ));
            }
        }
        for frame in self.threads.iter().flat_map(|thread| &thread.frames) {
            self.check_code(frame.module, frame.code, "a thread")?;
        }
        for (object, module) in self.images.keys() {
            if self.modules[module] == Phase::Absent {
                return Err(format!(
                    "{object:?} still has an image for {module:?}, which is gone"
                ));
            }
        }
        Ok(())
    }

    fn check_code(&self, module: ModuleId, code: Code, who: &str) -> Result<(), Violation> {
        let Code::Func(func) = code else {
            return Ok(());
        };
        let object = ObjectId {
            patch: func.patch,
            object: func.object,
        };
        match self.images.get(&(object, module)) {
            Some(ImageState::Whole) => Ok(()),
            state => Err(format!(
                "{who} uses {func:?} in {module:?}, whose image is {state:?}"
            )),
        }
    }
}

fn codes(target: SiteTarget) -> impl Iterator<Item = Code> {
    let (first, second) = match target {
        SiteTarget::Original => (None, None),
        SiteTarget::Direct(func) => (Some(Code::Func(func)), None),
        SiteTarget::Dispatch { old, new } => (Some(old), Some(new)),
    };
    first.into_iter().chain(second)
}

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
        threads: &mut dyn Iterator<Item = (ThreadId, PatchState)>,
    ) -> Result<(), Injected> {
        self.may_fail()?;
        self.process.table = Some((others, threads.collect()));
        Ok(())
    }

    fn switch_others(&mut self, state: PatchState) {
        let Some((others, _)) = &mut self.process.table else {
            return self.complain("others switched without a transition".into());
        };
        *others = state;
    }

    fn switch_thread(&mut self, thread: ThreadId, state: PatchState) {
        let Some((_, threads)) = &mut self.process.table else {
            return self.complain(format!("{thread:?} switched without a transition"));
        };
        threads.insert(thread, state);
    }

    fn close_transition(&mut self) {
        self.process.table = None;
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
