//! Builds the agent, the runtime that goes into target processes, and hands it to the crate as
//! bytes.
//!
//! It is the same crate that the workspace checks and tests as a library, compiled once more as a
//! freestanding shared object: no libc, nothing undefined, relative relocations only.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    let variable = |name| PathBuf::from(std::env::var_os(name).unwrap_or_default());
    let output = variable("OUT_DIR");
    let workspace = variable("CARGO_MANIFEST_DIR").join("../..");
    for watched in [
        "crates/engraft-agent",
        "crates/engraft-core",
        "crates/engraft-abi",
        "crates/engraft-elf",
        "crates/engraft-machine",
        "Cargo.lock",
        // The profile of the agent.
        "Cargo.toml",
    ] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(watched).display()
        );
    }

    // One for all runs of this script in a profile: the linter's, and those with other features.
    let target = output.ancestors().nth(3).unwrap_or(&output).join("agent");
    let status = Command::new(variable("CARGO"))
        .current_dir(&workspace)
        .args([
            "rustc",
            "--package",
            "engraft-agent",
            "--lib",
            "--crate-type",
            "cdylib",
        ])
        .args([
            "--features",
            "freestanding",
            "--profile",
            "agent",
            "--locked",
            "--target-dir",
        ])
        .arg(&target)
        .args(["--", "-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib"])
        // Tables of jumps would be constants, of which there is one page.
        .arg("-Cjump-tables=no")
        // Whatever is undefined would have to be found in the target: refuse that here.
        .args(["-Clink-arg=-Wl,-z,defs", "-Clink-arg=-Wl,--build-id=none"])
        // Our own symbols mean our own code, so that only relative relocations remain.
        .arg("-Clink-arg=-Wl,-Bsymbolic")
        // Relocations are applied before the agent comes into a target, and each page counts there.
        .arg("-Clink-arg=-Wl,-z,norelro")
        // Code and variables start at a page each, so that they are in no page more than they need.
        .arg("-Clink-arg=-Wl,-z,separate-code")
        // What the outer cargo was told about its own build does not concern the agent.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .status();
    let built = matches!(status, Ok(status) if status.success());
    if !built {
        println!("cargo::error=building the agent failed: {status:?}");
        return;
    }
    // Another run may build another agent there.
    let blob = output.join("libengraft_agent.so");
    if let Err(error) = std::fs::copy(target.join("agent/libengraft_agent.so"), &blob) {
        println!("cargo::error=copying the agent failed: {error}");
        return;
    }
    println!("cargo::rustc-env=ENGRAFT_AGENT_BLOB={}", blob.display());
}
