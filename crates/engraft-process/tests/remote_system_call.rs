//! Remote system calls leave no mark on what the threads were doing.
#![expect(clippy::unwrap_used, reason = "a test fails so")]

mod support;

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use engraft_process::Process;
use support::{LONG, Victim, compile};

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

/// Not a test by itself: the tracer that kills itself in the middle of a call in the thread that the
/// variable names.
#[test]
fn tracer_that_dies() {
    let Ok(plan) = std::env::var("ENGRAFT_TEST_TRACER") else {
        return;
    };
    let (pid, tid) = plan.split_once(' ').unwrap();
    let process = Process::open(pid.parse().unwrap()).unwrap();
    let mut stopped = process.stop(LONG).unwrap();
    let mut thread = stopped.thread(tid.parse().unwrap()).unwrap();
    let _ = thread.system_call(libc::SYS_getpid, [0; 6]);
    std::process::exit(42);
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
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["tracer_that_dies", "--exact"])
                .env("ENGRAFT_TEST_TRACER", format!("{} {tid}", victim.pid))
                .env("ENGRAFT_PROCESS_DIE_AT", step.to_string())
                .output()
                .unwrap()
                .status;
            let ended = victim.line();
            // Attaching to two threads and asking them to stop are the first four effects. A call
            // that the kernel does not restart by itself shows EINTR if nobody answers the stop.
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
