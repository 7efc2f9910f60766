//! The model check: everything that can happen to a process, up to three patches, two modules that
//! come and go, and two threads, in every order.

mod support;

use support::explore::explore;
use support::machine::{Control, M, N, Plan, Scope};

#[test]
fn probe() {
    let mut scope = Scope::new(vec![Plan::BOTH; 3]);
    scope.modules = vec![M, N];
    scope.threads = 2;
    let _ = Control::None;
    let t = std::time::Instant::now();
    let report = explore(&scope, 3_000_000);
    println!(
        "{} {} {} {:?}",
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
