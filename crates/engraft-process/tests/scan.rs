//! The stack scan sees what is there, and does not pretend where it cannot see.
#![expect(clippy::unwrap_used, reason = "a test fails so")]

mod support;

use std::ops::Range;
use std::path::Path;
use std::process::Command;

use engraft_process::{StackScan, Unreliable, Verdict};
use support::{Victim, compile};

/// The link-time range of the function `target`, as nm has it.
fn target(program: &Path) -> Range<u64> {
    let output = Command::new("nm").arg("-S").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.ends_with(" target")).unwrap();
    let mut words = line.split(' ').map(|word| u64::from_str_radix(word, 16));
    let start = words.next().unwrap().unwrap();
    start..start + words.next().unwrap().unwrap()
}

/// The verdict about the interesting thread of a victim in this position.
fn verdict(how: &str, where_: &str, flags: &[&str], name: &str) -> Verdict {
    let flags: Vec<&str> = flags
        .iter()
        .copied()
        .chain(["-fno-toplevel-reorder"])
        .collect();
    let program = compile("stacks.c", name, &flags);
    let mut victim = Victim::start(&program, &[how, where_]);
    let tid: i32 = victim.line().parse().unwrap();
    let modules = victim.process().modules().unwrap();
    let module = modules.program().unwrap();
    let range = target(&program);
    let range = module.address(range.start)..module.address(range.end);
    if how != "spinning" {
        victim.await_sleep(tid, libc::SYS_pause);
    } else {
        // It says where it is before it is there: wait until it is inside.
        loop {
            let stopped = victim.stop();
            let thread = stopped.threads().find(|thread| thread.tid == tid).unwrap();
            if range.contains(&thread.registers.instruction_pointer()) {
                break;
            }
        }
    }
    let stopped = victim.stop();
    let maps = stopped.process().maps().unwrap();
    let scan = StackScan::new(stopped.process(), &maps, std::slice::from_ref(&range));
    let thread = stopped.threads().find(|thread| thread.tid == tid).unwrap();
    let verdict = scan.check(&thread);
    // Everybody else is clear.
    for other in stopped.threads().filter(|thread| thread.tid != tid) {
        assert!(matches!(scan.check(&other), Verdict::Clear));
    }
    stopped.detach().unwrap();
    victim.finish();
    verdict
}

fn in_all_positions(how: &str, expected: impl Fn(&Verdict) -> bool) {
    for where_ in ["main", "thread"] {
        for (name, flags) in [
            ("stacks", &[][..]),
            ("stacks-static", &["-static"]),
            (
                "stacks-no-frame-pointer",
                &[
                    "-O2",
                    "-fno-reorder-blocks-and-partition",
                    "-fomit-frame-pointer",
                    "-fcf-protection=full",
                ],
            ),
        ] {
            let verdict = verdict(how, where_, flags, name);
            assert!(expected(&verdict), "{how} {where_} {name}: {verdict:?}");
        }
    }
}

#[test]
fn a_thread_that_is_elsewhere_is_clear() {
    in_all_positions("clear", |verdict| matches!(verdict, Verdict::Clear));
}

#[test]
fn a_function_pointer_is_no_return_address() {
    in_all_positions("pointer", |verdict| matches!(verdict, Verdict::Clear));
}

#[test]
fn a_thread_that_executes_the_code_is_found() {
    in_all_positions("spinning", |verdict| {
        matches!(verdict, Verdict::Running { .. })
    });
}

#[test]
fn a_thread_that_will_return_into_the_code_is_found() {
    in_all_positions("called", |verdict| {
        matches!(verdict, Verdict::Sleeping { .. })
    });
}

#[test]
fn a_call_that_never_returns_is_found_too() {
    in_all_positions("called for ever", |verdict| {
        matches!(verdict, Verdict::Sleeping { .. })
    });
}

#[test]
fn a_handler_on_an_alternate_stack_leads_to_the_stack_it_interrupted() {
    in_all_positions("handler", |verdict| {
        matches!(verdict, Verdict::Sleeping { .. })
    });
}

#[test]
fn an_alternate_stack_that_is_part_of_the_own_stack_hides_nothing() {
    in_all_positions("handler-own", |verdict| {
        matches!(verdict, Verdict::Sleeping { .. })
    });
}

#[test]
fn a_coroutine_is_not_clear() {
    in_all_positions("coroutine", |verdict| {
        matches!(
            verdict,
            Verdict::Unreliable(Unreliable::ForeignStack { .. })
        )
    });
}
