//! A process as data: what is mapped, where its sites lead, what its threads are inside of.
//!
//! What the core under test does to it is in [`hands`](super::hands).

use std::collections::BTreeMap;

use engraft_core::{Code, LinkAddress, ModuleId, ObjectId, PatchState, SiteTarget, ThreadId};

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

    pub fn mapped(self) -> bool {
        !matches!(self, Self::Absent | Self::Unmapped)
    }
}

/// A thread that is yet to be born.
pub const OBSERVER: ThreadId = ThreadId(u64::MAX);

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

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process {
    pub modules: BTreeMap<ModuleId, Phase>,
    pub images: BTreeMap<(ObjectId, ModuleId), ImageState>,
    pub sites: BTreeMap<(ModuleId, LinkAddress), SiteTarget>,
    pub threads: Vec<Thread>,
    /// What dispatch finds: the states of listed threads, and of all others.
    pub table: Option<(PatchState, BTreeMap<ThreadId, PatchState>)>,
    /// The threads that switch by themselves, and how many frames each has at most when it has
    /// left.
    pub doors: BTreeMap<ThreadId, usize>,
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

    /// The state that dispatch finds for a thread.
    pub fn state(&self, thread: ThreadId) -> Option<PatchState> {
        let (others, threads) = self.table.as_ref()?;
        Some(threads.get(&thread).copied().unwrap_or(*others))
    }

    /// What dispatch does with a thread's door when it calls a patched function; whether the thread
    /// switches.
    pub fn pass_door(&mut self, thread: ThreadId) -> Option<PatchState> {
        let most = *self.doors.get(&thread)?;
        let frames = self.thread(thread).frames.len();
        let (others, threads) = self.table.as_mut()?;
        let state = threads.get_mut(&thread)?;
        if state == others {
            // The others have not moved.
            self.doors.remove(&thread);
            return None;
        }
        if frames > most {
            return None;
        }
        *state = *others;
        self.doors.remove(&thread);
        Some(*others)
    }

    /// All threads, and one that is yet to be born.
    pub fn everybody(&self) -> impl Iterator<Item = ThreadId> + '_ {
        let threads = self.threads.iter().map(|thread| thread.id);
        threads.chain([OBSERVER])
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
            SiteTarget::Dispatch { old, new } => match self.state(thread) {
                Some(PatchState::Patched) => new,
                Some(PatchState::Unpatched) | None => old,
            },
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
