//! Stops in two halves, and stops of some threads: which threads are stopped, and which run.
#![expect(clippy::unwrap_used, reason = "a test fails so")]

mod support;

use std::time::{Duration, Instant};

use engraft_process::{Process, StopError, TargetAddress, TaskState, ThreadState};
use support::{LONG, Victim, compile};

fn state(process: &Process, tid: i32) -> TaskState {
    process.task(tid).stat().unwrap().unwrap().state
}

/// Waits until all threads but `running` sleep.
fn settle(process: &Process, running: usize) -> (Vec<i32>, Vec<i32>) {
    loop {
        let tids = process.threads().unwrap();
        let sleeps = |tid: &i32| state(process, *tid) == TaskState::Sleeping;
        let (sleepers, runners): (Vec<i32>, Vec<i32>) = tids.into_iter().partition(sleeps);
        if runners.len() == running {
            return (sleepers, runners);
        }
        std::thread::yield_now();
    }
}

/// Waits until a thread has run for a while.
fn await_progress(process: &Process, tid: i32) {
    let ran = || {
        process
            .task(tid)
            .scheduler_counters()
            .unwrap()
            .unwrap()
            .running
    };
    let (before, started) = (ran(), Instant::now());
    while ran() < before + 1_000_000 {
        assert!(started.elapsed() < LONG, "thread {tid} stands still");
        std::thread::yield_now();
    }
}

fn spinner(spinning: &str, sleeping: &str) -> Victim {
    Victim::start(&compile("spinner.c", "spinner", &[]), &[spinning, sleeping])
}

#[test]
fn sleepers_stay_stopped_while_runners_continue() {
    let mut victim = spinner("1", "20");
    let process = victim.process();
    let (sleepers, runners) = settle(&process, 1);
    let partly = process.seize(LONG).unwrap().stop_sleepers(LONG).unwrap();
    let before: Vec<ThreadState> = partly.threads().collect();
    assert_eq!(before.len(), sleepers.len());
    for thread in &before {
        assert!(sleepers.contains(&thread.tid) && !thread.was_running);
        assert_eq!(state(&process, thread.tid), TaskState::Traced);
    }
    await_progress(&process, runners[0]);
    assert_eq!(state(&process, runners[0]), TaskState::Running);
    let mut stopped = partly.stop_rest(LONG).unwrap();
    assert_eq!(stopped.threads().count(), 22);
    for thread in &before {
        let after = stopped.thread(thread.tid).unwrap();
        assert_eq!(*after.registers(), thread.registers);
    }
    let runner = stopped.thread(runners[0]).unwrap();
    assert!(runner.state().was_running);
    stopped.detach().unwrap();
    assert_eq!(victim.ask("?"), "right");
    // It may also end half-way, in both ways.
    let partly = || process.seize(LONG).unwrap().stop_sleepers(LONG).unwrap();
    drop(partly());
    assert_eq!(victim.ask("?"), "right");
    partly().detach().unwrap();
    assert_eq!(victim.ask("?"), "right");
    victim.finish();
}

#[test]
fn threads_that_are_born_between_the_halves_are_stopped() {
    for answers in [true, false] {
        let mut victim = Victim::start(&compile("births.c", "births", &[]), &[]);
        let wanted = TargetAddress::new(victim.line().parse().unwrap());
        let process = victim.process();
        settle(&process, 1);
        let mut partly = process.seize(LONG).unwrap().stop_sleepers(LONG).unwrap();
        process.memory().write(wanted, &3u64.to_le_bytes()).unwrap();
        // Unanswered, the thread that starts others is stopped after the first.
        let expected = if answers { 5 } else { 3 };
        let started = Instant::now();
        while process.threads().unwrap().len() < expected {
            assert!(started.elapsed() < LONG);
            if answers {
                partly.handle_events().unwrap();
            }
        }
        // None of them has been stopped by it.
        assert_eq!(partly.threads().count(), 1);
        let stopped = partly.stop_rest(LONG).unwrap();
        let tids = process.threads().unwrap();
        assert_eq!(stopped.threads().count(), tids.len());
        for tid in tids {
            assert_eq!(state(&process, tid), TaskState::Traced);
        }
        stopped.detach().unwrap();
        // All threads are there, also those that were not yet started at the stop.
        while process.threads().unwrap().len() < 5 {
            assert!(started.elapsed() < LONG);
            std::thread::yield_now();
        }
        assert_eq!(victim.ask("?"), "goes on");
        victim.finish();
    }
}

#[test]
fn halves_among_threads_that_come_and_go() {
    let mut victim = Victim::start(&compile("churn.c", "churn", &[]), &["8"]);
    for _ in 0..100 {
        let seized = victim.process().seize(LONG).unwrap();
        let mut partly = seized.stop_sleepers(LONG).unwrap();
        partly.handle_events().unwrap();
        let stopped = partly.stop_rest(LONG).unwrap();
        for tid in stopped.process().threads().unwrap() {
            let state = state(stopped.process(), tid);
            assert!(matches!(state, TaskState::Traced | TaskState::Dead));
        }
        stopped.detach().unwrap();
    }
    assert_eq!(victim.ask("?"), "goes on");
    victim.finish();
}

#[test]
fn only_the_threads_that_are_asked_for_are_stopped() {
    let mut victim = spinner("1", "4");
    let process = victim.process();
    let (sleepers, runners) = settle(&process, 1);
    // The first thread is to answer.
    let chosen: Vec<i32> = sleepers
        .iter()
        .copied()
        .filter(|tid| *tid != victim.pid)
        .collect();
    let chosen = &chosen[..2];
    let mut some = process.stop_threads(chosen, LONG).unwrap();
    let stopped: Vec<i32> = some.threads().map(|thread| thread.tid).collect();
    assert_eq!(stopped, chosen);
    for tid in process.threads().unwrap() {
        let stands_still = state(&process, tid) == TaskState::Traced;
        assert_eq!(stands_still, chosen.contains(&tid));
    }
    await_progress(&process, runners[0]);
    assert_eq!(victim.ask("?"), "right");
    let mut thread = some.thread(chosen[1]).unwrap();
    let pid = thread.system_call(libc::SYS_getpid, [0; 6]).unwrap();
    assert_eq!(pid, victim.pid as u64);
    some.detach().unwrap();
    // A runner alone; dropping lets it go too.
    let some = process.stop_threads(&runners, LONG).unwrap();
    assert_eq!(state(&process, runners[0]), TaskState::Traced);
    drop(some);
    assert_eq!(victim.ask("?"), "right");
    victim.finish();
}

#[test]
fn threads_that_have_ended_are_left_out() {
    let victim = Victim::start(&compile("idle.c", "idle", &[]), &["exit-leader"]);
    let foreign = spinner("0", "1");
    let process = victim.process();
    let other = loop {
        let tids = process.threads().unwrap();
        let other = tids.into_iter().find(|tid| *tid != victim.pid).unwrap();
        if state(&process, victim.pid) == TaskState::Dead {
            break other;
        }
    };
    let some = process.stop_threads(&[victim.pid, foreign.pid, other], LONG);
    let some = some.unwrap();
    let tids: Vec<i32> = some.threads().map(|thread| thread.tid).collect();
    assert_eq!(tids, [other]);
    assert_eq!(foreign.status("TracerPid"), "0");
    some.detach().unwrap();
    let none = process.stop_threads(&[victim.pid], LONG).unwrap();
    assert_eq!(none.threads().count(), 0);
    none.detach().unwrap();
    foreign.finish();
    // The list of threads of a process that has ended is no list of threads.
    let mut victim = victim;
    victim.child.kill().unwrap();
    victim.child.wait().unwrap();
    let gone = process.stop_threads(&[other], Duration::from_secs(1));
    assert!(gone.is_err());
}

/// Whether it sleeps or runs when it is looked at for the first time or for the second: it is
/// there.
#[test]
fn a_thread_that_sleeps_and_runs_in_turns_can_be_borrowed() {
    let victim = Victim::start(&compile("flicker.c", "flicker", &[]), &[]);
    for _ in 0..500 {
        // Each time without the memory of which thread was borrowed last.
        let process = victim.process();
        let mut borrowed = process.borrow_thread(LONG).unwrap();
        assert_eq!(borrowed.thread().unwrap().state().tid, process.pid());
        borrowed.detach().unwrap();
    }
}

#[test]
fn threads_are_stopped_one_at_a_time() {
    let mut victim = spinner("1", "4");
    let process = victim.process();
    settle(&process, 1);
    let mut all = process.threads().unwrap();
    let mut looked_at = Vec::new();
    let result = process.stop_each(&all, LONG, |thread| {
        looked_at.push(thread.state().tid);
        let stands_still = |tid: &&i32| state(&process, **tid) == TaskState::Traced;
        let standing: Vec<&i32> = all.iter().filter(stands_still).collect();
        assert_eq!(standing, [&thread.state().tid]);
        Ok::<_, StopError>(())
    });
    result.unwrap();
    looked_at.sort_unstable();
    all.sort_unstable();
    assert_eq!(looked_at, all);
    assert_eq!(victim.ask("?"), "right");
    victim.finish();
}

#[test]
fn threads_that_wait_for_a_processor_are_looked_at_too() {
    let mut victim = spinner("20", "4");
    let process = victim.process();
    let (_, runners) = settle(&process, 20);
    for _ in 0..10 {
        let mut looked_at = Vec::new();
        let result = process.stop_each(&runners, LONG, |thread| {
            let tid = thread.state().tid;
            looked_at.push(tid);
            assert_eq!(state(&process, tid), TaskState::Traced);
            let pid = thread.system_call(libc::SYS_getpid, [0; 6]).unwrap();
            assert_eq!(pid, process.pid() as u64);
            Ok::<_, StopError>(())
        });
        result.unwrap();
        looked_at.sort_unstable();
        assert_eq!(looked_at, runners);
        for tid in &runners {
            assert_eq!(state(&process, *tid), TaskState::Running);
        }
    }
    // The way out in the middle.
    let given_up = process.stop_each(&runners, LONG, |_| Err(StopError::Gone { pid: 0 }));
    assert!(matches!(given_up, Err(StopError::Gone { pid: 0 })));
    for tid in &runners {
        assert_eq!(state(&process, *tid), TaskState::Running);
    }
    assert_eq!(victim.ask("?"), "right");
    victim.finish();
}

/// Its thread gets the number of the first one, which is not traced.
#[test]
fn no_thread_stays_stopped_after_an_exec() {
    let victim = Victim::start(&compile("execs.c", "execs", &[]), &[""]);
    let process = victim.process();
    let (mut executed, started) = (0, Instant::now());
    while executed < 20 {
        assert!(started.elapsed() < LONG, "seen {executed} times");
        let others: Vec<i32> = process.threads().unwrap();
        let others: Vec<i32> = others
            .into_iter()
            .filter(|tid| *tid != victim.pid)
            .collect();
        let result = process.stop_each(&others, LONG, |_| Ok::<_, StopError>(()));
        executed += i32::from(matches!(result, Err(StopError::Executed { .. })));
        let borrowed = process.stop_threads(&others, LONG);
        executed += i32::from(matches!(borrowed, Err(StopError::Executed { .. })));
        drop(borrowed);
        // A first thread that is ending, because of the next exec, cannot be detached any more.
        while victim.status("TracerPid") != "0" {
            assert!(started.elapsed() < LONG, "it stands still");
            std::thread::yield_now();
        }
    }
}

/// For a moment the first thread has no memory any more, and no other one has its number.
#[test]
fn a_process_is_there_while_it_runs_another_program() {
    let victim = Victim::start(&compile("execs.c", "execs", &[]), &[""]);
    for _ in 0..10_000 {
        assert_eq!(victim.process().pid(), victim.pid);
    }
}

/// The exec has killed the stopped threads, and waits for their ends.
#[test]
fn an_exec_while_sleepers_are_stopped() {
    let victim = Victim::start(&compile("execs.c", "execs", &[]), &[""]);
    let process = victim.process();
    let (mut executed, started) = (0, Instant::now());
    while executed < 10 {
        assert!(started.elapsed() < LONG, "seen {executed} times");
        let Ok(partly) = process.seize(LONG).and_then(|it| it.stop_sleepers(LONG)) else {
            continue;
        };
        let runs = |tid: &i32| {
            let stat = process.task(*tid).stat().unwrap();
            stat.is_some_and(|stat| stat.state == TaskState::Running)
        };
        // Until the exec waits for that, or its thread is stopped itself.
        while process.threads().unwrap().iter().any(runs) {
            assert!(started.elapsed() < LONG);
            std::thread::yield_now();
        }
        let stopped = partly.stop_rest(LONG);
        executed += i32::from(matches!(stopped, Err(StopError::Executed { .. })));
    }
}

/// Whether it happens to sleep or to run when it is looked at.
///
/// How often the thread wakes is up to the machine. So a round counts if the thread has woken often
/// enough in it, by the scheduler's own count.
#[test]
fn a_thread_that_wakes_often_is_stopped_no_longer_than_runners() {
    /// A thread that wakes less often than once in this time need not be told from a sleeper.
    const OFTEN: Duration = Duration::from_millis(20);
    /// Wakes in a round that a stop of ours may have caused.
    const OURS: u64 = 6;
    let mut victim = Victim::start(&compile("pause.c", "pause", &[]), &["timer", "3"]);
    let process = victim.process();
    assert_eq!(victim.ask("window"), "measuring");
    let slices = || {
        let counters = process.task(victim.pid).scheduler_counters();
        counters.unwrap().unwrap().slices
    };
    let (started, mut counted) = (Instant::now(), 0);
    while counted < 20 {
        assert!(
            started.elapsed() < LONG,
            "it woke often in {counted} rounds"
        );
        let (begun, before) = (Instant::now(), slices());
        process.watch_sleepers();
        while slices() <= before + OURS {
            std::thread::yield_now();
        }
        let mut others = process.threads().unwrap();
        others.retain(|tid| *tid != victim.pid);
        while !others
            .iter()
            .all(|tid| state(&process, *tid) == TaskState::Sleeping)
        {
            assert!(started.elapsed() < LONG);
            std::thread::yield_now();
        }
        let woken = u32::try_from(slices() - before - OURS).unwrap();
        let partly = process.seize(LONG).unwrap().stop_sleepers(LONG).unwrap();
        let wakes_often = begun.elapsed() < OFTEN * woken;
        let sleepers = partly.threads().count();
        assert!(sleepers > 0);
        if wakes_often {
            assert!(partly.threads().all(|thread| thread.tid != victim.pid));
        }
        let mut stopped = partly.stop_rest(LONG).unwrap();
        assert_eq!(stopped.threads().count(), 4);
        // A sleeper that others kept from going back to sleep may seem to wake often, too.
        if wakes_often && sleepers == others.len() {
            let calling = stopped.calling_thread().unwrap();
            assert_ne!(calling.state().tid, victim.pid);
            counted += 1;
        }
        stopped.detach().unwrap();
    }
    victim.ask("end");
    victim.finish();
}
