// The table itself; included by scenarios.rs, which has the words that it is written in.

use Do::*;
use PatchState::{Patched as ToPatched, Unpatched as ToUnpatched};

/// A1 to A5: test-livepatch.sh.
#[test]
fn livepatch_selftests() {
    run(vec![
        ("A1 basic function patching", vec![
            (Load("L"), en("L", &[])),
            (Runs("main", 1), lines(&["L", "L"])),
            (Disable("L"), dis("L", &[])),
            (Runs("main", 1), lines(&["orig", "orig"])),
        ]),
        ("A2 multiple livepatches", vec![
            (Load("L"), en("L", &[])),
            (Load("R"), en("R", &[])),
            (Runs("main", 1), lines(&["L", "L"])),
            (Runs("main", 2), lines(&["R", "R"])),
            (Disable("R"), dis("R", &[])),
            (Runs("main", 1), lines(&["L", "L"])),
            (Runs("main", 2), lines(&["orig", "orig"])),
            (Disable("L"), dis("L", &[])),
            (Runs("main", 1), lines(&["orig", "orig"])),
        ]),
        ("A3 atomic replace", vec![
            (Load("L"), en("L", &[])),
            (Load("S"), en("S", &[])),
            (Load("D"), en("D", &["main"])),
            (Listed, lines(&["L", "S", "D"])),
            (Load("R-replace"), replacing("R", &[], &["L", "S", "D"])),
            (Listed, lines(&["R"])),
            (Runs("main", 1), lines(&["orig", "orig"])),
            (Runs("main", 2), lines(&["R", "R"])),
            (Runs("main", 3), lines(&["orig", "orig"])),
            (Disable("R"), dis("R", &[])),
            (Runs("main", 2), lines(&["orig", "orig"])),
        ]),
        ("A4 module function patching", vec![
            (Insmod("M"), nothing()),
            (Load("MP"), en("MP", &[])),
            (Runs("M", 1), lines(&["MP", "MP"])),
            (Disable("MP"), dis("MP", &[])),
            (Runs("M", 1), lines(&["orig", "orig"])),
            (Rmmod("M"), nothing()),
        ]),
        ("A5 module function patching, livepatch first", vec![
            (Load("MP"), en("MP", &[])),
            (Insmod("M"), applying(&["MP"])),
            (Runs("M", 1), lines(&["MP", "MP"])),
            (Disable("MP"), dis("MP", &[])),
            (Runs("M", 1), lines(&["orig", "orig"])),
            (Rmmod("M"), nothing()),
        ]),
    ]);
}

/// A6 to A16: test-callbacks.sh.
#[test]
fn callback_selftests() {
    run(vec![
        ("A6 target module before livepatch", vec![
            (Insmod("T"), nothing()),
            (Load("D"), en("D", &["main", "T"])),
            (Disable("D"), dis("D", &["main", "T"])),
            (Rmmod("T"), nothing()),
        ]),
        ("A7 module_coming", vec![
            (Load("D"), en("D", &["main"])),
            (Insmod("T"), come("D", "T")),
            (Disable("D"), dis("D", &["main", "T"])),
            (Rmmod("T"), nothing()),
        ]),
        ("A8 module_going", vec![
            (Insmod("T"), nothing()),
            (Load("D"), en("D", &["main", "T"])),
            (Rmmod("T"), go("D", "T")),
            (Disable("D"), dis("D", &["main"])),
        ]),
        ("A9 module_coming and module_going", vec![
            (Load("D"), en("D", &["main"])),
            (Insmod("T"), come("D", "T")),
            (Rmmod("T"), go("D", "T")),
            (Disable("D"), dis("D", &["main"])),
        ]),
        ("A10 target module not present", vec![
            (Load("D"), en("D", &["main"])),
            (Disable("D"), dis("D", &["main"])),
        ]),
        ("A11 pre-patch callback -ENODEV", vec![
            (Insmod("T"), nothing()),
            (Veto("D", "main", true), nothing()),
            (Load("D"), fails(cancels("D", &["main"], "pre_patch failed D main", &[]), "ENODEV")),
            (Listed, nothing()),
        ]),
        ("A12 module_coming and pre-patch callback -ENODEV", vec![
            (Load("D"), en("D", &["main"])),
            (Veto("D", "T", true), nothing()),
            (Insmod("T"), fails(lines(&[
                "applying D to T",
                "pre_patch D T",
                "pre_patch failed D T",
                "D failed, refusing T",
            ]), "ENODEV")),
            (Disable("D"), dis("D", &["main"])),
        ]),
        ("A13 multiple target modules", vec![
            (Insmod("B"), nothing()),
            (Load("D"), en("D", &["main", "B"])),
            (Insmod("T"), come("D", "T")),
            (Rmmod("T"), go("D", "T")),
            (Disable("D"), dis("D", &["main", "B"])),
            (Rmmod("B"), nothing()),
        ]),
        ("A14 busy target module", vec![
            (Insmod("B"), nothing()),
            (LoadBusy("D"), begins("D", &["main", "B"])),
            (Insmod("T"), lines(&["applying D to T", "pre_patch D T"])),
            (Rmmod("T"), lines(&["reverting D on T", "post_unpatch D T"])),
            (Reverse("D", ToUnpatched), [
                lines(&["D: reversing to unpatching", "D: starting unpatching"]),
                unpatching("D", &["main", "B"]),
            ].concat()),
            (Rmmod("B"), nothing()),
        ]),
        ("A15 multiple livepatches", vec![
            (Load("D"), en("D", &["main"])),
            (Load("D2"), en("D2", &["main"])),
            (Disable("D2"), dis("D2", &["main"])),
            (Disable("D"), dis("D", &["main"])),
        ]),
        ("A16 atomic replace", vec![
            (Load("D"), en("D", &["main"])),
            (Load("D2-replace"), replacing("D2", &["main"], &["D"])),
            (Disable("D2"), dis("D2", &["main"])),
        ]),
    ]);
}

/// A callback of a state, and then those of the object, as V1 to V3 have them.
fn with_state(log: Lines, patch: &str) -> Lines {
    let add = |line: String| match line.strip_suffix(&format!("{patch} main")) {
        Some(kind) => vec![format!("{kind}{patch} state 1"), line],
        None => vec![line],
    };
    let freed = |line: String| match line.starts_with("post_unpatch") && line.ends_with("state 1") {
        true => vec![line, "free shadow variables of state 1".into()],
        false => vec![line],
    };
    log.into_iter().flat_map(add).flat_map(freed).collect()
}

/// A23 to A26: test-state.sh. In the kernel the object's callbacks look after the state; here it
/// has its own, which run when it comes and goes, and not when it is handed on.
#[test]
fn state_selftests() {
    run(vec![
        ("A23 system state modification", vec![
            (Load("V1"), with_state(en("V1", &["main"]), "V1")),
            (Disable("V1"), with_state(dis("V1", &["main"]), "V1")),
        ]),
        ("A24 taking over", vec![
            (Load("V1"), with_state(en("V1", &["main"]), "V1")),
            (Load("V2"), replacing("V2", &["main"], &["V1"])),
            (Disable("V2"), with_state(dis("V2", &["main"]), "V2")),
        ]),
        ("A25 compatible cumulative livepatches", vec![
            (Load("V2"), with_state(en("V2", &["main"]), "V2")),
            (Load("V3"), replacing("V3", &["main"], &["V2"])),
            (Load("V2"), replacing("V2", &["main"], &["V3"])),
            (Disable("V2"), with_state(dis("V2", &["main"]), "V2")),
        ]),
        ("A26 incompatible cumulative livepatches", vec![
            (Load("V2"), with_state(en("V2", &["main"]), "V2")),
            (Load("V1"), fails(nothing(), "older state")),
            (Listed, lines(&["V2"])),
            (Disable("V2"), with_state(dis("V2", &["main"]), "V2")),
        ]),
    ]);
}

/// A29 and A32: test-sysfs.sh.
#[test]
fn status_selftests() {
    run(vec![
        ("A29 object/patched", vec![
            (Load("D"), en("D", &["main"])),
            (Patched("D", 1), lines(&["0"])),
            (Insmod("T"), come("D", "T")),
            (Patched("D", 1), lines(&["1"])),
            (Rmmod("T"), go("D", "T")),
            (Patched("D", 1), lines(&["0"])),
        ]),
        ("A32 stack_order", vec![
            (Load("L"), en("L", &[])),
            (Load("D"), en("D", &["main"])),
            (Load("S"), en("S", &[])),
            (Listed, lines(&["L", "D", "S"])),
            (Disable("D"), dis("D", &["main"])),
            (Listed, lines(&["L", "S"])),
            (Disable("S"), dis("S", &[])),
            (Disable("L"), dis("L", &[])),
            (Listed, nothing()),
        ]),
    ]);
}

/// B i to iii: the order of patches and a module that comes.
#[test]
fn order_of_patches_and_modules() {
    let p3 = || lines(&["P3", "P3"]);
    run(vec![
        ("B i, i-b", vec![
            (Load("P1"), en("P1", &[])),
            (Load("P2"), en("P2", &[])),
            (Insmod("M"), applying(&["P1", "P2"])),
            (Runs("M", 1), lines(&["P2", "P2"])),
            (Load("P3"), en("P3", &[])),
            (Runs("main", 1), p3()),
            (Runs("M", 1), p3()),
            (Disable("P2"), dis("P2", &[])),
            (Runs("main", 1), p3()),
            (Runs("M", 1), p3()),
            (Disable("P3"), dis("P3", &[])),
            (Runs("main", 1), lines(&["P1", "P1"])),
            (Runs("M", 1), lines(&["P1", "P1"])),
            (Disable("P1"), dis("P1", &[])),
            (Runs("M", 1), lines(&["orig", "orig"])),
        ]),
        ("B ii, ii-b, and a second instance", vec![
            (Load("P1"), en("P1", &[])),
            (Load("P2"), en("P2", &[])),
            (Load("P3"), en("P3", &[])),
            (Insmod("M"), applying(&["P1", "P2", "P3"])),
            (Runs("M", 1), p3()),
            (Rmmod("M"), reverting(&["P1", "P2", "P3"])),
            (Patched("P1", 1), lines(&["0"])),
            (Runs("main", 1), p3()),
            (Insmod("M"), applying(&["P1", "P2", "P3"])),
            (Patched("P1", 1), lines(&["1"])),
            (Runs("M", 1), p3()),
            (Insmod("N"), lines(&["applying P1 to N", "applying P2 to N", "applying P3 to N"])),
            (Runs("N", 1), p3()),
            (Rmmod("M"), reverting(&["P1", "P2", "P3"])),
            (Runs("N", 1), p3()),
        ]),
        ("B iii", vec![
            (Insmod("M"), nothing()),
            (Load("P1"), en("P1", &[])),
            (Runs("M", 1), lines(&["P1", "P1"])),
            (Load("P2"), en("P2", &[])),
            (Runs("M", 1), lines(&["P2", "P2"])),
            (Load("P3"), en("P3", &[])),
            (Runs("M", 1), p3()),
        ]),
        ("B iii-b", vec![
            (Load("P1"), en("P1", &[])),
            (Load("P1"), fails(nothing(), "EEXIST")),
            (Disable("P1"), dis("P1", &[])),
            (Disable("P1"), fails(nothing(), "not enabled")),
            (Load("P1"), en("P1", &[])),
        ]),
    ]);
}

/// B bad: patches and modules that do not fit.
#[test]
fn failures() {
    let refused = |patch: &str| {
        fails(lines(&[
            &format!("failed to initialize {patch} for M"),
            &format!("{patch} failed, refusing M"),
        ]), "symbol not found")
    };
    run(vec![
        ("B bad-1, bad-5", vec![
            (Missing("P4", "M", true), nothing()),
            (Load("P4"), en("P4", &[])),
            (Insmod("M"), refused("P4")),
            (Runs("main", 1), lines(&["P4", "P4"])),
            (Listed, lines(&["P4"])),
            (Missing("P4", "M", false), nothing()),
            (Insmod("M"), applying(&["P4"])),
        ]),
        ("B bad-2, bad-4, bad-6", vec![
            (Insmod("M"), nothing()),
            (Missing("P4", "M", true), nothing()),
            (Load("P4"), fails(nothing(), "symbol not found")),
            (Runs("main", 1), lines(&["orig", "orig"])),
            (Listed, nothing()),
        ]),
        ("B bad-3", vec![
            (Load("C1"), en("C1", &["main"])),
            (Missing("P4", "M", true), nothing()),
            (Load("P4"), en("P4", &[])),
            (Insmod("M"), fails([
                come("C1", "M"),
                lines(&["failed to initialize P4 for M", "P4 failed, refusing M"]),
                go("C1", "M"),
            ].concat(), "symbol not found")),
            (Disable("P4"), dis("P4", &[])),
            (Insmod("M"), come("C1", "M")),
            (Runs("M", 1), lines(&["C1", "C1"])),
        ]),
        ("two patches before the one that fails are undone in the list's order (C4)", vec![
            (Load("C1"), en("C1", &["main"])),
            (Load("C2"), en("C2", &["main"])),
            (Missing("P4", "M", true), nothing()),
            (Load("P4"), en("P4", &[])),
            (Insmod("M"), fails([
                come("C1", "M"),
                come("C2", "M"),
                lines(&["failed to initialize P4 for M", "P4 failed, refusing M"]),
                go("C1", "M"),
                go("C2", "M"),
            ].concat(), "symbol not found")),
        ]),
        ("B bad-9", vec![
            (Load("C1"), en("C1", &["main"])),
            (InsmodFailing("M"), [come("C1", "M"), go("C1", "M")].concat()),
            (Patched("C1", 1), lines(&["0"])),
            (Insmod("M"), come("C1", "M")),
        ]),
        ("a site that cannot be written, as A20 has it for kprobes", vec![
            (Insmod("M"), nothing()),
            (Stuck("M", true), nothing()),
            (Load("C1"), fails(
                cancels("C1", &["main", "M"], "failed to patch M", &["main", "M"]), "stuck")),
            (Runs("main", 1), lines(&["orig", "orig"])),
            (Stuck("M", false), nothing()),
            (Load("C1"), en("C1", &["main", "M"])),
        ]),
        ("a site of a coming module that cannot be written", vec![
            (Load("C1"), en("C1", &["main"])),
            (Stuck("M", true), nothing()),
            (Insmod("M"), fails(lines(&[
                "applying C1 to M",
                "pre_patch C1 M",
                "failed to patch M",
                "post_unpatch C1 M",
                "C1 failed, refusing M",
            ]), "stuck")),
        ]),
    ]);
}

/// B rep: atomic replace.
#[test]
fn atomic_replace() {
    run(vec![
        ("B rep-1", vec![
            (Load("P1"), en("P1", &[])),
            (Load("P2"), en("P2", &[])),
            (Insmod("M"), applying(&["P1", "P2"])),
            (Load("P3-replace"), replacing("P3", &[], &["P1", "P2"])),
            (Runs("main", 1), lines(&["P3", "P3"])),
            (Runs("M", 1), lines(&["P3", "P3"])),
            (Listed, lines(&["P3"])),
            (Disable("P3"), dis("P3", &[])),
            (Runs("main", 1), lines(&["orig", "orig"])),
            (Runs("M", 1), lines(&["orig", "orig"])),
        ]),
        ("B rep-2", vec![
            (Load("P1"), en("P1", &[])),
            (Load("P2"), en("P2", &[])),
            (Load("P3-replace"), replacing("P3", &[], &["P1", "P2"])),
            (Insmod("M"), applying(&["P3"])),
            (Runs("M", 1), lines(&["P3", "P3"])),
        ]),
        ("B rep-3", vec![
            (Load("P1"), en("P1", &[])),
            (Load("P2"), en("P2", &[])),
            (Veto("C1", "main", true), nothing()),
            (Load("C1-replace"), fails(
                cancels("C1", &["main"], "pre_patch failed C1 main", &[]), "ENODEV")),
            (Runs("main", 1), lines(&["P2", "P2"])),
            (Listed, lines(&["P1", "P2"])),
        ]),
        ("B rep-4", vec![
            (Load("P1"), en("P1", &[])),
            (Load("P3-replace"), replacing("P3", &[], &["P1"])),
            (Load("P4"), en("P4", &[])),
            (Runs("main", 1), lines(&["P4", "P4"])),
            (Listed, lines(&["P3", "P4"])),
            (Disable("P4"), dis("P4", &[])),
            (Runs("main", 1), lines(&["P3", "P3"])),
        ]),
        ("a replacement that is turned round leaves the old ones as they were", vec![
            (Load("P1"), en("P1", &[])),
            (Insmod("M"), applying(&["P1"])),
            (LoadBusy("R-replace"), begins("R", &[])),
            (Runs("M", 1), lines(&["P1", "orig"])),
            (Reverse("R", ToUnpatched), [
                lines(&["R: reversing to unpatching", "R: starting unpatching"]),
                unpatching("R", &[]),
            ].concat()),
            (Runs("M", 1), lines(&["P1", "P1"])),
            (Listed, lines(&["P1"])),
        ]),
    ]);
}

/// B cb: vetoes.
#[test]
fn vetoes() {
    run(vec![
        ("B cb-2", vec![
            (Insmod("M"), nothing()),
            (Veto("C1", "main", true), nothing()),
            (Load("C1"), fails(cancels("C1", &["main"], "pre_patch failed C1 main", &[]), "ENODEV")),
        ]),
        ("B cb-3", vec![
            (Insmod("M"), nothing()),
            (Veto("C1", "M", true), nothing()),
            (Load("C1"), fails(
                cancels("C1", &["main", "M"], "pre_patch failed C1 M", &["main"]), "ENODEV")),
        ]),
        ("B cb-4", vec![
            (Load("C1"), en("C1", &["main"])),
            (Veto("C2", "M", true), nothing()),
            (Load("C2"), en("C2", &["main"])),
            (Insmod("M"), fails([
                come("C1", "M"),
                lines(&[
                    "applying C2 to M",
                    "pre_patch C2 M",
                    "pre_patch failed C2 M",
                    "C2 failed, refusing M",
                ]),
                go("C1", "M"),
            ].concat(), "ENODEV")),
            (Veto("C2", "M", false), nothing()),
            (Insmod("M"), [come("C1", "M"), come("C2", "M")].concat()),
            (Runs("M", 1), lines(&["C2", "C2"])),
        ]),
        ("a state's pre_patch may veto, too", vec![
            (Veto("V1", "state", true), nothing()),
            (Load("V1"), fails(lines(&[
                "enabling V1",
                "V1: initializing patching",
                "pre_patch V1 state 1",
                "pre_patch failed V1 state 1",
                "failed to enable V1",
                "V1: canceling, going to unpatch",
                "V1: completing unpatching",
                "V1: unpatching complete",
                "V1 removed",
            ]), "ENODEV")),
        ]),
    ]);
}

/// B tr: transitions that take their time.
#[test]
fn transitions() {
    let turned_back = || [
        lines(&["D: reversing to unpatching", "D: starting unpatching"]),
        unpatching("D", &["main", "B"]),
    ].concat();
    run(vec![
        ("B tr-1", vec![
            (Load("P1"), en("P1", &[])),
            (Insmod("B"), nothing()),
            (LoadBusy("D"), begins("D", &["main", "B"])),
            (Load("P2"), fails(nothing(), "EBUSY")),
            (Load("P3-replace"), fails(nothing(), "EBUSY")),
            (Disable("P1"), fails(nothing(), "EBUSY")),
            (Reverse("D", ToPatched), fails(nothing(), "EINVAL")),
            (Force("P1"), fails(nothing(), "EINVAL")),
            (Insmod("M"), applying(&["P1"])),
            (Runs("M", 1), lines(&["P1", "P1"])),
            (Reverse("D", ToUnpatched), turned_back()),
        ]),
        ("B tr-2: thread 1 hangs in the new code when D is turned back", vec![
            (Insmod("B"), nothing()),
            (Load("D"), en("D", &["main", "B"])),
            (DisableBusy("D"), leaves("D", &["main", "B"])),
            (Reverse("D", ToPatched), [
                lines(&["D: reversing to patching", "D: starting patching"]),
                ends("D", &["main", "B"]),
            ].concat()),
            (Runs("B", 1), lines(&["D", "D"])),
            (Disable("D"), dis("D", &["main", "B"])),
        ]),
        ("B tr-3", vec![
            (LoadBusy("H"), begins("H", &[])),
            (Runs("main", 1), lines(&["orig", "H"])),
            (Release, ends("H", &[])),
            (Runs("main", 1), lines(&["H", "H"])),
        ]),
        ("B tr-3b", vec![
            (Load("P4"), en("P4", &[])),
            (DisableBusy("P4"), leaves("P4", &[])),
            (Load("L"), fails(nothing(), "EBUSY")),
            (Runs("main", 1), lines(&["P4", "orig"])),
            (Release, unpatching("P4", &[])),
            (Runs("main", 1), lines(&["orig", "orig"])),
        ]),
        ("B tr-3c", vec![
            (Load("P4"), en("P4", &[])),
            (DisableBusy("P4"), leaves("P4", &[])),
            (Force("P4"), [lines(&["P4: forcing"]), unpatching("P4", &[])].concat()),
            (Listed, nothing()),
            (Load("P4"), fails(nothing(), "EEXIST, forced")),
        ]),
        ("B tr-4", vec![
            (LoadBusy("H"), begins("H", &[])),
            (Force("H"), [lines(&["H: forcing"]), ends("H", &[])].concat()),
            (Disable("H"), dis("H", &[])),
            (Load("H"), en("H", &[])),
        ]),
        ("rule 6: a module that comes in a transition", vec![
            (Load("P1"), en("P1", &[])),
            (LoadBusy("P2"), begins("P2", &[])),
            (Insmod("M"), applying(&["P1", "P2"])),
            (Runs("main", 1), lines(&["P1", "P2"])),
            (Runs("M", 1), lines(&["P1", "P2"])),
            (Release, ends("P2", &[])),
            (Runs("M", 1), lines(&["P2", "P2"])),
        ]),
    ]);
}

/// The controller dies before it has let the threads go, or while it does: no counterpart in the
/// kernel, which cannot lose itself.
#[test]
fn transitions_that_nobody_starts() {
    let unheld = || fails(nothing(), "nobody holds the threads");
    run(vec![
        ("the next controller starts what the first has begun", vec![
            (Begin("P1"), opens("P1", &[])),
            (Runs("main", 1), lines(&["orig", "orig"])),
            (Insmod("M"), applying(&["P1"])),
            (Runs("M", 1), lines(&["orig", "orig"])),
            (Unheld(true), nothing()),
            (Start("P1"), unheld()),
            (Runs("M", 1), lines(&["orig", "orig"])),
            (Rmmod("M"), reverting(&["P1"])),
            (Unheld(false), nothing()),
            (StartBusy("P1"), lines(&["P1: starting patching"])),
            (Runs("main", 1), lines(&["orig", "P1"])),
            (Release, ends("P1", &[])),
            (Runs("main", 1), lines(&["P1", "P1"])),
        ]),
        ("or turns it round", vec![
            (Begin("D"), opens("D", &["main"])),
            (Turn("D", ToUnpatched), lines(&["D: reversing to unpatching", "D: starting unpatching"])),
            (Start("D"), fails(nothing(), "AlreadyStarted(PatchId(1))")),
            (Load("L"), fails(nothing(), "EBUSY")),
        ]),
        ("thread 1, listed for a start that failed, moves with the others in the one that does not", vec![
            (Begin("P1"), opens("P1", &[])),
            (Unheld(true), nothing()),
            (StartBusy("P1"), unheld()),
            (Unheld(false), nothing()),
            (Start("P1"), [lines(&["P1: starting patching"]), ends("P1", &[])].concat()),
        ]),
        ("and when it is forced", vec![
            (Begin("P1"), opens("P1", &[])),
            (Unheld(true), nothing()),
            (StartBusy("P1"), unheld()),
            (Force("P1"), unheld()),
            (Unheld(false), nothing()),
            (Force("P1"), [
                lines(&["P1: starting patching", "P1: forcing"]),
                ends("P1", &[]),
            ].concat()),
            (Runs("main", 1), lines(&["P1", "P1"])),
        ]),
        ("turned round, nobody has moved until it starts", vec![
            (LoadBusy("P1"), begins("P1", &[])),
            (Unheld(true), nothing()),
            (Release, unheld()),
            (Force("P1"), unheld()),
            (Runs("main", 1), lines(&["orig", "P1"])),
            (Turn("P1", ToUnpatched), lines(&["P1: reversing to unpatching"])),
            (Start("P1"), unheld()),
            (Runs("main", 1), lines(&["orig", "P1"])),
            (Turn("P1", ToPatched), lines(&["P1: reversing to patching", "P1: starting patching"])),
            (Runs("main", 1), lines(&["orig", "P1"])),
            (Unheld(false), nothing()),
            (Release, ends("P1", &[])),
        ]),
    ]);
}
