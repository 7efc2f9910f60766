//! What is explored: which patches, modules and threads there are, and what can happen to them.
//!
//! The main program has the function a; a library has b, and the modules are instances of it.

use engraft_core::{
    BuildId, Callbacks, FuncId, LinkAddress, ModuleId, ObjectDefinition, PatchDefinition, PatchId,
    StateDefinition, StateId, ThreadId,
};

pub const A: LinkAddress = LinkAddress(0xa);
pub const B: LinkAddress = LinkAddress(0xb);
pub const MAIN: ModuleId = ModuleId(0);
pub const M: ModuleId = ModuleId(1);
pub const N: ModuleId = ModuleId(2);
pub const T1: ThreadId = ThreadId(1);

pub fn program() -> BuildId {
    BuildId::new(b"a").expect("short")
}

pub fn library() -> BuildId {
    BuildId::new(b"b").expect("short")
}

/// Which of the two functions a patch changes.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub a: bool,
    pub b: bool,
    pub replace: bool,
    pub callbacks: Callbacks,
    /// The version of state 1 that it has.
    pub state: Option<u32>,
}

impl Plan {
    pub const BOTH: Self = Self {
        a: true,
        b: true,
        replace: false,
        callbacks: Callbacks::ALL,
        state: None,
    };

    pub fn definition(&self, patch: PatchId) -> PatchDefinition {
        let object = |build_id, funcs| ObjectDefinition {
            build_id,
            funcs,
            callbacks: self.callbacks,
        };
        let main = self.a.then(|| object(program(), vec![A]));
        let library = self.b.then(|| object(library(), vec![B]));
        let state = self.state.map(|version| StateDefinition {
            id: StateId(1),
            version,
            callbacks: self.callbacks,
            shadow: true,
        });
        PatchDefinition {
            name: vec![b'0' + patch.0 as u8],
            set: Vec::new(),
            replace: self.replace,
            objects: main.into_iter().chain(library).collect(),
            states: state.into_iter().collect(),
        }
    }

    /// The func that the patch has for a function.
    pub fn func(&self, patch: PatchId, function: LinkAddress) -> Option<FuncId> {
        let object = if function == A {
            self.a.then_some(0)
        } else {
            self.b.then_some(self.a.into())
        };
        object.map(|object| FuncId {
            patch,
            object,
            func: 0,
        })
    }
}

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Control {
    #[default]
    None,
    /// Rules 1 and 2: before 2015, a patch bound to whatever was visible.
    BindByName,
    /// Rule 3: the module's code runs before the coming work.
    RunBeforeComing,
    /// Rule 4: what a patch left behind that refused a module is forgotten.
    KeepHalfImages,
    /// Rule 5: the patches leave before the destructors have run.
    GoBeforeDestructors,
    /// Rule 5: the module is unmapped and nobody says so.
    UnmapSilently,
    /// Rule 6: a module that comes in a transition gets the new code for everyone.
    NoDispatchForComers,
    /// Threads switch without a look at their stacks.
    SwitchBlindly,
    /// Threads are let go with what was seen of their stacks when the transition opened.
    StaleLook,
    /// The same with what was seen when it was turned round; at first they look when they should.
    StaleTurn,
    /// The others move, and it is taken for a failure.
    MoveAndFail,
    /// The door is that of a frame that is not the outermost replaced one, as from a walk that
    /// broke.
    InnerDoor,
    /// Doors stay open when a transition is turned round.
    DoorsStayOpen,
}

/// What can happen and what cannot.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The patches, numbered from 1.
    pub plans: Vec<Plan>,
    pub modules: Vec<ModuleId>,
    pub threads: u64,
    /// Whether threads may call b from within a.
    pub nested: bool,
    /// Whether threads may end, and begin again with the same thread pointer.
    pub births: bool,
    /// Whether threads that are inside get a door.
    pub doors: bool,
    /// Whether it happens that no stack can be read when threads are let go.
    pub unreadable: bool,
    /// Whether requests are also made that have to be refused.
    pub nonsense: bool,
    pub reverse: bool,
    pub force: bool,
    /// Whether every call of the world that can fail does so once.
    pub faults: bool,
    /// Whether modules may vanish without notice.
    pub vanish: bool,
    pub control: Control,
    /// Only violations whose text contains this are looked for.
    pub only: &'static str,
}

impl Scope {
    pub fn new(plans: Vec<Plan>) -> Self {
        Self {
            plans,
            modules: vec![M],
            threads: 0,
            nested: true,
            births: false,
            doors: true,
            unreadable: false,
            nonsense: true,
            reverse: true,
            force: false,
            faults: false,
            vanish: false,
            control: Control::None,
            only: "",
        }
    }

    pub fn plan(&self, patch: PatchId) -> &Plan {
        &self.plans[patch.0 as usize - 1]
    }

    pub fn patches(&self) -> impl Iterator<Item = PatchId> + use<> {
        (1..=self.plans.len() as u32).map(PatchId)
    }
}
