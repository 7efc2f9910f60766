//! Bad input: each kind has its own refusal, and changes nothing.

#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "tests may say so in one word, and abort without memory"
)]

#[path = "support/fine.rs"]
mod fine;

use engraft_core::{
    BuildId, Callbacks, Error, LinkAddress, Livepatch, ModuleId, ObjectDefinition, PatchDefinition,
    PatchId, PatchState, Refusal, StateDefinition, StateId, ThreadId, ThreadReport,
};
use fine::Fine;

const PROGRAM: ModuleId = ModuleId(0);
const OLD: PatchId = PatchId(1);
const NEW: PatchId = PatchId(2);
const BUSY: [ThreadReport; 1] = [ThreadReport {
    thread: ThreadId(1),
    clear: false,
}];

fn build_id() -> BuildId {
    BuildId::new(b"program").expect("short")
}

fn object(funcs: &[u64]) -> ObjectDefinition {
    ObjectDefinition {
        build_id: build_id(),
        funcs: funcs.iter().copied().map(LinkAddress).collect(),
        callbacks: Callbacks::default(),
    }
}

fn state(id: u64, version: u32) -> StateDefinition {
    let (id, callbacks) = (StateId(id), Callbacks::default());
    StateDefinition {
        id,
        version,
        callbacks,
        shadow: false,
    }
}

fn patch(name: &str, funcs: &[u64]) -> PatchDefinition {
    PatchDefinition {
        name: name.into(),
        objects: vec![object(funcs)],
        ..PatchDefinition::default()
    }
}

fn in_set(set: &str, definition: PatchDefinition) -> PatchDefinition {
    PatchDefinition {
        set: set.into(),
        replace: true,
        ..definition
    }
}

fn with_states(states: Vec<StateDefinition>, definition: PatchDefinition) -> PatchDefinition {
    PatchDefinition {
        states,
        ..definition
    }
}

/// A process with one enabled patch.
fn enabled(definition: PatchDefinition) -> Livepatch {
    let mut core = Livepatch::new();
    core.adopt_live_module(PROGRAM, build_id()).expect("empty");
    core.prepare(&mut Fine, OLD, definition).expect("fits");
    core.begin(&mut Fine, OLD, &[]).expect("prepared");
    core.complete(&mut Fine, OLD).expect("nobody waits");
    core
}

#[track_caller]
fn refuses(old: PatchDefinition, new: PatchDefinition, refusal: Refusal) {
    let mut core = enabled(old);
    let before = core.clone();
    assert_eq!(
        core.prepare(&mut Fine, NEW, new),
        Err(Error::Refused(refusal))
    );
    assert_eq!(core, before);
}

#[test]
fn patches_that_contradict_themselves() {
    let old = || patch("old", &[1]);
    let nothing = PatchDefinition {
        objects: vec![],
        ..patch("new", &[])
    };
    refuses(old(), nothing, Refusal::NoObjects);
    let twice = PatchDefinition {
        objects: vec![object(&[2]), object(&[3])],
        ..old()
    };
    refuses(old(), twice, Refusal::DuplicateObject(build_id()));
    let function = Refusal::DuplicateFunction(build_id(), LinkAddress(3));
    refuses(old(), patch("new", &[3, 2, 3]), function);
    let states = with_states(vec![state(7, 1), state(7, 2)], patch("new", &[2]));
    refuses(old(), states, Refusal::DuplicateState(StateId(7)));
}

#[test]
fn the_same_patch_twice() {
    refuses(
        patch("same", &[1]),
        patch("same", &[2]),
        Refusal::AlreadyEnabled(OLD),
    );
    let mut core = enabled(patch("old", &[1]));
    let result = core.prepare(&mut Fine, OLD, patch("new", &[1]));
    assert_eq!(result, Err(Error::Refused(Refusal::PatchIdInUse(OLD))));
}

#[test]
fn sets_share_nothing() {
    let function = Refusal::FunctionOfAnotherSet(OLD, build_id(), LinkAddress(1));
    refuses(
        in_set("x", patch("old", &[1])),
        in_set("y", patch("new", &[2, 1])),
        function,
    );
    refuses(
        in_set("x", patch("old", &[1])),
        patch("new", &[1]),
        function,
    );
    let states = |name, set| in_set(set, with_states(vec![state(7, 1)], patch(name, &[])));
    refuses(
        states("old", "x"),
        states("new", "y"),
        Refusal::StateOfAnotherSet(OLD, StateId(7)),
    );
}

/// Two sets live side by side, and a patch replaces only those of its own.
#[test]
fn sets_replace_only_their_own() {
    let mut core = enabled(in_set("x", patch("x1", &[1])));
    for (id, definition) in [
        (2, in_set("y", patch("y1", &[2]))),
        (3, in_set("x", patch("x2", &[3]))),
    ] {
        core.prepare(&mut Fine, PatchId(id), definition)
            .expect("fits");
        core.begin(&mut Fine, PatchId(id), &[]).expect("prepared");
        core.complete(&mut Fine, PatchId(id)).expect("nobody waits");
    }
    let listed: Vec<_> = core.patches().iter().map(|patch| patch.id()).collect();
    assert_eq!(listed, [PatchId(2), PatchId(3)]);
    let sites = core.module(PROGRAM).expect("adopted").sites();
    let functions: Vec<_> = sites.iter().map(|site| site.function()).collect();
    assert_eq!(functions, [LinkAddress(2), LinkAddress(3)]);
}

#[test]
fn states_go_forward_only() {
    let old = || with_states(vec![state(7, 2)], patch("old", &[1]));
    let replacing = |states| {
        with_states(
            states,
            PatchDefinition {
                replace: true,
                ..patch("new", &[1])
            },
        )
    };
    refuses(
        old(),
        replacing(vec![]),
        Refusal::UnknownState(OLD, StateId(7)),
    );
    let older = Refusal::OlderState {
        patch: OLD,
        state: StateId(7),
        installed: 2,
        offered: 1,
    };
    refuses(old(), replacing(vec![state(7, 1)]), older);
    // Without replacing, a patch need not know the states of others.
    let mut core = enabled(old());
    assert_eq!(core.prepare(&mut Fine, NEW, patch("new", &[1])), Ok(()));
    assert_eq!(core.state_version(StateId(7)), Some(2));
}

#[test]
fn one_transition_at_a_time() {
    let mut core = enabled(patch("old", &[1]));
    core.prepare(&mut Fine, NEW, patch("new", &[1]))
        .expect("fits");
    let third = PatchId(3);
    let busy = |patch| Err(Error::Refused(Refusal::Busy(patch)));
    // Also between preparing and beginning.
    assert_eq!(
        core.prepare(&mut Fine, third, patch("third", &[1])),
        busy(NEW)
    );
    assert_eq!(core.disable(&mut Fine, OLD, &[]).map(|_| ()), busy(NEW));
    assert_eq!(core.begin(&mut Fine, NEW, &BUSY), Ok(1));
    let before = core.clone();
    assert_eq!(
        core.prepare(&mut Fine, third, patch("third", &[1])),
        busy(NEW)
    );
    assert_eq!(core.disable(&mut Fine, OLD, &[]).map(|_| ()), busy(NEW));
    assert_eq!(core.disable(&mut Fine, NEW, &[]).map(|_| ()), busy(NEW));
    let waiting = Err(Error::Refused(Refusal::Waiting(1)));
    assert_eq!(core.complete(&mut Fine, NEW), waiting);
    let heading = Err(Error::Refused(Refusal::AlreadyHeading(NEW)));
    assert_eq!(
        core.reverse(&mut Fine, NEW, PatchState::Patched, &[])
            .map(|_| ()),
        heading
    );
    assert_eq!(
        core.force(&mut Fine, OLD),
        Err(Refusal::NotInTransition(OLD))
    );
    assert_eq!(core, before);
}

#[test]
fn what_is_not_there() {
    let mut core = enabled(patch("old", &[1]));
    let before = core.clone();
    let not_enabled = Err(Error::Refused(Refusal::NotEnabled(NEW)));
    assert_eq!(core.disable(&mut Fine, NEW, &[]).map(|_| ()), not_enabled);
    let not_prepared = Err(Error::Refused(Refusal::NotPrepared(NEW)));
    assert_eq!(core.begin(&mut Fine, NEW, &[]).map(|_| ()), not_prepared);
    assert_eq!(core.abandon(&mut Fine, NEW), Err(Refusal::NotPrepared(NEW)));
    let idle = Err(Error::Refused(Refusal::NotInTransition(OLD)));
    assert_eq!(core.complete(&mut Fine, OLD), idle);
    let module = ModuleId(9);
    assert_eq!(
        core.module_going(&mut Fine, module),
        Err(Refusal::NoSuchModule(module))
    );
    assert_eq!(
        core.module_gone(&mut Fine, module),
        Err(Refusal::NoSuchModule(module))
    );
    assert_eq!(core.module_live(module), Err(Refusal::NoSuchModule(module)));
    assert_eq!(
        core.adopt_live_module(module, build_id()),
        Err(Refusal::PatchesExist(OLD))
    );
    let again = core.module_coming(&mut Fine, PROGRAM, build_id());
    assert_eq!(again, Err(Error::Refused(Refusal::ModuleExists(PROGRAM))));
    assert_eq!(core, before);
}

/// Threads that share a thread pointer switch when all of them are clear.
#[test]
fn threads_that_cannot_be_told_apart_switch_together() {
    let mut core = enabled(patch("old", &[1]));
    core.prepare(&mut Fine, NEW, patch("new", &[1]))
        .expect("fits");
    let report = |thread, clear| ThreadReport {
        thread: ThreadId(thread),
        clear,
    };
    let threads = [
        report(0, true),
        report(5, true),
        report(0, false),
        report(5, true),
    ];
    assert_eq!(core.begin(&mut Fine, NEW, &threads), Ok(1));
    let transition = core.transition().expect("open");
    assert_eq!(transition.thread_state(ThreadId(0)), PatchState::Unpatched);
    assert_eq!(transition.thread_state(ThreadId(5)), PatchState::Patched);
}
