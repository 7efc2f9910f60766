//! Out of memory is an ordinary error: every allocation of every request fails once, and each time
//! the request is refused and nothing has changed. One that could not fail would abort this test.

#![expect(
    unsafe_code,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "an allocator is unsafe by nature, and tests may say so in one word"
)]

#[path = "support/fine.rs"]
mod fine;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use engraft_core::{
    BuildId, Callbacks, Error, LinkAddress, Livepatch, ModuleId, ObjectDefinition, PatchDefinition,
    PatchId, PatchState, Refusal, ShadowError, ShadowStore, StateDefinition, StateId, ThreadId,
};
use fine::Fine;

thread_local! {
    /// How many allocations this thread may still make; `None` for any number.
    static BUDGET: Cell<Option<usize>> = const { Cell::new(None) };
}

struct Failing;

impl Failing {
    fn may() -> bool {
        BUDGET.with(|budget| match budget.get() {
            None => true,
            Some(0) => false,
            Some(left) => {
                budget.set(Some(left - 1));
                true
            }
        })
    }
}

// SAFETY: hands everything on to the system's allocator, or returns null, which is allowed.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !Self::may() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps this function's contract, which is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from the system's allocator, in `alloc` or `realloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !Self::may() {
            return std::ptr::null_mut();
        }
        // SAFETY: as in `dealloc`. Null, above, leaves the old block as it is.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

fn build_id(name: &str) -> BuildId {
    BuildId::new(name.as_bytes()).expect("short")
}

fn definition(name: &str, replace: bool, funcs: u64) -> PatchDefinition {
    let object = |name| ObjectDefinition {
        build_id: build_id(name),
        funcs: (1..=funcs).map(LinkAddress).collect(),
        callbacks: Callbacks::ALL,
    };
    let state = StateDefinition {
        id: StateId(1),
        version: 1,
        callbacks: Callbacks::ALL,
        shadow: true,
    };
    PatchDefinition {
        name: name.into(),
        set: vec![],
        replace,
        objects: vec![object("program"), object("library")],
        states: vec![state],
    }
}

/// Repeats `request` with one more allocation each time, until it succeeds. `undone` is what a
/// failure has to leave.
#[track_caller]
fn starve<T: Clone + PartialEq + std::fmt::Debug, I, E: PartialEq + std::fmt::Debug>(
    start: &T,
    undone: &T,
    input: impl Fn() -> I,
    request: impl Fn(&mut T, I) -> Result<(), E>,
    out_of_memory: E,
) -> T {
    for allocations in 0.. {
        let (mut state, input) = (start.clone(), input());
        BUDGET.with(|budget| budget.set(Some(allocations)));
        let result = request(&mut state, input);
        BUDGET.with(|budget| budget.set(None));
        match result {
            Ok(()) => return state,
            Err(error) => assert_eq!(error, out_of_memory),
        }
        assert_eq!(state, *undone, "with {allocations} allocations");
        assert!(allocations < 1000, "never succeeds");
    }
    unreachable!("the loop has no end")
}

const NONE: Error<()> = Error::Refused(Refusal::OutOfMemory);
const LIBRARY: ModuleId = ModuleId(1);

#[test]
fn every_allocation_may_fail() {
    let behind = [3, 1, 2, 1].map(|it| ThreadId(it).into());
    let old = PatchId(1);
    let new = PatchId(2);

    let empty = Livepatch::new();
    let adopt = |core: &mut Livepatch, ()| {
        core.adopt_live_module(ModuleId(0), build_id("program"))
            .map_err(Error::from)
    };
    let core = starve(&empty, &empty, || (), adopt, NONE);

    let prepare = |patch| move |core: &mut Livepatch, it| core.prepare(&mut Fine, patch, it);
    let core = starve(
        &core,
        &core,
        || definition("old", false, 2),
        prepare(old),
        NONE,
    );

    let mut abandoned = core.clone();
    abandoned.abandon(&mut Fine, old).expect("prepared");
    let begin = |patch| move |core: &mut Livepatch, ()| core.begin(&mut Fine, patch);
    let mut core = starve(&core, &abandoned, || (), begin(old), NONE);
    core.start(&mut Fine, old, &[]).expect("begun");
    core.complete(&mut Fine, old).expect("nobody waits");

    let come =
        |core: &mut Livepatch, ()| core.module_coming(&mut Fine, LIBRARY, build_id("library"));
    let core = starve(&core, &core, || (), come, NONE);

    let prepared = starve(
        &core,
        &core,
        || definition("new", true, 1),
        prepare(new),
        NONE,
    );
    let begun = starve(&prepared, &core, || (), begin(new), NONE);

    let start = |core: &mut Livepatch, ()| core.start(&mut Fine, new, &behind).map(|_| ());
    let mut forced = starve(&begun, &begun, || (), start, NONE);

    // What turns round and ends things needs no memory at all; what starts it again does.
    BUDGET.with(|budget| budget.set(Some(0)));
    let reversed = forced.reverse(&mut Fine, new, PatchState::Unpatched);
    BUDGET.with(|budget| budget.set(None));
    assert_eq!(reversed, Ok(()));
    starve(&forced, &forced, || (), start, NONE);
    BUDGET.with(|budget| budget.set(Some(0)));
    let reversed = forced.reverse(&mut Fine, new, PatchState::Patched);
    let switched = forced.switch_thread(&mut Fine, new, ThreadId(3));
    let exited = forced.thread_exited(&mut Fine, ThreadId(2));
    let force = forced.force(&mut Fine, new);
    BUDGET.with(|budget| budget.set(None));
    assert_eq!(
        (reversed, switched, exited, force),
        (Ok(()), Ok(2), Ok(1), Ok(()))
    );

    let complete = |core: &mut Livepatch, ()| core.complete(&mut Fine, new);
    let core = starve(&forced, &forced, || (), complete, NONE);

    // Nor does disabling, unless somebody stays behind.
    let mut core = core;
    BUDGET.with(|budget| budget.set(Some(0)));
    let disabled = core.disable(&mut Fine, new);
    let started = core.start(&mut Fine, new, &[]);
    let completed = core.complete(&mut Fine, new);
    let gone = core.module_going(&mut Fine, LIBRARY);
    BUDGET.with(|budget| budget.set(None));
    assert_eq!((disabled, started), (Ok(()), Ok(0)));
    assert_eq!((completed, gone), (Ok(()), Ok(())));
}

#[test]
fn shadow_variables() {
    let store = ShadowStore::new();
    let alloc = |store: &mut ShadowStore, ()| store.alloc(1, 2, || Ok::<_, ()>(3)).map(|_| ());
    starve(&store, &store, || (), alloc, ShadowError::OutOfMemory);
}
