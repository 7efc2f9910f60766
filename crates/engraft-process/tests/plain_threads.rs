//! Threads made by a plain `clone`, on any memory: what is on their stacks is found, and they are
//! clear of everything else, because they were born there. A coroutine was not, and neither was a
//! thread that goes on where another one was.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails so, and says what it was about"
)]

mod support;

use engraft_process::{Unreliable, Verdict, WalkError};
use support::scene::{BUILDS, Scene};

/// Where their stacks are, and whether they have a thread pointer of their own.
const PLAIN: &[&str] = &[
    "clone heap",
    "clone heap tls",
    "clone mapped",
    "clone mapped tls",
    "clone static",
    "clone static tls",
];

/// Does something for all kinds of plain threads in all kinds of programs.
fn everywhere(how: &str, test: impl Fn(Scene, &str)) {
    for (name, flags) in BUILDS {
        for where_ in PLAIN {
            println!("{name} {how} {where_}");
            test(Scene::start(name, flags, how, where_), where_);
        }
    }
}

/// Asleep in something else, it is clear; not of what it is in.
fn is_seen(how: &str, call: i64, inner: &[&str]) {
    everywhere(how, |scene, where_| {
        let scene = scene.asleep(call);
        let (scan, both) = scene.verdicts("replaced");
        let foreign = matches!(
            scan,
            Verdict::Unreliable(Unreliable::ForeignStack { .. }) | Verdict::Clear
        );
        assert!(foreign, "{scan:?}");
        assert!(matches!(both, Verdict::Clear), "{both:?}");
        scene.has_frames(where_, inner);
    });
}

#[test]
fn asleep_in_a_system_call() {
    is_seen("nanosleep", libc::SYS_clock_nanosleep, &[]);
    is_seen("read", libc::SYS_read, &[]);
}

#[test]
fn in_a_handler_on_the_same_stack() {
    is_seen("handler", libc::SYS_pause, &["handler"]);
}

#[test]
fn in_a_handler_on_an_alternate_stack() {
    is_seen("handler-alternate", libc::SYS_pause, &["handler"]);
}

#[test]
fn in_a_loop() {
    everywhere("stale-spinning", |scene, _| {
        let scene = scene.inside("target");
        let (_, inside) = scene.verdicts("target");
        assert!(matches!(inside, Verdict::Running { .. }), "{inside:?}");
        let (_, outside) = scene.verdicts("replaced");
        assert!(matches!(outside, Verdict::Clear), "{outside:?}");
        scene.victim.finish();
    });
}

#[test]
fn with_something_that_looks_like_a_return_address() {
    everywhere("pointer", |scene, _| {
        let scene = scene.asleep(libc::SYS_pause);
        let (scan, both) = scene.verdicts("replaced");
        assert!(matches!(scan, Verdict::Sleeping { .. }), "{scan:?}");
        assert!(matches!(both, Verdict::Clear), "{both:?}");
        scene.victim.finish();
    });
}

/// Nothing on the present stack is in the way, and yet the thread is not clear.
fn is_foreign(scene: &Scene, reason: impl Fn(&WalkError) -> bool) {
    let (_, both) = scene.verdicts("replaced");
    let foreign = matches!(both, Verdict::Unreliable(Unreliable::ForeignStack { .. }));
    assert!(foreign, "{both:?}");
    let broken = scene.walk().unwrap_err();
    assert!(reason(&broken.reason), "{broken}");
}

/// The context that it was called from waits on another stack.
#[test]
fn in_a_coroutine() {
    for where_ in ["main", "thread", "clone mapped", "clone mapped tls"] {
        for (name, flags) in BUILDS {
            println!("{name} {where_}");
            let scene = Scene::start(name, flags, "coroutine", where_).asleep(libc::SYS_pause);
            is_foreign(&scene, |reason| {
                // What returns to the start of a coroutine was not called from there.
                matches!(
                    reason,
                    WalkError::UnknownEnd { .. } | WalkError::NoCall { .. }
                )
            });
            scene.victim.finish();
        }
    }
}

/// The code after the return address looks like the birth of a thread, but the code before makes
/// none.
#[test]
fn in_a_coroutine_that_ends_its_thread() {
    for where_ in ["thread", "clone mapped", "clone mapped tls"] {
        for (name, flags) in BUILDS {
            println!("{name} {where_}");
            let scene = Scene::start(name, flags, "coroutine-that-exits", where_);
            let scene = scene.asleep(libc::SYS_pause);
            is_foreign(&scene, |reason| {
                matches!(reason, WalkError::UnknownEnd { .. })
            });
            scene.victim.finish();
        }
    }
}

/// A birth, but another thread's: of the C library's threads one is on the stack of a plain one,
/// and the other way round.
#[test]
fn where_another_thread_was_born() {
    for where_ in ["main", "thread", "clone mapped", "clone mapped tls"] {
        for (name, flags) in BUILDS {
            println!("{name} {where_}");
            let scene = Scene::start(name, flags, "swapped", where_).asleep(libc::SYS_pause);
            is_foreign(&scene, |reason| {
                matches!(reason, WalkError::ForeignStack { .. })
            });
            let names = scene.walk().unwrap_err().frames;
            assert!(scene.functions.names(&names).contains(&"wait_there"));
            scene.victim.finish();
        }
    }
}
