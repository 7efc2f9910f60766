//! The model check: everything that can happen to a process, up to three patches, two modules that
//! come and go, and two threads, in every order; and its controls, which break one rule each and
//! see that the check notices.
//!
//! What holds in every state is in `Machine::check`: every call goes where the history of enabling
//! says (rules 1, 3, 6), also while constructors and destructors run (3, 5), no thread sees two
//! universes, every func stack is in the order of the list (1), patches bind to nothing that has
//! not come (2, 7), nothing refers to a module or an image that is gone (4, 5), a failure leaves
//! everything as it was (4), and the log is one that the kernel could have written.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "tests may say so in one word"
)]

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use support::explore::explore;
use support::scope::{Control, M, N, Plan, Scope};

/// States that have to be reached in all scopes together, with two threads under the whole stack
/// and with one.
const AT_LEAST: [usize; 2] = [3_000_000, 1_000_000];

/// With two threads that scope takes minutes by itself.
fn is_long() -> bool {
    std::env::var_os("ENGRAFT_LONG_TESTS").is_some()
}

const ONLY_B: Plan = Plan {
    a: false,
    ..Plan::BOTH
};
const REPLACE_A: Plan = Plan {
    b: false,
    replace: true,
    ..Plan::BOTH
};
const REPLACE_BOTH: Plan = Plan {
    replace: true,
    ..Plan::BOTH
};

fn with_state(plan: Plan, version: u32) -> Plan {
    Plan {
        state: Some(version),
        ..plan
    }
}

/// One scope cannot have everything at once and stay small; these overlap.
fn scopes() -> Vec<(&'static str, Scope)> {
    let stack = Scope {
        modules: vec![M, N],
        threads: if is_long() { 2 } else { 1 },
        nonsense: false,
        ..Scope::new(vec![Plan::BOTH; 3])
    };
    let replace = Scope {
        modules: vec![M, N],
        threads: 1,
        births: true,
        ..Scope::new(vec![
            with_state(Plan::BOTH, 1),
            ONLY_B,
            with_state(REPLACE_A, 2),
        ])
    };
    let force = Scope {
        threads: 2,
        births: true,
        force: true,
        nonsense: false,
        ..Scope::new(vec![Plan::BOTH, REPLACE_A])
    };
    let start = Scope {
        threads: 2,
        births: true,
        unreadable: true,
        force: true,
        faults: true,
        nonsense: false,
        ..Scope::new(vec![Plan::BOTH])
    };
    let faults = Scope {
        threads: 1,
        unreadable: true,
        births: true,
        force: true,
        faults: true,
        vanish: true,
        nonsense: false,
        ..Scope::new(vec![
            with_state(Plan::BOTH, 1),
            REPLACE_BOTH,
            with_state(REPLACE_A, 2),
        ])
    };
    let refusals = Scope {
        modules: vec![M, N],
        faults: true,
        vanish: true,
        ..Scope::new(vec![Plan::BOTH, ONLY_B, REPLACE_BOTH])
    };
    vec![
        ("three patches stack, two modules", stack),
        ("every call of the world fails in every state", faults),
        ("force, births, two threads", force),
        ("refused modules, nonsense requests, two modules", refusals),
        ("starting fails and is tried again, two threads", start),
        ("replace, states, births, two modules", replace),
    ]
}

#[test]
fn every_interleaving_keeps_the_rules() {
    let started = Instant::now();
    let total = AtomicUsize::new(0);
    // The largest scopes come first, so that both cores have something to do until the end.
    let scopes = Mutex::new(scopes().into_iter());
    let worker = || {
        while let Some((name, scope)) = next(&scopes) {
            total.fetch_add(check(name, &scope), Ordering::Relaxed);
        }
    };
    std::thread::scope(|threads| {
        threads.spawn(worker);
        worker();
    });
    let total = total.into_inner();
    println!(
        "{total:>9} states in {:.1} s",
        started.elapsed().as_secs_f32()
    );
    let [with_two, with_one] = AT_LEAST;
    assert!(
        total >= if is_long() { with_two } else { with_one },
        "only {total} states, the check has become too small"
    );
}

fn next<T>(queue: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    queue.lock().expect("nobody panics with it").next()
}

fn check(name: &str, scope: &Scope) -> usize {
    let started = Instant::now();
    let report = explore(scope, usize::MAX);
    println!(
        "{:>9} states, {:>9} steps, {:>3} deep, {:>5.1} s: {name}",
        report.states,
        report.steps,
        report.depth,
        started.elapsed().as_secs_f32()
    );
    if let Some((trace, what)) = report.violation {
        panic!("{name}: {what}\nafter {trace:#?}");
    }
    report.states
}

/// Breaks a rule, and has to find it broken in just this way.
#[track_caller]
fn control(control: Control, finds: &'static str, scope: Scope) {
    let report = explore(
        &Scope {
            control,
            only: finds,
            ..scope
        },
        usize::MAX,
    );
    let Some((trace, what)) = report.violation else {
        panic!("{control:?} goes unnoticed in {} states", report.states);
    };
    let what = what
        .lines()
        .find(|line| line.contains(finds))
        .unwrap_or(&what);
    println!("{control:?}, found after {} states: {what}", report.states);
    for (number, step) in trace.iter().enumerate() {
        println!("  {:>2}. {:?}", number + 1, step.act);
    }
}

/// The bug of 2015: b's stack is b2, b1, b3 while a's is a3, a2, a1.
#[test]
fn control_rule_1_and_2_bind_by_name() {
    control(
        Control::BindByName,
        "is [PatchId(2), PatchId(1), PatchId(3)], enabled last were [PatchId(3), PatchId(2), PatchId(1)]",
        Scope {
            reverse: false,
            nonsense: false,
            ..Scope::new(vec![Plan::BOTH; 3])
        },
    );
}

/// The same, as the program sees it: a thread runs a of one fix with b of another.
#[test]
fn control_rule_2_mixed_universes() {
    let scope = Scope {
        threads: 1,
        ..Scope::new(vec![Plan::BOTH; 2])
    };
    control(Control::BindByName, "gets", scope);
}

#[test]
fn control_rule_3_code_runs_before_the_coming_work() {
    control(
        Control::RunBeforeComing,
        "not Func",
        Scope::new(vec![Plan::BOTH]),
    );
}

#[test]
fn control_rule_4_refusal_leaves_something_behind() {
    let scope = Scope {
        faults: true,
        ..Scope::new(vec![Plan::BOTH])
    };
    control(Control::KeepHalfImages, "still has an image", scope);
}

#[test]
fn control_rule_5_patches_leave_before_the_destructors() {
    control(
        Control::GoBeforeDestructors,
        "not Func",
        Scope::new(vec![Plan::BOTH]),
    );
}

#[test]
fn control_rule_5_module_goes_silently() {
    control(
        Control::UnmapSilently,
        "which is gone",
        Scope::new(vec![Plan::BOTH]),
    );
}

#[test]
fn control_rule_6_comer_ignores_the_transition() {
    let scope = Scope {
        threads: 1,
        ..Scope::new(vec![Plan::BOTH])
    };
    control(Control::NoDispatchForComers, "not Original", scope);
}

/// The list of those that stay behind is made, then threads run, then the others are let go.
#[test]
fn control_starting_with_a_stale_look() {
    let scope = Scope {
        threads: 1,
        ..Scope::new(vec![Plan::BOTH])
    };
    control(Control::StaleLook, "two universes", scope);
}

/// The same for a transition that is turned round: what was seen then is as stale.
#[test]
fn control_turning_round_with_a_stale_look() {
    let scope = Scope {
        threads: 1,
        births: true,
        ..Scope::new(vec![Plan::BOTH])
    };
    control(Control::StaleTurn, "two universes", scope);
}

/// The word is written after all, and the controller does not wait to see it.
#[test]
fn control_a_move_that_is_not_told() {
    let scope = Scope {
        faults: true,
        ..Scope::new(vec![Plan::BOTH])
    };
    control(Control::MoveAndFail, "dispatch and the core have", scope);
}

#[test]
fn control_switching_without_a_look() {
    let scope = Scope {
        threads: 1,
        ..Scope::new(vec![Plan::BOTH])
    };
    control(Control::SwitchBlindly, "two universes", scope);
}

/// The walk of a thread's stack ended at a replaced frame, with another one further out.
#[test]
fn control_a_door_from_a_broken_walk() {
    let scope = Scope {
        threads: 1,
        ..Scope::new(vec![Plan::BOTH])
    };
    control(Control::InnerDoor, "two universes", scope);
}

/// A thread leaves the universe that is to be kept.
#[test]
fn control_doors_that_stay_open_when_a_transition_is_turned_round() {
    let scope = Scope {
        threads: 1,
        ..Scope::new(vec![Plan::BOTH])
    };
    control(Control::DoorsStayOpen, "dispatch and the core have", scope);
}
