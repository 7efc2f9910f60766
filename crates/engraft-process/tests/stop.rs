//! Stopping and letting go: complete, bounded, and without a mark.
#![expect(clippy::unwrap_used, reason = "a test fails so")]

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engraft_process::{Activity, StopError, TaskState, on_tracer_thread};
use rustix::process::{Pid, Signal, kill_process};
use support::{LONG, Victim, compile};

fn idle(threads: usize) -> Victim {
    let mut victim = Victim::start(&compile("idle.c", "idle", &[]), &[]);
    assert_eq!(victim.ask(&format!("threads {threads}")), "ok");
    victim
}

#[test]
fn all_threads_are_stopped_and_continue() {
    for threads in [0, 49, 299] {
        let mut victim = idle(threads);
        for _ in 0..3 {
            let stopped = victim.stop();
            assert_eq!(stopped.threads().count(), threads + 1);
            for thread in stopped.threads() {
                let stat = stopped.process().task(thread.tid).stat().unwrap().unwrap();
                assert_eq!(stat.state, TaskState::Traced);
                assert!(!thread.is_group_stopped && !thread.is_kernel_worker);
            }
            let mut seized = stopped.resume().unwrap();
            seized.handle_events().unwrap();
            assert_eq!(victim.ask("pid"), victim.pid.to_string());
            seized.stop(LONG).unwrap().detach().unwrap();
            assert_eq!(victim.ask("pid"), victim.pid.to_string());
        }
        victim.finish();
    }
}

#[test]
fn dropping_any_state_lets_go() {
    let mut victim = idle(3);
    drop(victim.process().seize(LONG).unwrap());
    assert_eq!(victim.ask("pid"), victim.pid.to_string());
    drop(victim.stop());
    assert_eq!(victim.ask("pid"), victim.pid.to_string());
    drop(victim.stop().resume().unwrap());
    assert_eq!(victim.ask("pid"), victim.pid.to_string());
    victim.finish();
}

#[test]
fn runners_are_told_from_sleepers() {
    let victim = Victim::start(&compile("spinner.c", "spinner", &[]), &["1", "20"]);
    let process = victim.process();
    let sleeps = |tid: &i32| {
        let activity = process.task(*tid).activity().unwrap();
        matches!(activity, Some(Activity::InSystemCall { .. }))
    };
    while process
        .threads()
        .unwrap()
        .iter()
        .filter(|tid| sleeps(tid))
        .count()
        < 21
    {
        std::thread::yield_now();
    }
    let stopped = victim.stop();
    assert_eq!(
        stopped
            .threads()
            .filter(|thread| thread.was_running)
            .count(),
        1
    );
    stopped.detach().unwrap();
    victim.finish();
}

#[test]
fn threads_that_come_and_go_all_the_time() {
    let mut victim = Victim::start(&compile("churn.c", "churn", &[]), &["8"]);
    for _ in 0..100 {
        let stopped = victim.stop();
        // No thread is left out: each that is listed now is stopped, or has ended.
        for tid in stopped.process().threads().unwrap() {
            let stat = stopped.process().task(tid).stat().unwrap().unwrap();
            assert!(
                matches!(stat.state, TaskState::Traced | TaskState::Dead),
                "{stat:?}"
            );
        }
        stopped.detach().unwrap();
    }
    assert_eq!(victim.ask("?"), "goes on");
    victim.finish();
}

#[test]
fn remote_calls_among_threads_that_come_and_go() {
    let mut victim = Victim::start(&compile("churn.c", "churn", &[]), &["4"]);
    for _ in 0..50 {
        let mut stopped = victim.stop();
        let tids: Vec<i32> = stopped.threads().map(|thread| thread.tid).collect();
        for tid in tids {
            let mut thread = stopped.thread(tid).unwrap();
            let pid = thread.system_call(libc::SYS_getpid, [0; 6]).unwrap();
            assert_eq!(pid, victim.pid as u64);
        }
        stopped.detach().unwrap();
    }
    assert_eq!(victim.ask("?"), "goes on");
    victim.finish();
}

#[test]
fn no_signal_is_lost() {
    const SIGNALS: u64 = 20_000;
    let mut victim = Victim::start(&compile("signals.c", "signals", &[]), &[]);
    let pid = victim.pid;
    let sent_all = AtomicBool::new(false);
    let sum = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sum = 0;
            for value in 1..=SIGNALS {
                queue_signal(pid, value as i32);
                sum += value;
            }
            sent_all.store(true, Ordering::SeqCst);
            sum
        });
        let mut stops = 0;
        while !sent_all.load(Ordering::SeqCst) || stops < 50 {
            let mut stopped = victim.stop();
            if stops % 3 == 0 {
                let mut thread = stopped.calling_thread().unwrap();
                assert_eq!(
                    thread.system_call(libc::SYS_getpid, [0; 6]).unwrap(),
                    pid as u64
                );
            }
            if stops % 5 == 0 {
                let mut seized = stopped.resume().unwrap();
                seized.handle_events().unwrap();
                stopped = seized.stop(LONG).unwrap();
            }
            stopped.detach().unwrap();
            stops += 1;
        }
        sender.join().unwrap()
    });
    assert_eq!(victim.ask(&SIGNALS.to_string()), format!("{SIGNALS} {sum}"));
    victim.finish();
}

/// Queues a real-time signal with a value; tries again while the queue is full.
fn queue_signal(pid: i32, value: i32) {
    loop {
        let mut info = [0u8; 128];
        info[..4].copy_from_slice(&libc::SIGRTMIN().to_le_bytes());
        info[8..12].copy_from_slice(&libc::SI_QUEUE.to_le_bytes());
        info[24..28].copy_from_slice(&value.to_le_bytes());
        #[expect(unsafe_code, reason = "no safe wrapper queues a signal with a value")]
        // SAFETY: the pointer is to 128 bytes, the size of siginfo_t, borrowed for the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigqueueinfo,
                pid,
                libc::SIGRTMIN(),
                info.as_mut_ptr(),
            )
        };
        if result == 0 {
            return;
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_target_that_is_killed_is_gone_within_a_second() {
    for round in 0..60 {
        let mut victim = idle(if round % 4 == 0 { 100 } else { 5 });
        let process = victim.process();
        let begun = AtomicBool::new(false);
        let error = std::thread::scope(|scope| {
            let tracer = scope.spawn(|| -> StopError {
                loop {
                    begun.store(true, Ordering::SeqCst);
                    let work = process.stop(LONG).and_then(|mut stopped| {
                        if let Some(mut thread) = stopped.calling_thread() {
                            let _ = thread.system_call(libc::SYS_getpid, [0; 6]);
                        }
                        stopped.detach()
                    });
                    if let Err(error) = work {
                        return error;
                    }
                }
            });
            while !begun.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
            // A different moment every time.
            for _ in 0..round * 3 {
                std::thread::yield_now();
            }
            victim.child.kill().unwrap();
            let killed = Instant::now();
            let error = tracer.join().unwrap();
            assert!(
                killed.elapsed() < Duration::from_secs(1),
                "{:?}",
                killed.elapsed()
            );
            error
        });
        assert!(matches!(error, StopError::Gone { .. }), "{error:?}");
        // Tracer and parent are one process here, so the tracer may have reaped the child already.
        let _ = victim.child.wait();
        assert!(!Path::new(&format!("/proc/{}", victim.pid)).exists());
    }
}

#[test]
fn a_process_that_is_traced_already_names_the_tracer() {
    let victim = idle(2);
    let held = victim.stop();
    let tracer = rustix::thread::gettid().as_raw_nonzero().get();
    let other = on_tracer_thread(|| victim.process().stop(LONG).map(drop)).unwrap();
    match other {
        Err(StopError::AlreadyTraced { tracer: found, .. }) => assert_eq!(found, tracer),
        other => panic!("{other:?}"),
    }
    held.detach().unwrap();
    victim.finish();
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn await_state(victim: &Victim, wanted: TaskState) {
    let process = victim.process();
    for tid in process.threads().unwrap() {
        while process.task(tid).stat().unwrap().unwrap().state != wanted {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_process_that_was_stopped_by_a_signal_stays_stopped() {
    let mut victim = idle(4);
    signal(victim.pid, Signal::STOP);
    await_state(&victim, TaskState::Stopped);
    for _ in 0..3 {
        let mut stopped = victim.stop();
        assert!(stopped.threads().all(|thread| thread.is_group_stopped));
        let mut thread = stopped.calling_thread().unwrap();
        assert_eq!(
            thread.system_call(libc::SYS_getpid, [0; 6]).unwrap(),
            victim.pid as u64
        );
        assert!(stopped.threads().all(|thread| thread.is_group_stopped));
        let seized = stopped.resume().unwrap();
        for tid in victim.process().threads().unwrap() {
            // It listens for SIGCONT, but does not run.
            let stat = victim.process().task(tid).stat().unwrap().unwrap();
            assert!(
                matches!(stat.state, TaskState::Traced | TaskState::Stopped),
                "{stat:?}"
            );
        }
        seized.stop(LONG).unwrap().detach().unwrap();
        await_state(&victim, TaskState::Stopped);
    }
    victim.tell("pid");
    signal(victim.pid, Signal::CONT);
    assert_eq!(victim.line(), victim.pid.to_string());
    victim.finish();
}

#[test]
fn a_signal_that_stops_the_process_while_we_hold_it_takes_effect_afterwards() {
    let mut victim = idle(4);
    let held = victim.stop();
    signal(victim.pid, Signal::STOP);
    held.detach().unwrap();
    await_state(&victim, TaskState::Stopped);
    let held = victim.stop();
    signal(victim.pid, Signal::CONT);
    held.detach().unwrap();
    assert_eq!(victim.ask("pid"), victim.pid.to_string());
    victim.finish();
}

#[test]
fn a_vfork_parent_is_refused_by_name_and_goes_on() {
    let mut victim = idle(3);
    victim.tell("vfork");
    let process = victim.process();
    let state = || process.task(victim.pid).stat().unwrap().unwrap().state;
    while state() != TaskState::Uninterruptible {
        std::thread::yield_now();
    }
    let result = process.stop(Duration::from_millis(50)).map(drop);
    assert!(
        matches!(result, Err(StopError::Vfork { tid, .. }) if tid == victim.pid),
        "{result:?}"
    );
    // The others were never stopped, no thread is traced, and the parent continues when it can.
    assert_eq!(victim.status("TracerPid"), "0");
    let children = format!("/proc/{0}/task/{0}/children", victim.pid);
    let child = std::fs::read_to_string(children)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    signal(child, Signal::KILL);
    assert_eq!(victim.line(), "child ended");
    victim.stop().detach().unwrap();
    victim.finish();
}

#[test]
fn new_threads_of_a_seized_process_are_held_too() {
    let mut victim = idle(1);
    let mut seized = victim.process().seize(LONG).unwrap();
    victim.tell("threads 3");
    // Each of them stops at birth, and its maker with it, until we answer.
    while victim.process().threads().unwrap().len() < 5 {
        seized.handle_events().unwrap();
    }
    let stopped = seized.stop(LONG).unwrap();
    assert_eq!(stopped.threads().count(), 5);
    stopped.detach().unwrap();
    assert_eq!(victim.line(), "ok");
    victim.finish();
}
