//! A library that has a patch but not the code that the patch was made for does not get in: dlopen
//! fails with the patch and the reason, and a good copy can still be loaded.

use std::path::Path;

use anyhow::{Result, ensure};
use engraft_testkit::{Program, Snapshot, Victim, elf, exit};

use crate::operator::set_limits;
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
        is_reason_alone(&refusal, &damaged)?;
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
    is_reason_alone(&program.ask(&open_damaged)?, &damaged)?;
    program.finish()
}

/// That the loader's error is the library and why it is refused, without words of the loader's own.
fn is_reason_alone(refusal: &str, library: &Path) -> Result<()> {
    let library = library.display();
    let begin = format!("refused: {library}: engraft: patch 'p1' cannot be applied to ");
    let end = " from what the patch was built against";
    let is_it = refusal.starts_with(&begin) && refusal.ends_with(end);
    ensure!(
        is_it && refusal.contains(": the code of function 'b' differs at link-time address 0x"),
        "the refusal was {refusal:?}"
    );
    Ok(())
}

/// A process that may write no files has no file in memory: the reason stands in front of the
/// loader's words.
#[test]
fn a_library_is_refused_where_there_can_be_no_memory_file() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("host")?);
    let patch = victim.patch(&engraft, "p1.patch", "p1", &["host", "library.so"])?;
    let damaged = victim.file("damaged.so");
    elf::copy_with_other_code(&victim.file("library.so"), &damaged, "b", 4)?;
    let mut program = victim.start("host", &[])?;
    engraft.apply(&patch, program.pid())?.exits(exit::OK)?;
    set_limits(program.pid(), &["--fsize=0"])?;
    let refusal = program.ask(&format!("open {}", damaged.display()))?;
    let begin = "refused: engraft: patch 'p1' cannot be applied to ";
    let end = " (refused; the rest is the loader's) /: cannot open shared object file: \
        No such file or directory";
    // A loader that can be told by an error of its own needs no file.
    ensure!(
        refusal.starts_with(begin) && refusal.ends_with(end)
            || is_reason_alone(&refusal, &damaged).is_ok(),
        "the refusal was {refusal:?}"
    );
    program.expect("ask", "a=101 b=-")?;
    program.finish()
}
