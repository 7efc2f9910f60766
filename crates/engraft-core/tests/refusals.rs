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
    PatchId, PatchState, Refusal, StateDefinition, StateId, ThreadId,
};
use fine::Fine;

const PROGRAM: ModuleId = ModuleId(0);
const OLD: PatchId = PatchId(1);
const NEW: PatchId = PatchId(2);

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
    begin(&mut core, OLD);
    core.complete(&mut Fine, OLD).expect("nobody waits");
    core
}

/// Begins, and everybody switches.
fn begin(core: &mut Livepatch, patch: PatchId) {
    core.begin(&mut Fine, patch).expect("prepared");
    assert_eq!(core.start(&mut Fine, patch, &[]), Ok(0));
}

/// An enabled patch, and a new one that is begun and not started.
fn begun() -> Livepatch {
    let mut core = enabled(patch("old", &[1]));
    core.prepare(&mut Fine, NEW, patch("new", &[1]))
        .expect("fits");
    core.begin(&mut Fine, NEW).expect("prepared");
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
        begin(&mut core, PatchId(id));
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
    assert_eq!(core.disable(&mut Fine, OLD), busy(NEW));
    core.begin(&mut Fine, NEW).expect("prepared");
    assert_eq!(core.start(&mut Fine, NEW, &[ThreadId(1).into()]), Ok(1));
    let before = core.clone();
    assert_eq!(
        core.prepare(&mut Fine, third, patch("third", &[1])),
        busy(NEW)
    );
    assert_eq!(core.disable(&mut Fine, OLD), busy(NEW));
    assert_eq!(core.disable(&mut Fine, NEW), busy(NEW));
    let waiting = Err(Error::Refused(Refusal::Waiting(1)));
    assert_eq!(core.complete(&mut Fine, NEW), waiting);
    let heading = Err(Error::Refused(Refusal::AlreadyHeading(NEW)));
    assert_eq!(core.reverse(&mut Fine, NEW, PatchState::Patched), heading);
    let other = Error::Refused(Refusal::NotInTransition(OLD));
    assert_eq!(core.force(&mut Fine, OLD), Err(other));
    assert_eq!(core.start(&mut Fine, OLD, &[]), Err(other));
    assert_eq!(core.switch_thread(&mut Fine, OLD, ThreadId(1)), Err(other));
    assert_eq!(core, before);
}

#[test]
fn what_is_not_there() {
    let mut core = enabled(patch("old", &[1]));
    let before = core.clone();
    let not_enabled = Err(Error::Refused(Refusal::NotEnabled(NEW)));
    assert_eq!(core.disable(&mut Fine, NEW), not_enabled);
    let not_prepared = Err(Error::Refused(Refusal::NotPrepared(NEW)));
    assert_eq!(core.begin(&mut Fine, NEW), not_prepared);
    assert_eq!(core.abandon(&mut Fine, NEW), Err(Refusal::NotPrepared(NEW)));
    let idle = Error::Refused(Refusal::NotInTransition(OLD));
    assert_eq!(core.complete(&mut Fine, OLD), Err(idle));
    assert_eq!(core.start(&mut Fine, OLD, &[]), Err(idle));
    let reversed = core.reverse(&mut Fine, OLD, PatchState::Unpatched);
    assert_eq!(reversed, Err(idle));
    assert_eq!(core.thread_exited(&mut Fine, ThreadId(1)), Ok(0));
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

/// Threads that share a thread pointer switch together, however many of them stay behind.
#[test]
fn threads_that_cannot_be_told_apart_switch_together() {
    let mut core = begun();
    let behind = [5, 0, 5, 0].map(|it| ThreadId(it).into());
    assert_eq!(core.start(&mut Fine, NEW, &behind), Ok(2));
    let transition = core.transition().expect("open");
    let waiting: Vec<_> = transition.waiting().collect();
    assert_eq!(waiting, [ThreadId(0), ThreadId(5)]);
    assert_eq!(transition.thread_state(ThreadId(0)), PatchState::Unpatched);
    assert_eq!(transition.thread_state(ThreadId(7)), PatchState::Patched);
    assert_eq!(core.switch_thread(&mut Fine, NEW, ThreadId(0)), Ok(1));
    assert_eq!(core.thread_exited(&mut Fine, ThreadId(5)), Ok(0));
}

/// Before the start there is nothing to be switched and nothing to be completed, and there is only
/// one start.
#[test]
fn a_transition_starts_once() {
    let mut core = begun();
    let before = core.clone();
    let early = Error::Refused(Refusal::NotStarted(NEW));
    assert_eq!(core.complete(&mut Fine, NEW), Err(early));
    let thread = ThreadId(1);
    assert_eq!(core.switch_thread(&mut Fine, NEW, thread), Err(early));
    assert_eq!(core, before);
    assert_eq!(core.start(&mut Fine, NEW, &[thread.into()]), Ok(1));
    let before = core.clone();
    let late = Err(Error::Refused(Refusal::AlreadyStarted(NEW)));
    assert_eq!(core.start(&mut Fine, NEW, &[]), late);
    assert_eq!(core, before);
}

/// A transition that never started has nobody to bring back.
#[test]
fn turned_round_before_the_start() {
    let mut core = begun();
    assert_eq!(core.reverse(&mut Fine, NEW, PatchState::Unpatched), Ok(()));
    assert!(core.transition().expect("open").is_started());
    let late = Err(Error::Refused(Refusal::AlreadyStarted(NEW)));
    assert_eq!(core.start(&mut Fine, NEW, &[]), late);
    assert_eq!(core.complete(&mut Fine, NEW), Ok(()));
    let listed: Vec<_> = core.patches().iter().map(|patch| patch.id()).collect();
    assert_eq!(listed, [OLD]);
}

/// Who never switched need not switch back, whatever is seen of its stack; and is waited for again
/// when the transition is turned round once more.
#[test]
fn turning_round_moves_nobody() {
    let mut core = begun();
    let (stays, follows) = (ThreadId(1), ThreadId(2));
    let state = |core: &Livepatch| {
        let transition = core.transition().expect("open");
        [stays, follows].map(|thread| transition.thread_state(thread))
    };
    assert_eq!(core.start(&mut Fine, NEW, &[stays.into()]), Ok(1));
    let apart = [PatchState::Unpatched, PatchState::Patched];
    assert_eq!(state(&core), apart);

    let mut back = core.clone();
    assert_eq!(back.reverse(&mut Fine, NEW, PatchState::Unpatched), Ok(()));
    assert_eq!(state(&back), apart);
    let again = back.clone();
    assert_eq!(
        back.start(&mut Fine, NEW, &[stays.into(), follows.into()]),
        Ok(1)
    );
    assert_eq!(state(&back), apart);
    assert_eq!(back.switch_thread(&mut Fine, NEW, follows), Ok(0));
    assert_eq!(state(&back), [PatchState::Unpatched; 2]);

    // Before it has started again, it can be turned round at once.
    let mut again = again;
    assert_eq!(again.reverse(&mut Fine, NEW, PatchState::Patched), Ok(()));
    assert_eq!(again, core);
    assert_eq!(again.switch_thread(&mut Fine, NEW, stays), Ok(0));
}

/// Forcing needs no start.
#[test]
fn forced_before_the_start() {
    let mut core = begun();
    assert_eq!(core.force(&mut Fine, NEW), Ok(()));
    assert_eq!(core.complete(&mut Fine, NEW), Ok(()));
}
