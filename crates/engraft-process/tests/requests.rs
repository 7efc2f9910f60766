//! Requests of a called function to its caller: served by a tracer that lives, harmless without
//! one; and calls in parts, prepared before all threads are stopped.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails so")]

mod support;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use engraft_process::{
    Asker, MemoryError, Process, REQUEST_LENGTH, RemoteCall, RemoteCallError, Requests, Seen,
    StoppedThread, TargetAddress,
};
use support::{LONG, Victim, compile};

const STACK: u64 = 64 << 10;
/// In the mapping: code, then what the function writes and reads, then the stack.
const CODE_SIZE: u64 = 4096;
const FUNCTION: u64 = 0x100;
const WAITING_FUNCTION: u64 = 0x200;
/// In the record: two words to be set by the server, then how often the function began and
/// ended.
const BEGUN: u64 = 16;
const ENDED: u64 = 24;
/// In the record of the function that waits: whether it asks, and how often it has stopped for
/// that.
const ASKED: u64 = 16;
const STOPS: u64 = 24;

/// `mov $5,%edx; xor %eax,%eax; syscall`: no request.
const OTHER_CALL: [u8; 9] = [0xba, 5, 0, 0, 0, 0x31, 0xc0, 0x0f, 0x05];

/// A function that makes two requests, and after each of them a system call that is none.
fn function() -> Vec<u8> {
    // incq 16(%rdi); mov %rdi,%r8
    let mut code = vec![0x48, 0xff, 0x47, 0x10, 0x49, 0x89, 0xf8];
    // mov %r8,%rsi; mov $-1,%edi
    code.extend([0x4c, 0x89, 0xc6, 0xbf, 0xff, 0xff, 0xff, 0xff]);
    let request = |code: &mut Vec<u8>| {
        // mov $REQUEST_LENGTH,%rdx; xor %eax,%eax; syscall
        code.extend([0x48, 0xba]);
        code.extend(REQUEST_LENGTH.to_le_bytes());
        code.extend([0x31, 0xc0, 0x0f, 0x05]);
    };
    request(&mut code);
    code.extend(OTHER_CALL);
    // lea 8(%r8),%rsi
    code.extend([0x49, 0x8d, 0x70, 0x08]);
    request(&mut code);
    // And one after both.
    code.extend(OTHER_CALL);
    // mov (%r8),%rax; add 8(%r8),%rax; incq 24(%r8); ret
    code.extend([
        0x49, 0x8b, 0x00, 0x49, 0x03, 0x40, 0x08, 0x49, 0xff, 0x40, 0x18, 0xc3,
    ]);
    code
}

/// A function that asks in its record, waits for the answer for a while, and stops for it only
/// then.
fn waiting_function() -> Vec<u8> {
    // mov %rdi,%r8; movq $1,ASKED(%r8); mov $100000,%ecx
    let mut code = vec![0x49, 0x89, 0xf8, 0x49, 0xc7, 0x40, ASKED as u8, 1, 0, 0, 0];
    code.extend([0xb9, 0xa0, 0x86, 0x01, 0x00]);
    // 1: pause; cmpq $0,(%r8); jne 2f; dec %ecx; jne 1b
    code.extend([
        0xf3, 0x90, 0x49, 0x83, 0x38, 0x00, 0x75, 30, 0xff, 0xc9, 0x75, 0xf4,
    ]);
    // incq STOPS(%r8); mov %r8,%rsi; mov $-1,%edi
    code.extend([0x49, 0xff, 0x40, STOPS as u8, 0x4c, 0x89, 0xc6]);
    code.extend([0xbf, 0xff, 0xff, 0xff, 0xff]);
    // mov $REQUEST_LENGTH,%rdx; xor %eax,%eax; syscall
    code.extend([0x48, 0xba]);
    code.extend(REQUEST_LENGTH.to_le_bytes());
    code.extend([0x31, 0xc0, 0x0f, 0x05]);
    // 2: mov (%r8),%rax; ret
    code.extend([0x49, 0x8b, 0x00, 0xc3]);
    code
}

struct Code {
    process: Process,
    base: TargetAddress,
}

impl Code {
    fn inject(process: Process) -> Self {
        let mut stopped = process.stop(LONG).unwrap();
        let arguments = [0, CODE_SIZE + STACK, 3, 0x22, u64::MAX, 0];
        let mut thread = stopped.calling_thread().unwrap();
        let mapped = thread.system_call(libc::SYS_mmap, arguments).unwrap();
        let arguments = [mapped, CODE_SIZE, 5, 0, 0, 0];
        thread.system_call(libc::SYS_mprotect, arguments).unwrap();
        let base = TargetAddress::new(mapped);
        // mov %rax,%rbx; mov $15,%eax; syscall
        let restorer = [0x48, 0x89, 0xc3, 0xb8, 15, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
        stopped.write_protected(base, &restorer).unwrap();
        stopped
            .write_protected(base + FUNCTION, &function())
            .unwrap();
        stopped
            .write_protected(base + WAITING_FUNCTION, &waiting_function())
            .unwrap();
        stopped.detach().unwrap();
        Self { process, base }
    }

    fn record(&self) -> TargetAddress {
        self.base + CODE_SIZE
    }

    fn word(&self, offset: u64) -> u64 {
        self.process
            .memory()
            .read_u64(self.record() + offset)
            .unwrap()
    }

    fn clear(&self) {
        self.process
            .memory()
            .write(self.record(), &[0; 32])
            .unwrap();
    }

    fn call(&self) -> RemoteCall {
        RemoteCall {
            entry: self.base + FUNCTION,
            arguments: [self.record().get(), 0, 0, 0, 0, 0],
            stack_top: self.base + CODE_SIZE + STACK,
            restorer: self.base,
            timeout: LONG,
            only_loader_calls: true,
        }
    }

    fn waiting_call(&self) -> RemoteCall {
        RemoteCall {
            entry: self.base + WAITING_FUNCTION,
            ..self.call()
        }
    }

    /// Makes the call, and serves the first request by 1, the second by 2, and so on.
    fn serve(&self, thread: &mut StoppedThread<'_>) -> (Result<u64, RemoteCallError>, Vec<u64>) {
        let mut seen = Vec::new();
        let result = serving(thread, &self.call(), |record| {
            seen.push(record - self.record());
            let value = seen.len() as u64;
            self.process.memory().write(record, &value.to_le_bytes())
        });
        (result, seen)
    }
}

/// Makes a call, and serves the requests that it stops for.
fn serving(
    thread: &mut StoppedThread<'_>,
    call: &RemoteCall,
    mut serve: impl FnMut(TargetAddress) -> Result<(), MemoryError>,
) -> Result<u64, RemoteCallError> {
    let mut requests = Requests {
        watched: None,
        serve: &mut |record, _| serve(record).map(|()| Seen::Request),
    };
    thread.call_serving(call, &mut requests)
}

fn spinner(spinning: &str, sleeping: &str) -> Victim {
    Victim::start(&compile("spinner.c", "spinner", &[]), &[spinning, sleeping])
}

#[test]
fn each_request_is_served_once_and_nothing_else_is() {
    let mut victim = spinner("1", "1");
    let code = Code::inject(victim.process());
    let mut stopped = victim.stop();
    let tids: Vec<i32> = stopped.threads().map(|thread| thread.tid).collect();
    for tid in tids {
        let mut thread = stopped.thread(tid).unwrap();
        let before = (*thread.registers(), thread.extended_state().unwrap());
        let (result, seen) = code.serve(&mut thread);
        assert_eq!((result.unwrap(), seen), (3, vec![0, 8]));
        let mut thread = stopped.thread(tid).unwrap();
        assert_eq!(
            (*thread.registers(), thread.extended_state().unwrap()),
            before
        );
        // Restored early or late, it is the same.
        let registers = *thread.registers();
        thread.set_registers(&registers).unwrap();
        assert_eq!(thread.extended_state().unwrap(), before.1);
        code.clear();
    }
    stopped.detach().unwrap();
    assert_eq!(victim.ask("?"), "right");
    victim.finish();
}

#[test]
fn requests_are_served_while_the_function_runs_or_when_it_stops_for_them() {
    let mut victim = spinner("1", "1");
    let code = Code::inject(victim.process());
    let call = code.waiting_call();
    let memory = code.process.memory();
    let mut serve = |record: TargetAddress, _| {
        if memory.read_u64(record + ASKED)? == 0 {
            return Ok(Seen::Work);
        }
        memory.write(record + ASKED, &0_u64.to_le_bytes())?;
        memory.write(record, &7_u64.to_le_bytes())?;
        Ok(Seen::Request)
    };
    let mut stopped = victim.stop();
    for watched in [None, Some(code.record())] {
        let mut requests = Requests {
            watched,
            serve: &mut serve,
        };
        let started = Instant::now();
        loop {
            code.clear();
            let mut thread = stopped.calling_thread().unwrap();
            let result = thread.call_serving(&call, &mut requests);
            assert_eq!((result.unwrap(), code.word(ASKED)), (7, 0));
            let stops = code.word(STOPS);
            let processors = std::thread::available_parallelism().unwrap().get();
            match watched {
                None => assert_eq!(stops, 1),
                // Others may need the processors. In the end it gets one of its own.
                Some(_) if stops == 1 && processors > 1 => {
                    assert!(started.elapsed() < LONG);
                    continue;
                }
                Some(_) => {}
            }
            break;
        }
    }
    stopped.detach().unwrap();
    assert_eq!(victim.ask("?"), "right");
    victim.finish();
}

#[test]
fn what_cannot_be_served_while_the_function_runs_is_served_when_it_stops() {
    let mut victim = spinner("1", "1");
    let code = Code::inject(victim.process());
    let memory = code.process.memory();
    let looks = std::cell::Cell::new(0);
    let mut serve = |record: TargetAddress, asker| match asker {
        Asker::Runs => {
            looks.set(looks.get() + 1);
            let nowhere = TargetAddress::new(8);
            memory.read_u64(nowhere).map(|_| Seen::Request)
        }
        Asker::Stopped => {
            memory.write(record, &7_u64.to_le_bytes())?;
            Ok(Seen::Request)
        }
    };
    let mut requests = Requests {
        watched: Some(code.record()),
        serve: &mut serve,
    };
    let call = code.waiting_call();
    let mut stopped = victim.stop();
    let processors = std::thread::available_parallelism().unwrap().get();
    let started = Instant::now();
    loop {
        code.clear();
        let mut thread = stopped.calling_thread().unwrap();
        let result = thread.call_serving(&call, &mut requests);
        assert_eq!((result.unwrap(), code.word(STOPS)), (7, 1));
        // On one processor either it runs, or we look.
        if looks.get() > 0 || processors == 1 {
            break;
        }
        assert!(started.elapsed() < LONG);
    }
    stopped.detach().unwrap();
    assert_eq!(victim.ask("?"), "right");
    victim.finish();
}

#[test]
fn requests_that_nobody_serves_are_harmless() {
    let mut victim = spinner("1", "1");
    let code = Code::inject(victim.process());
    let mut stopped = victim.stop();
    let mut thread = stopped.calling_thread().unwrap();
    assert_eq!(thread.call(&code.call()).unwrap(), 0);
    assert_eq!(code.word(ENDED), 1);
    stopped.detach().unwrap();
    assert_eq!(victim.ask("?"), "right");
    victim.finish();
}

#[test]
fn a_failure_to_serve_is_told_when_the_call_has_ended() {
    let mut victim = spinner("1", "1");
    let code = Code::inject(victim.process());
    let mut stopped = victim.stop();
    let mut thread = stopped.calling_thread().unwrap();
    let before = *thread.registers();
    let nowhere = |page: u64| TargetAddress::new(0x10_0000_0000 + page * 4096);
    let mut served = 0;
    let result = serving(&mut thread, &code.call(), |_| {
        served += 1;
        code.process.memory().write(nowhere(served), b"x")
    });
    match result {
        Err(RemoteCallError::Memory(MemoryError::Unmapped { address, .. })) => {
            assert_eq!(address, nowhere(1));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((served, code.word(BEGUN), code.word(ENDED)), (2, 1, 1));
    let mut thread = stopped.calling_thread().unwrap();
    assert_eq!(*thread.registers(), before);
    assert_eq!(code.serve(&mut thread).0.unwrap(), 3);
    stopped.detach().unwrap();
    assert_eq!(victim.ask("?"), "right");
    victim.finish();
}

#[test]
fn read_only_pages_can_be_written_while_a_request_is_served() {
    let mut victim = spinner("1", "1");
    let code = Code::inject(victim.process());
    let mut stopped = victim.stop();
    let mut thread = stopped.calling_thread().unwrap();
    let writer = thread.protected_writer();
    let place = code.base + 0x803;
    let result = serving(&mut thread, &code.call(), |_| {
        writer.write(place, b"written")
    });
    assert_eq!(result.unwrap(), 0);
    assert_eq!(stopped.memory().read_array(place).unwrap(), *b"written");
    stopped.detach().unwrap();
    assert_eq!(victim.ask("?"), "right");
    victim.finish();
}

#[test]
fn a_call_is_prepared_while_runners_continue() {
    let mut victim = spinner("1", "3");
    let process = victim.process();
    let code = Code::inject(process.clone());
    for round in 0..20 {
        let seized = process.seize(LONG).unwrap();
        let mut partly = seized.stop_sleepers(LONG).unwrap();
        // The victim may find all of its threads on a processor at this moment.
        let prepared = partly.prepare_call(&code.call()).unwrap();
        let mut stopped = partly.stop_rest(LONG).unwrap();
        if round % 4 == 0 {
            // One that is not made leaves no mark.
            stopped.detach().unwrap();
            continue;
        }
        let mut thread = stopped.calling_thread().unwrap();
        assert!(prepared.is_none_or(|tid| thread.state().tid == tid));
        for _ in 0..2 {
            let (result, seen) = code.serve(&mut thread);
            assert_eq!((result.unwrap(), seen), (3, vec![0, 8]));
            code.clear();
        }
        if round % 4 == 1 {
            // The thread that made a call is resumed like the others, still traced.
            let mut seized = stopped.resume().unwrap();
            let started = Instant::now();
            while started.elapsed() < Duration::from_millis(1) {
                seized.handle_events().unwrap();
            }
            stopped = seized.stop(LONG).unwrap();
        }
        stopped.detach().unwrap();
        assert_eq!(victim.ask("?"), "right");
    }
    victim.finish();
}

/// Not a test by itself: the tracer that kills itself, or fails, in the middle of a call. The tests
/// below start this very program with it.
#[test]
fn tracer_that_dies() {
    let Ok(plan) = std::env::var("ENGRAFT_TEST_TRACER") else {
        return;
    };
    let words: Vec<u64> = plan.split(' ').map(|word| word.parse().unwrap()).collect();
    let process = Process::open(words[0] as i32).unwrap();
    let code = Code {
        process: process.clone(),
        base: words[1].into(),
    };
    let work = || -> Option<()> {
        let seized = process.seize(LONG).ok()?;
        let mut partly = seized.stop_sleepers(LONG).ok()?;
        partly.prepare_call(&code.call()).ok()?;
        let mut stopped = partly.stop_rest(LONG).ok()?;
        let _ = code.serve(&mut stopped.calling_thread()?);
        stopped.detach().ok()
    };
    let _ = work();
    std::process::exit(42);
}

fn tracer(victim: &Victim, code: &Code, variable: &str, step: u32) -> Option<i32> {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["tracer_that_dies", "--exact", "--nocapture"])
        .env(
            "ENGRAFT_TEST_TRACER",
            format!("{} {}", victim.pid, code.base.get()),
        )
        .env(variable, step.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    match (status.signal(), status.code()) {
        (Some(libc::SIGKILL), _) => None,
        (_, Some(code)) => Some(code),
        other => panic!("the tracer ended with {other:?}"),
    }
}

/// All threads run, and none blocks signals.
fn is_undisturbed(victim: &mut Victim, code: &Code, step: u32) {
    assert_eq!(victim.ask("?"), "right", "{step}");
    assert_eq!(victim.status("TracerPid"), "0");
    let started = Instant::now();
    for tid in code.process.threads().unwrap() {
        let status = format!("/proc/{}/task/{tid}/status", victim.pid);
        let text = || std::fs::read_to_string(&status).unwrap();
        while !text().contains("SigBlk:\t0000000000000000") {
            assert!(started.elapsed() < LONG, "{step}\n{}", text());
            std::thread::yield_now();
        }
    }
    assert!(code.word(BEGUN) <= 1, "{step}");
}

#[test]
fn a_process_survives_a_tracer_that_dies_anywhere_in_a_call_with_requests() {
    let mut victim = spinner("1", "1");
    let code = Code::inject(victim.process());
    let (mut step, mut unserved) = (1, 0);
    while tracer(&victim, &code, "ENGRAFT_PROCESS_DIE_AT", step).is_none() {
        victim.ask("?");
        let served = [0, 8].map(|word| code.word(word) != 0);
        unserved += u32::from(code.word(BEGUN) == 1 && served != [true, true]);
        is_undisturbed(&mut victim, &code, step);
        // Served or not, a call that began has ended.
        assert_eq!(code.word(BEGUN), code.word(ENDED), "{step}");
        code.clear();
        step += 1;
    }
    assert!(
        step > 20 && unserved > 3,
        "{step} steps, {unserved} unserved"
    );
    victim.finish();
}

#[test]
fn a_process_survives_the_failure_of_any_effect_of_a_call_with_requests() {
    let mut victim = spinner("1", "1");
    let code = Code::inject(victim.process());
    // More than there are: the last ones find nothing to make fail.
    for step in 1..=45 {
        let ended = tracer(&victim, &code, "ENGRAFT_PROCESS_FAIL_AT", step);
        assert_eq!(ended, Some(42), "{step}");
        // A call that we lost control of is withdrawn, wherever it is.
        is_undisturbed(&mut victim, &code, step);
        code.clear();
    }
    victim.finish();
}

#[test]
fn a_filter_is_in_force_again_when_a_prepared_call_is_not_made() {
    let mut victim = Victim::start(&compile("idle.c", "idle", &[]), &[]);
    let process = victim.process();
    let code = Code::inject(process.clone());
    assert_eq!(victim.ask("seccomp"), "0");
    victim.await_sleep(victim.pid, libc::SYS_read);
    let seized = process.seize(LONG).unwrap();
    let mut partly = seized.stop_sleepers(LONG).unwrap();
    let prepared = partly.prepare_call(&code.call()).unwrap();
    assert_eq!(prepared, Some(victim.pid));
    let mut seized = partly.stop_rest(LONG).unwrap().resume().unwrap();
    assert!(victim.ask("address").starts_with("0x"));
    // Not allowed.
    victim.tell("pid");
    let started = Instant::now();
    while seized.handle_events().is_ok() && process.is_alive() {
        assert!(started.elapsed() < LONG);
    }
    drop(seized);
    assert_eq!(victim.line(), "");
}
