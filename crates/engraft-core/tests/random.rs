//! Random walks through scopes that are too large to be explored, with any number of failures in
//! each step: after each, the state is the one before, or the documented one.

mod support;

use proptest::prelude::*;
use support::act::Step;
use support::machine::Machine;
use support::scope::{M, N, Plan, Scope};

/// Everything at once.
fn everything() -> Scope {
    let replace = Plan {
        replace: true,
        ..Plan::BOTH
    };
    let plans = vec![
        Plan {
            state: Some(1),
            ..Plan::BOTH
        },
        Plan {
            a: false,
            ..Plan::BOTH
        },
        Plan {
            state: Some(2),
            b: false,
            ..replace
        },
        Plan {
            state: Some(2),
            ..replace
        },
    ];
    Scope {
        modules: vec![M, N],
        threads: 3,
        births: true,
        unreadable: true,
        force: true,
        faults: true,
        vanish: true,
        ..Scope::new(plans)
    }
}

/// Which thing happens, as an index into those that can, and which of its calls fail.
fn step() -> impl Strategy<Value = (prop::sample::Index, u64)> {
    let fail = prop_oneof![
        6 => Just(0),
        2 => (0..12_u32).prop_map(|call| 1 << call),
        1 => (0..12_u32).prop_map(|call| u64::MAX << call),
        1 => any::<u64>(),
    ];
    (any::<prop::sample::Index>(), fail)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_walks_keep_the_rules(walk in prop::collection::vec(step(), 1..120)) {
        let scope = everything();
        let mut machine = Machine::new(&scope);
        let mut acts = Vec::new();
        for (index, fail) in walk {
            acts.clear();
            machine.acts(&scope, &mut acts);
            let step = Step { act: *index.get(&acts), fail };
            let outcome = machine.take(&scope, step).map_err(TestCaseError::fail)?;
            if let Some(violation) = outcome.violation {
                return Err(TestCaseError::fail(format!("{step:?}: {violation}")));
            }
            machine = outcome.machine;
            machine
                .check(&scope)
                .map_err(|violation| TestCaseError::fail(format!("{step:?}: {violation}")))?;
        }
    }
}
