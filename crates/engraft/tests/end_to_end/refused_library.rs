//! A library that has a patch but not the code that the patch was made for does not get in: dlopen
//! fails with the patch and the reason, and a good copy can still be loaded.

use anyhow::{Result, ensure};
use engraft_testkit::{Program, Snapshot, Victim, elf, exit};

use crate::{engraft, victim};

#[test]
fn a_library_that_cannot_be_patched_is_refused() -> Result<()> {
    is_refused(&victim("host")?)
}

pub(crate) fn is_refused(victim: &Victim) -> Result<()> {
    let engraft = engraft();
    let patch = victim.patch(&engraft, "p1.patch", "p1", &["host", "library.so"])?;
    let (good, damaged) = (victim.file("library.so"), victim.file("damaged.so"));
    // The operand of the `mov` in b(): the copy says 101 without any patch.
    elf::copy_with_other_code(&good, &damaged, "b", 4)?;
    let mut program = victim.start("host", &[])?;
    let open_damaged = format!("open {}", damaged.display());
    program.expect(&open_damaged, "opened")?;
    program.expect("ask", "a=100 b=101")?;
    program.expect("close", "closed")?;

    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    program.expect("ask", "a=101 b=-")?;
    let refused = |program: &mut Program| {
        let refusal = program.ask(&open_damaged)?;
        let named = refusal.starts_with("refused: ") && refusal.contains("p1");
        ensure!(
            named && refusal.contains("code"),
            "the refusal was {refusal:?}"
        );
        program.expect("ask", "a=101 b=-")
    };
    refused(&mut program)?;
    // The first time may have filled caches of the loader and of libc; from then on nothing stays.
    let before = Snapshot::take(program.pid())?;
    refused(&mut program)?;
    refused(&mut program)?;
    before.expect_untouched()?;

    program.expect(&format!("open {}", good.display()), "opened")?;
    program.expect("seen", "b=101")?;
    program.expect("ask", "a=101 b=101")?;
    // With the good one in, the other is refused still.
    let refusal = program.ask(&open_damaged)?;
    ensure!(
        refusal.starts_with("refused: "),
        "the answer was {refusal:?}"
    );
    program.finish()
}
