//! Every effect on another process passes through here, so that tests can make each of them the
//! last or let it fail.
//!
//! Only builds with the feature `test-hooks` look at these variables, and only tests switch it on:
//! an inherited variable must not end a command in the middle of a stop.
//!
//! `ENGRAFT_PROCESS_DIE_AT=N` kills this process right after its Nth effect: the target must
//! continue correctly. `ENGRAFT_PROCESS_FAIL_AT=N` makes the Nth effect fail instead: everything
//! must be undone. A test counts N up until neither happens.

#[cfg(feature = "test-hooks")]
pub(crate) use tried::effect;

/// Carries an effect out.
#[cfg(not(feature = "test-hooks"))]
pub(crate) fn effect<T>(
    act: impl FnOnce() -> Result<T, rustix::io::Errno>,
) -> Result<T, rustix::io::Errno> {
    act()
}

#[cfg(feature = "test-hooks")]
mod tried {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::io::Errno;
    use rustix::process::{Signal, getpid, kill_process};

    /// The error of an effect that is made to fail: none that says something about the target.
    const INJECTED: Errno = Errno::NOMEM;

    struct Plan {
        die_at: Option<u64>,
        fail_at: Option<u64>,
    }

    fn plan() -> &'static Plan {
        static PLAN: OnceLock<Plan> = OnceLock::new();
        let number = |name| std::env::var(name).ok()?.parse().ok();
        PLAN.get_or_init(|| Plan {
            die_at: number("ENGRAFT_PROCESS_DIE_AT"),
            fail_at: number("ENGRAFT_PROCESS_FAIL_AT"),
        })
    }

    /// Carries an effect out, unless a test wants otherwise.
    pub(crate) fn effect<T>(act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let plan = plan();
        if plan.die_at.is_none() && plan.fail_at.is_none() {
            return act();
        }
        // ORDERING: a counter that orders nothing; tests use it with one tracing thread.
        let number = Some(COUNT.fetch_add(1, Ordering::Relaxed));
        if plan.fail_at == number {
            // For the counting test: this was not yet beyond the last effect.
            eprintln!("note: failure injected");
            return Err(INJECTED);
        }
        let result = act();
        if plan.die_at == number {
            // Not abort: no code of ours may run any more, no destructor and no handler.
            let _ = kill_process(getpid(), Signal::KILL);
        }
        result
    }
}
