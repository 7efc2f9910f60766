//! Remote calls: what they return, what they leave as it was, and what happens when they fail.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails so")]

mod support;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use engraft_process::{Process, RemoteCall, RemoteCallError, StoppedProcess, TargetAddress};
use support::{LONG, Victim, compile};

const STACK: u64 = 64 << 10;
/// In the mapping: code, then the stack.
const CODE_SIZE: u64 = 4096;

/// Each entry starts at a multiple of 256.
const RESTORER: u64 = 0;
const SUM: u64 = 0x100;
const CLOBBER: u64 = 0x200;
const CRASH: u64 = 0x300;
const FOREVER: u64 = 0x400;
const BLOCKED: u64 = 0x500;
const STACK_ALIGNMENT: u64 = 0x600;
const TRAP: u64 = 0x700;

/// Functions assembled by hand, independent of where they are.
fn code(avx: bool) -> Vec<u8> {
    let mut code = vec![0xcc; CODE_SIZE as usize];
    let mut put = |at: u64, bytes: &[u8]| {
        code[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    };
    // mov %rax,%rbx; mov $15,%eax; syscall
    put(RESTORER, &[0x48, 0x89, 0xc3, 0xb8, 15, 0, 0, 0, 0x0f, 0x05]);
    // lea (%rdi,%rsi),%rax; add %rdx,%rax; add %rcx,%rax; add %r8,%rax; add %r9,%rax; ret
    put(
        SUM,
        &[
            0x48, 0x8d, 0x04, 0x37, 0x48, 0x01, 0xd0, 0x48, 0x01, 0xc8, 0x4c, 0x01, 0xc0, 0x4c,
            0x01, 0xc8, 0xc3,
        ],
    );
    // Every general and vector register is destroyed: fninit; then vpcmpeqd ymmN (or pcmpeqd
    // xmmN) with itself: all ones; mov $-1 to the callee-saved ones, except rsp.
    let mut clobber = vec![0xdb, 0xe3];
    for n in 0..16u8 {
        if avx {
            let n3 = n & 7;
            // vpcmpeqd %ymmN,%ymmN,%ymmN
            let (r, b) = if n < 8 { (0x80, 0x20) } else { (0, 0) };
            clobber.extend([
                0xc4,
                r | 0x40 | b | 1,
                ((!n & 15) << 3) | 0x05,
                0x76,
                0xc0 | n3 << 3 | n3,
            ]);
        } else if n < 8 {
            clobber.extend([0x66, 0x0f, 0x76, 0xc0 | n << 3 | n]);
        }
    }
    // xor %ebx,%ebx; xor %ebp,%ebp; xor %r12..%r15; std (cleared by the frame); mov $7,%eax; ret
    clobber.extend([
        0x31, 0xdb, 0x31, 0xed, 0x4d, 0x31, 0xe4, 0x4d, 0x31, 0xed, 0x4d, 0x31, 0xf6,
    ]);
    clobber.extend([0x4d, 0x31, 0xff, 0xfd, 0xb8, 7, 0, 0, 0, 0xc3]);
    put(CLOBBER, &clobber);
    // mov 0,%rax (a null read)
    put(CRASH, &[0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0xc3]);
    // 1: jmp 1b
    put(FOREVER, &[0xeb, 0xfe]);
    // pause(): mov $34,%eax; syscall; ret
    put(BLOCKED, &[0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xc3]);
    // mov %rsp,%rax; and $15,%eax; ret
    put(STACK_ALIGNMENT, &[0x48, 0x89, 0xe0, 0x83, 0xe0, 0x0f, 0xc3]);
    // int3
    put(TRAP, &[0xcc, 0xc3]);
    code
}

struct Code {
    base: TargetAddress,
}

impl Code {
    fn inject(stopped: &mut StoppedProcess) -> Self {
        let arguments = [0, CODE_SIZE + STACK, 5, 0x22, u64::MAX, 0];
        let mut thread = stopped.calling_thread().unwrap();
        let base = thread
            .system_call(libc::SYS_mmap, arguments)
            .unwrap()
            .into();
        let code = code(std::arch::is_x86_feature_detected!("avx2"));
        stopped.write_protected(base, &code).unwrap();
        let stack = [(base + CODE_SIZE).get(), STACK, 3, 0, 0, 0];
        let mut thread = stopped.calling_thread().unwrap();
        thread.system_call(libc::SYS_mprotect, stack).unwrap();
        Self { base }
    }

    fn call(&self, entry: u64, arguments: [u64; 6]) -> RemoteCall {
        RemoteCall {
            entry: self.base + entry,
            arguments,
            stack_top: self.base + CODE_SIZE + STACK,
            restorer: self.base + RESTORER,
            timeout: Duration::from_millis(200),
            only_loader_calls: true,
        }
    }
}

fn spinner(spinning: &str, sleeping: &str) -> Victim {
    Victim::start(&compile("spinner.c", "spinner", &[]), &[spinning, sleeping])
}

#[test]
fn a_call_gets_its_arguments_and_an_aligned_stack_and_returns_its_result() {
    let mut victim = spinner("1", "1");
    let mut stopped = victim.stop();
    let code = Code::inject(&mut stopped);
    let tids: Vec<i32> = stopped.threads().map(|thread| thread.tid).collect();
    assert_eq!(tids.len(), 3);
    for tid in tids {
        let mut thread = stopped.thread(tid).unwrap();
        let before = *thread.registers();
        let sum = thread
            .call(&code.call(SUM, [1, 20, 300, 4000, 50_000, 600_000]))
            .unwrap();
        assert_eq!(sum, 654_321);
        let alignment = thread.call(&code.call(STACK_ALIGNMENT, [0; 6])).unwrap();
        assert_eq!(alignment, 8);
        let after = *stopped.thread(tid).unwrap().registers();
        assert_eq!(before, after);
    }
    stopped.detach().unwrap();
    assert_eq!(victim.ask("?"), "right");
    victim.finish();
}

#[test]
fn all_registers_of_spinning_threads_survive_a_call_that_destroys_them() {
    let mut victim = spinner("2", "0");
    let mut stopped = victim.stop();
    let code = Code::inject(&mut stopped);
    stopped.detach().unwrap();
    for _ in 0..100 {
        let mut stopped = victim.stop();
        let tids: Vec<i32> = stopped.threads().map(|thread| thread.tid).collect();
        for tid in tids {
            let mut thread = stopped.thread(tid).unwrap();
            let before = thread.extended_state().unwrap();
            assert_eq!(thread.call(&code.call(CLOBBER, [0; 6])).unwrap(), 7);
            assert_eq!(thread.extended_state().unwrap(), before);
        }
        stopped.detach().unwrap();
    }
    assert_eq!(victim.ask("?"), "right");
    victim.finish();
}

#[test]
fn a_sleeping_call_is_neither_interrupted_nor_shortened_by_remote_calls() {
    let program = compile("sleeper.c", "sleeper", &[]);
    for (call, number, expected) in [
        ("nanosleep", libc::SYS_nanosleep, "0 in time"),
        ("poll", libc::SYS_poll, "0 in time"),
        ("futex", libc::SYS_futex, "timeout in time"),
        ("epoll_pwait", libc::SYS_epoll_pwait, "0 in time"),
        ("select", libc::SYS_select, "0 in time"),
    ] {
        let mut victim = Victim::start(&program, &[call, "1000"]);
        let tid: i32 = victim.line().parse().unwrap();
        victim.await_sleep(tid, number);
        let mut stopped = victim.stop();
        let code = Code::inject(&mut stopped);
        let mut thread = stopped.thread(tid).unwrap();
        assert_eq!(thread.call(&code.call(CLOBBER, [0; 6])).unwrap(), 7);
        assert!(thread.call(&code.call(CRASH, [0; 6])).is_err());
        assert!(thread.call(&code.call(BLOCKED, [0; 6])).is_err());
        stopped.detach().unwrap();
        assert_eq!(victim.line(), expected, "{call}");
        victim.finish();
    }
}

#[test]
fn a_signal_of_the_programs_own_still_interrupts_a_call() {
    let program = compile("sleeper.c", "sleeper", &[]);
    for (call, number) in [
        ("nanosleep", libc::SYS_nanosleep),
        ("epoll_wait", libc::SYS_epoll_wait),
        ("semtimedop", libc::SYS_semtimedop),
    ] {
        let mut victim = Victim::start(&program, &[call, "10000"]);
        let tid: i32 = victim.line().parse().unwrap();
        victim.await_sleep(tid, number);
        let mut stopped = victim.stop();
        let mut thread = stopped.thread(tid).unwrap();
        thread.system_call(libc::SYS_getpid, [0; 6]).unwrap();
        // The signal comes after all that we did, and before the thread continues.
        #[expect(
            unsafe_code,
            reason = "no safe wrapper signals a thread of another process"
        )]
        // SAFETY: tgkill takes plain numbers.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, victim.pid, tid, libc::SIGUSR1) };
        assert_eq!(sent, 0);
        stopped.detach().unwrap();
        assert_eq!(victim.line(), "EINTR early", "{call}");
        victim.finish();
    }
}

/// With CAP_SYS_ADMIN the filter is suspended for the call; without, what it may forbid is refused.
#[test]
fn a_thread_with_a_seccomp_filter_is_never_killed_by_our_calls() {
    let mut victim = Victim::start(&compile("idle.c", "idle", &[]), &[]);
    let mut stopped = victim.stop();
    let code = Code::inject(&mut stopped);
    stopped.detach().unwrap();
    assert_eq!(victim.ask("seccomp"), "0");
    for sleeping in [false, true] {
        if sleeping {
            victim.tell("nanosleep 100");
            victim.await_sleep(victim.pid, libc::SYS_nanosleep);
        } else {
            victim.await_sleep(victim.pid, libc::SYS_read);
        }
        let mut stopped = victim.stop();
        let mut thread = stopped.calling_thread().unwrap();
        match thread.system_call(libc::SYS_getpid, [0; 6]) {
            Ok(pid) => assert_eq!(pid, victim.pid as u64),
            Err(RemoteCallError::Seccomp { .. }) => {}
            other => panic!("{other:?}"),
        }
        // A loader's call works in every case.
        let mapped = thread
            .system_call(libc::SYS_mmap, [0, 4096, 3, 0x22, u64::MAX, 0])
            .unwrap();
        thread
            .system_call(libc::SYS_munmap, [mapped, 4096, 0, 0, 0, 0])
            .unwrap();
        assert_eq!(thread.call(&code.call(CLOBBER, [0; 6])).unwrap(), 7);
        // To choose the best thread must not put the filter in force under a call that has
        // returned.
        let _ = stopped.calling_thread().unwrap();
        stopped.detach().unwrap();
        if sleeping {
            assert_eq!(victim.line(), "0");
        }
        assert!(victim.ask("address").starts_with("0x"));
    }
    // The filter is in force again.
    victim.tell("pid");
    let status = victim.child.wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGSYS));
}

#[test]
fn a_process_survives_the_failure_of_any_effect() {
    let mut victim = spinner("1", "1");
    let mut stopped = victim.stop();
    let base = Code::inject(&mut stopped).base.get();
    stopped.detach().unwrap();
    // More than there are: the last ones find nothing to make fail.
    for step in 1..=40 {
        let output = tracer(&victim, victim.pid, "call", base)
            .env("ENGRAFT_PROCESS_FAIL_AT", step.to_string())
            .output()
            .unwrap();
        assert!(output.status.code().is_some(), "{step} {output:?}");
        assert_eq!(victim.ask("?"), "right", "{step}");
        assert_eq!(victim.status("TracerPid"), "0");
    }
    victim.finish();
}

#[test]
fn a_call_that_crashes_is_reported_and_leaves_the_thread_as_it_was() {
    let mut victim = spinner("1", "1");
    let mut stopped = victim.stop();
    let code = Code::inject(&mut stopped);
    let tids: Vec<i32> = stopped.threads().map(|thread| thread.tid).collect();
    for (entry, expected) in [(CRASH, libc::SIGSEGV), (TRAP, libc::SIGTRAP)] {
        for tid in &tids {
            let mut thread = stopped.thread(*tid).unwrap();
            let before = *thread.registers();
            match thread.call(&code.call(entry, [0; 6])) {
                Err(RemoteCallError::Crashed {
                    signal,
                    instruction_pointer,
                    ..
                }) => {
                    assert_eq!(signal, expected);
                    assert!(instruction_pointer - (code.base + entry) < 16);
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(*stopped.thread(*tid).unwrap().registers(), before);
        }
    }
    stopped.detach().unwrap();
    assert_eq!(victim.ask("?"), "right");
    victim.finish();
}

#[test]
fn a_call_that_does_not_return_is_ended() {
    let mut victim = spinner("1", "1");
    let mut stopped = victim.stop();
    let code = Code::inject(&mut stopped);
    for entry in [FOREVER, BLOCKED] {
        let mut thread = stopped.calling_thread().unwrap();
        let before = *thread.registers();
        let result = thread.call(&code.call(entry, [0; 6]));
        assert!(
            matches!(result, Err(RemoteCallError::TimedOut { .. })),
            "{result:?}"
        );
        assert_eq!(*stopped.calling_thread().unwrap().registers(), before);
    }
    stopped.detach().unwrap();
    assert_eq!(victim.ask("?"), "right");
    victim.finish();
}

/// Not a test by itself: the tracer that kills itself in the middle of what the variable says.
/// The test below starts this very program with it.
#[test]
fn tracer_that_dies() {
    let Ok(plan) = std::env::var("ENGRAFT_TEST_TRACER") else {
        return;
    };
    let words: Vec<&str> = plan.split(' ').collect();
    let process = Process::open(words[0].parse().unwrap()).unwrap();
    let tid: i32 = words[1].parse().unwrap();
    let base: u64 = words[3].parse().unwrap();
    let mut stopped = process.stop(LONG).unwrap();
    if words[2] == "system_call" {
        let _ = stopped
            .thread(tid)
            .unwrap()
            .system_call(libc::SYS_getpid, [0; 6]);
    } else {
        let code = Code { base: base.into() };
        let _ = stopped
            .thread(tid)
            .unwrap()
            .call(&code.call(CLOBBER, [0; 6]));
    }
    // Undoing the call belongs to the call, although it waits until threads are resumed.
    drop(stopped);
    // The stop point of a further step than there are.
    std::process::exit(42);
}

/// The tracer above.
fn tracer(victim: &Victim, tid: i32, what: &str, base: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["tracer_that_dies", "--exact", "--nocapture"]);
    command.env(
        "ENGRAFT_TEST_TRACER",
        format!("{} {tid} {what} {base}", victim.pid),
    );
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Runs the tracer above, which kills itself at the step; says whether it got there.
fn die_at(step: u32, victim: &Victim, tid: i32, what: &str, base: u64) -> bool {
    let output = tracer(victim, tid, what, base)
        .env("ENGRAFT_PROCESS_DIE_AT", step.to_string())
        .status()
        .unwrap();
    match (output.signal(), output.code()) {
        (Some(libc::SIGKILL), _) => true,
        (_, Some(42)) => false,
        other => panic!("the tracer ended with {other:?}"),
    }
}

fn survives_a_tracer_that_dies_anywhere(what: &str) {
    let mut victim = spinner("1", "1");
    let mut stopped = victim.stop();
    let base = Code::inject(&mut stopped).base.get();
    let tids: Vec<i32> = stopped.threads().map(|thread| thread.tid).collect();
    stopped.detach().unwrap();
    let mut steps = 0;
    for tid in tids {
        let mut step = 1;
        while die_at(step, &victim, tid, what, base) {
            assert_eq!(victim.ask("?"), "right", "{what} {step}");
            // No thread stays stopped, and no signals stay blocked, as soon as every thread has
            // had the processor again.
            let started = Instant::now();
            for tid in victim.process().threads().unwrap() {
                let status = format!("/proc/{}/task/{tid}/status", victim.pid);
                let text = || std::fs::read_to_string(&status).unwrap();
                while !text().contains("SigBlk:\t0000000000000000") {
                    assert!(started.elapsed() < LONG, "{what} {step}\n{}", text());
                    std::thread::yield_now();
                }
            }
            step += 1;
        }
        steps += step - 1;
    }
    assert!(steps > 3 * 10, "only {steps} steps");
    victim.finish();
}

#[test]
fn a_process_survives_a_tracer_that_dies_anywhere_in_a_remote_call() {
    survives_a_tracer_that_dies_anywhere("call");
}

#[test]
fn a_process_survives_a_tracer_that_dies_anywhere_in_a_remote_system_call() {
    survives_a_tracer_that_dies_anywhere("system_call");
}
