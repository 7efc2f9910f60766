//! Remote system calls leave no mark on what the threads were doing.
#![expect(clippy::unwrap_used, reason = "a test fails so")]

mod support;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use engraft_process::Process;
use support::{LONG, Victim, compile};

const PAGE: u64 = 4096;

/// Makes calls in a thread that sleeps in a call, and looks at what that thread saw of it.
fn disturb(call: &str, number: i64, milliseconds: &str, expected: &str) {
    let program = compile("sleeper.c", "sleeper", &[]);
    let mut victim = Victim::start(&program, &[call, milliseconds]);
    let tid: i32 = victim.line().parse().unwrap();
    victim.await_sleep(tid, number);
    for _ in 0..3 {
        let mut stopped = victim.stop();
        let mut thread = stopped.thread(tid).unwrap();
        let pid = thread.system_call(libc::SYS_getpid, [0; 6]).unwrap();
        assert_eq!(pid, victim.pid as u64);
        let arguments = [0, 8192, 3, 0x22, u64::MAX, 0];
        let mapped = thread.system_call(libc::SYS_mmap, arguments).unwrap();
        let at = mapped.into();
        stopped.memory().write(at, b"written").unwrap();
        assert_eq!(stopped.memory().read_array::<7>(at).unwrap(), *b"written");
        let mut thread = stopped.thread(tid).unwrap();
        thread
            .system_call(libc::SYS_munmap, [mapped, 8192, 0, 0, 0, 0])
            .unwrap();
        let failed = thread.system_call(libc::SYS_close, [9999, 0, 0, 0, 0, 0]);
        assert_eq!(failed.unwrap_err().errno(), Some(libc::EBADF));
        stopped.detach().unwrap();
        victim.await_sleep(tid, number);
    }
    if call == "read" {
        victim.tell("write");
    }
    assert_eq!(victim.line(), expected, "{call}");
    victim.finish();
}

#[test]
fn a_sleeping_call_is_neither_interrupted_nor_shortened() {
    for (call, number) in [
        ("nanosleep", libc::SYS_nanosleep),
        ("clock_nanosleep", libc::SYS_clock_nanosleep),
        ("poll", libc::SYS_poll),
        ("ppoll", libc::SYS_ppoll),
        ("select", libc::SYS_select),
    ] {
        disturb(call, number, "1000", "0 in time");
    }
}

/// A thread is stopped before it has resumed the call that an earlier stop has interrupted.
#[test]
fn stops_in_quick_succession_do_not_interrupt_a_sleep() {
    let program = compile("sleeper.c", "sleeper", &[]);
    for (call, number) in [("nanosleep", libc::SYS_nanosleep), ("poll", libc::SYS_poll)] {
        let mut victim = Victim::start(&program, &[call, "1000"]);
        let tid: i32 = victim.line().parse().unwrap();
        victim.await_sleep(tid, number);
        let mut stopped = victim.stop();
        for _ in 0..1000 {
            // Until it has slept enough.
            let Some(mut thread) = stopped.thread(tid) else {
                break;
            };
            thread.system_call(libc::SYS_getpid, [0; 6]).unwrap();
            stopped = stopped.resume().unwrap().stop(LONG).unwrap();
        }
        stopped.detach().unwrap();
        assert_eq!(victim.line(), "0 in time", "{call}");
        victim.finish();
    }
}

#[test]
fn a_futex_wait_is_neither_interrupted_nor_shortened() {
    disturb("futex", libc::SYS_futex, "1000", "timeout in time");
}

#[test]
fn a_read_is_not_interrupted() {
    disturb("read", libc::SYS_read, "0", "0 in time");
}

#[test]
fn calls_that_the_kernel_does_not_restart_are_restarted() {
    for (call, number, expected) in [
        ("epoll_wait", libc::SYS_epoll_wait, "0 in time"),
        ("epoll_pwait", libc::SYS_epoll_pwait, "0 in time"),
        ("semtimedop", libc::SYS_semtimedop, "timeout in time"),
        (
            "rt_sigtimedwait",
            libc::SYS_rt_sigtimedwait,
            "timeout in time",
        ),
        ("recvfrom", libc::SYS_recvfrom, "timeout in time"),
        ("read_socket", libc::SYS_read, "timeout in time"),
        ("accept", libc::SYS_accept, "timeout in time"),
    ] {
        disturb(call, number, "400", expected);
    }
}

/// Not a test by itself: the tracer that kills itself in the middle of a call in the thread that
/// the variable names, which asks for its number or unmaps a page that the variable names, too.
#[test]
fn tracer_that_dies() {
    let Ok(plan) = std::env::var("ENGRAFT_TEST_TRACER") else {
        return;
    };
    let words: Vec<u64> = plan.split(' ').map(|word| word.parse().unwrap()).collect();
    let process = Process::open(i32::try_from(words[0]).unwrap()).unwrap();
    let mut stopped = process.stop(LONG).unwrap();
    let mut thread = stopped.thread(i32::try_from(words[1]).unwrap()).unwrap();
    let _ = match words.get(2) {
        Some(page) => thread.system_call(libc::SYS_munmap, [*page, PAGE, 0, 0, 0, 0]),
        None => thread.system_call(libc::SYS_getpid, [0; 6]),
    };
    std::process::exit(42);
}

/// Runs the tracer, which kills itself after so many effects.
fn trace_and_die(plan: &str, step: usize) -> ExitStatus {
    let mut tracer = Command::new(std::env::current_exe().unwrap());
    tracer
        .args(["tracer_that_dies", "--exact"])
        .env("ENGRAFT_TEST_TRACER", plan)
        .env("ENGRAFT_PROCESS_DIE_AT", step.to_string());
    tracer.output().unwrap().status
}

#[test]
fn a_tracer_that_dies_anywhere_does_not_interrupt_a_sleep() {
    let program = compile("sleeper.c", "sleeper", &[]);
    for (call, number) in [
        ("nanosleep", libc::SYS_nanosleep),
        ("epoll_wait", libc::SYS_epoll_wait),
    ] {
        for step in 1.. {
            let mut victim = Victim::start(&program, &[call, "1000"]);
            let tid: i32 = victim.line().parse().unwrap();
            victim.await_sleep(tid, number);
            let status = trace_and_die(&format!("{} {tid}", victim.pid), step);
            let ended = victim.line();
            // Attaching to two threads and asking them to stop are the first four effects. A call
            // that the kernel does not restart by itself shows EINTR if no tracer answers the stop.
            let unanswered = (3..=4).contains(&step) && number == libc::SYS_epoll_wait;
            let interrupted = unanswered && ended == "EINTR early";
            assert!(ended == "0 in time" || interrupted, "{call} {step} {ended}");
            victim.finish();
            if status.code() == Some(42) {
                break;
            }
            assert_eq!(status.signal(), Some(libc::SIGKILL));
        }
    }
}

/// The page has the instructions that a call could borrow, and lies where they are looked for
/// first. If the tracer dies after the page has gone, the thread needs others to restore itself.
#[test]
fn nothing_is_borrowed_from_memory_that_may_go() {
    const BORROWED: [u8; 11] = [0xb8, 15, 0, 0, 0, 0x0f, 0x05, 0xc3, 0x0f, 0x05, 0xc3];
    let program = compile("sleeper.c", "sleeper", &[]);
    for step in 1.. {
        let mut victim = Victim::start(&program, &["nanosleep", "1000"]);
        let tid: i32 = victim.line().parse().unwrap();
        victim.await_sleep(tid, libc::SYS_nanosleep);
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", victim.pid)).unwrap();
        let loader = maps
            .lines()
            .rfind(|line| line.contains("/ld-linux"))
            .unwrap();
        let end = loader.split(['-', ' ']).nth(1).unwrap();
        let page = u64::from_str_radix(end, 16).unwrap() + (1 << 20);
        let (read_write_execute, private_anonymous_fixed) = (7, 0x0010_0022);
        let arguments = [
            page,
            PAGE,
            read_write_execute,
            private_anonymous_fixed,
            u64::MAX,
            0,
        ];
        let mut stopped = victim.stop();
        let mut thread = stopped.thread(tid).unwrap();
        let mapped = thread.system_call(libc::SYS_mmap, arguments).unwrap();
        assert_eq!(mapped, page);
        stopped.memory().write(page.into(), &BORROWED).unwrap();
        stopped.detach().unwrap();
        victim.await_sleep(tid, libc::SYS_nanosleep);

        let status = trace_and_die(&format!("{} {tid} {page}", victim.pid), step);
        // The call was interrupted before, by the test: what is left of it, only the kernel knew.
        let ended = victim.line();
        assert!(
            ["0 in time", "EINTR early"].contains(&&*ended),
            "{step}: {ended:?}"
        );
        victim.finish();
        if status.code() == Some(42) {
            break;
        }
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    }
}
