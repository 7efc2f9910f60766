//! The model check: everything that can happen to a process, up to three patches, two modules that
//! come and go, and two threads, in every order.

mod support;

use support::explore::explore;
use support::machine::{Control, M, N, Plan, Scope};

fn run(name: &str, scope: Scope) {
    let _ = Control::None;
    let t = std::time::Instant::now();
    let report = explore(&scope, 100_000);
    println!(
        "R {name} {} {} {} {:?}",
        report.states,
        report.steps,
        report.depth,
        t.elapsed()
    );
    if let Some((trace, what)) = report.violation {
        for s in trace {
            println!("{s:?}");
        }
        panic!("{what}");
    }
}
const ONLY_A: Plan = Plan {
    a: true,
    b: false,
    replace: true,
    ..Plan::BOTH
};

#[test]
fn replace() {
    let scope = Scope {
        threads: 2,
        births: true,
        ..Scope::new(vec![
            Plan {
                state: Some(1),
                ..Plan::BOTH
            },
            Plan::BOTH,
            Plan {
                state: Some(2),
                ..ONLY_A
            },
        ])
    };
    run("replace", scope);
}
#[test]
fn force() {
    let scope = Scope {
        threads: 2,
        births: true,
        force: true,
        ..Scope::new(vec![Plan { ..Plan::BOTH }, Plan::BOTH, ONLY_A])
    };
    run("force", scope);
}
#[test]
fn faults() {
    let scope = Scope {
        threads: 1,
        nonsense: false,
        faults: true,
        vanish: true,
        modules: vec![M],
        births: true,
        force: true,
        ..Scope::new(vec![
            Plan {
                state: Some(1),
                ..Plan::BOTH
            },
            Plan::BOTH,
            Plan {
                state: Some(2),
                ..ONLY_A
            },
        ])
    };
    run("faults", scope);
}
#[test]
fn faults2() {
    let scope = Scope {
        threads: 0,
        nonsense: false,
        faults: true,
        vanish: true,
        modules: vec![M, N],
        births: true,
        force: true,
        ..Scope::new(vec![
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
                ..ONLY_A
            },
        ])
    };
    run("faults2", scope);
}
