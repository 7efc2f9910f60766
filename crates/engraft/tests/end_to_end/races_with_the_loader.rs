//! While one thread opens and closes the library without a pause, three patches arrive and go:
//! that thread never sees two halves of different patches, and no load fails.

use anyhow::Result;
use engraft_testkit::{Victim, exit};

use crate::{engraft, victim};

#[test]
fn patches_arrive_while_the_library_comes_and_goes() -> Result<()> {
    patches_arrive(&victim("host")?, "storm", 5)
}

#[test]
fn patches_arrive_while_namespaces_come_and_go() -> Result<()> {
    patches_arrive(&victim("host")?, "apart", 2)
}

/// Within one process the patch numbers only go up, so a thread that sees the same a() twice has
/// not switched in between; see `one_round` in the victim.
pub(crate) fn patches_arrive(victim: &Victim, storm: &str, processes: usize) -> Result<()> {
    let engraft = engraft();
    let mut patches = Vec::new();
    for name in ["p1", "p2", "p3"] {
        let fix = format!("{name}.patch");
        patches.push(victim.patch(&engraft, &fix, name, &["host", "library.so"])?);
    }
    for _ in 0..processes {
        let mut program = victim.start("host", &[])?;
        let file = victim.file("library.so");
        program.expect(&format!("{storm} {}", file.display()), "storm")?;
        for patch in &patches {
            program.expect("rounds 50", "mixed=0 refused=0")?;
            engraft.apply(patch, program.pid())?.exits(exit::OK)?;
        }
        program.expect("rounds 50", "mixed=0 refused=0")?;
        program.expect("calm", "calm")?;
        program.expect(&format!("open {}", file.display()), "opened")?;
        program.expect("ask", "a=103 b=103")?;
        program.finish()?;
    }
    Ok(())
}
