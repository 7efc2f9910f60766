//! The bug of 2015, as it happened and as it cannot happen: a story told by the model checker.
//!
//! Three patches change a() in the program and b() in the library M. M is being loaded while P3 is
//! enabled. The explorer first searches the old behaviour for the shortest way into trouble; then
//! the very same steps are taken with the rules as they are.

#![expect(
    clippy::disallowed_methods,
    reason = "a program for people may abort without memory"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use engraft_core::{Callbacks, Code, Event, LinkAddress, Livepatch, ModuleId};
use support::act::{Act, Step};
use support::explore::explore;
use support::machine::Machine;
use support::scope::{A, B, Control, M, MAIN, Plan, Scope, T1};

/// What the trouble of 2015 looks like: the stack of b, newest first.
const TROUBLE: &str = "is [PatchId(2), PatchId(1), PatchId(3)], enabled last were \
                       [PatchId(3), PatchId(2), PatchId(1)]";

fn main() -> Result<(), String> {
    let plan = Plan {
        callbacks: Callbacks::default(),
        ..Plan::BOTH
    };
    let new = Scope {
        threads: 1,
        reverse: false,
        nonsense: false,
        ..Scope::new(vec![plan; 3])
    };
    let old = Scope {
        control: Control::BindByName,
        only: TROUBLE,
        threads: 0,
        ..new.clone()
    };

    println!(
        "P1, P2 and P3 are patches. Each changes a() in the program and b() in the library M."
    );
    println!("a1 is what P1 has for a(), and so on; a0 is the original. A function's stack lists");
    println!("what the enabled patches have for it, newest first: the first one is what runs.\n");

    let report = explore(&old, usize::MAX);
    let (steps, _) = report
        .violation
        .ok_or("the old behaviour shows no trouble any more")?;
    println!("BEFORE 2015: a patch binds to every module that is visible.");
    println!(
        "All interleavings of the loader and the controller were searched; after {} states this",
        report.states
    );
    println!("is the shortest way to a mixed order:\n");
    let calls = [Act::Call(T1, MAIN, A), Act::Call(T1, M, B)];
    let story: Vec<_> = steps.iter().map(|step| step.act).chain(calls).collect();
    tell(&Scope { threads: 1, ..old }, &story)?;
    println!("\nThe program runs a3 with b2: two halves of different fixes.\n");

    println!("NOW: a patch binds to a module only if it is alive, which its coming work sets.");
    println!("The same steps, and the same actors:\n");
    let machine = tell(&new, &story)?;
    let order = machine
        .core
        .module(M)
        .map(|module| stack(&machine.core, module.id(), B));
    println!(
        "\nb's stack is {}, as a's: everybody runs P3.",
        order.unwrap_or_default()
    );

    let report = explore(&Scope { threads: 2, ..new }, usize::MAX);
    match report.violation {
        None => println!(
            "\nWith these rules, {} states and {} steps of two threads, the loader and the \
             controller\nwere searched: in none is the order another, or does a thread see two fixes.",
            report.states, report.steps
        ),
        Some((_, what)) => return Err(what),
    }
    Ok(())
}

/// Takes the steps, one line each. What is prepared for the next step only is not worth a line.
fn tell(scope: &Scope, story: &[Act]) -> Result<Machine, String> {
    let mut machine = Machine::new(scope);
    for act in story.iter().copied() {
        let outcome = machine.take(scope, Step { act, fail: 0 })?;
        machine = outcome.machine;
        let Some(line) = describe(act, &machine) else {
            continue;
        };
        println!("  {line:<58} {}", stacks(&machine.core));
        for event in outcome.events {
            if let Some(line) = applied(event) {
                println!("      {line}");
            }
        }
        let trouble = machine
            .check(scope)
            .err()
            .filter(|_| !matches!(act, Act::Call(..)));
        if trouble.is_some() {
            println!("  {:<58} ^ the rules are broken here", "");
        }
    }
    Ok(machine)
}

fn describe(act: Act, machine: &Machine) -> Option<String> {
    let line = match act {
        Act::Begin(patch) => format!("P{} is enabled", patch.0),
        Act::Disable(patch) => format!("P{} is disabled", patch.0),
        Act::Appear(_) => "M is mapped and visible, it has not come yet".into(),
        Act::Come(_) => "the loader tells that M comes".into(),
        Act::Go(_) => "M goes".into(),
        Act::Call(_, _, function) => {
            let frame = machine
                .process
                .threads
                .iter()
                .flat_map(|thread| &thread.frames)
                .last()?;
            let caller = if function == A {
                "the program calls a()"
            } else {
                "  and a() calls b()"
            };
            format!("{caller}: {} runs", name(function, frame.code))
        }
        _ => return None,
    };
    Some(line)
}

fn applied(event: Event) -> Option<String> {
    match event {
        Event::Applying(patch, _) => Some(format!(
            "\"applying patch 'P{}' to loading module 'M'\"",
            patch.0
        )),
        _ => None,
    }
}

fn name(function: LinkAddress, code: Code) -> String {
    let letter = if function == A { 'a' } else { 'b' };
    match code {
        Code::Original => format!("{letter}0"),
        Code::Func(func) => format!("{letter}{}", func.patch.0),
    }
}

fn stacks(core: &Livepatch) -> String {
    let a = format!("a: {}", stack(core, MAIN, A));
    match core.module(M) {
        Some(_) => format!("{a:<16} b: {}", stack(core, M, B)),
        None => format!("{a:<16} b: not there"),
    }
}

fn stack(core: &Livepatch, module: ModuleId, function: LinkAddress) -> String {
    let sites = core
        .module(module)
        .map(|module| module.sites())
        .unwrap_or_default();
    let site = sites.iter().find(|site| site.function() == function);
    let funcs = site.into_iter().flat_map(|site| site.func_stack());
    let names: Vec<_> = funcs.map(|func| name(function, Code::Func(func))).collect();
    if names.is_empty() {
        name(function, Code::Original)
    } else {
        names.join(", ")
    }
}
