//! What cannot be patched for reasons of its own: the error says which one, the exit code is the
//! one for it, and the process is what it was, its memory map and its code.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Program, Snapshot, TIME_LIMIT, exit, has_tool, run, skip};

use crate::{engraft, victim};

/// All memory within reach of a jump is taken.
#[test]
fn no_memory_within_reach() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("narrow")?);
    let patch = victim.patch(&engraft, "fix.patch", "fix", &["narrow"])?;
    let mut program = victim.start("narrow", &[])?;
    program.expect("fill", "filled")?;
    let before = Snapshot::take(program.pid())?;
    engraft
        .apply(&patch, program.pid())?
        .exits(exit::NOT_PATCHABLE)?
        .says(&["no room", "within 2 GiB"])?;
    before.expect_untouched()?;
    program.expect("a", "a=100")?;
    program.finish()
}

/// A jump leads to the second instruction, which the jump to new code overwrites.
#[test]
fn a_jump_target_in_the_way() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("narrow")?);
    let (outcome, file) = victim.try_patch(&engraft, "back.patch", "back", &["narrow"])?;
    outcome
        .exits(exit::BUILD_FAILED)?
        .says(&["back", "into the bytes that the jump to new code replaces"])?;
    ensure!(!file.exists(), "there is a patch all the same");
    Ok(())
}

#[test]
fn a_symbol_that_nobody_defines() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("missing")?);
    let patch = victim.patch(&engraft, "fix.patch", "root", &["missing"])?;
    let mut program = victim.start("missing", &[])?;
    let before = Snapshot::take(program.pid())?;
    engraft
        .apply(&patch, program.pid())?
        .exits(exit::DOES_NOT_FIT)?
        .says(&["cbrt"])?;
    before.expect_untouched()?;
    program.expect("27", "9")?;
    program.finish()
}

/// A program for 32-bit x86, which assembler and linker make without a compiler for it.
#[test]
fn another_architecture() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("narrow")?);
    let patch = victim.patch(&engraft, "fix.patch", "fix", &["narrow"])?;
    let [source, object, file] = ["old.s", "old.o", "old"].map(|name| victim.file(name));
    fs::write(&source, OLD_PROGRAM)?;
    let mut assemble = Command::new("as");
    assemble.args(["--32", "-o"]).args([&object, &source]);
    run(&mut assemble, TIME_LIMIT)?.exits(exit::OK)?;
    let mut link = Command::new("ld");
    link.args(["-m", "elf_i386", "--build-id", "-o"])
        .args([&file, &object]);
    run(&mut link, TIME_LIMIT)?.exits(exit::OK)?;
    let Ok((program, _)) = Program::start::<&str>(&file, &[]) else {
        skip(
            "another_architecture",
            "this kernel runs no 32-bit programs",
        );
        return Ok(());
    };
    let before = Snapshot::take(program.pid())?;
    engraft
        .apply(&patch, program.pid())?
        .exits(exit::NOT_PATCHABLE)?
        .says(&[&program.pid().to_string(), "64-bit x86"])?;
    before.expect_untouched()?;
    program.finish()
}

/// Says "ready", and ends with its input.
const OLD_PROGRAM: &str = "
        .globl _start
_start: mov $4, %eax; mov $1, %ebx; mov $word, %ecx; mov $6, %edx; int $0x80
again:  mov $3, %eax; mov $0, %ebx; mov $space, %ecx; mov $1, %edx; int $0x80
        cmp $1, %eax; je again
        mov $1, %eax; mov $0, %ebx; int $0x80
word:   .ascii \"ready\\n\"
        .bss
space:  .skip 1
";

/// The agent that is in the process is of a version that this command does not know. All commands
/// say so.
#[test]
fn an_agent_of_another_version() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let mut program = victim.start("workers", &["2"])?;
    let pid = program.pid();
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    let place = version_word(pid)?;
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))?;
    let mut version = [0; 8];
    memory.read_exact_at(&mut version, place)?;
    memory.write_all_at(&987_654_u64.to_ne_bytes(), place)?;

    let before = Snapshot::take(pid)?;
    let file = patch.to_str().context("a path that is no text")?;
    let number = pid.to_string();
    for command in [
        &["apply", file][..],
        &["check", file],
        &["disable", "cheap-apples"],
        &["enable", "cheap-apples"],
        &["remove", "cheap-apples"],
        &["remove", "--agent"],
        &["wait"],
        &["force", "cheap-apples"],
        &["status"],
    ] {
        engraft
            .run(command.iter().copied().chain(["--pid", &number]))?
            .exits(exit::NOT_PATCHABLE)?
            .says(&["version 987654", &number, "hint:"])?;
        before.expect_untouched()?;
    }
    program.expect("round", "old=0 new=200 wrong=0")?;
    memory.write_all_at(&version, place)?;
    engraft.disable("cheap-apples", pid)?.exits(exit::OK)?;
    program.expect("round", "old=200 new=0 wrong=0")?;
    program.finish()
}

/// Where the agent says of which version it is: behind 16 bytes of magic, at the start of its
/// memory.
fn version_word(pid: u32) -> Result<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = fs::File::open(format!("/proc/{pid}/mem"))?;
    for line in maps.lines().filter(|line| line.contains("engraft-agent")) {
        let (start, _) = line.split_once('-').context("no range")?;
        let start = u64::from_str_radix(start, 16)?;
        let mut magic = [0; 16];
        if memory.read_exact_at(&mut magic, start).is_ok() && magic.starts_with(b"engraft agent") {
            return Ok(start + 16);
        }
    }
    anyhow::bail!("no agent in {maps}")
}

/// A debugger at work, as users have it.
#[test]
fn a_debugger() -> Result<()> {
    if !has_tool("refusals::a_debugger", "gdb")? {
        return Ok(());
    }
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    let mut program = victim.start("workers", &["3"])?;
    let pid = program.pid();
    let before = Snapshot::take(pid)?;
    // Attached until its input ends; of what it says, only our own word comes out.
    let script = "gdb -q -nx -batch -p $0 -ex 'shell echo attached; read line' 2>&1 | \
                  grep --line-buffered '^attached'";
    let (gdb, _) = Program::start(Path::new("sh"), &["-c", script, &pid.to_string()])?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let tracer = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"));
    let tracer = tracer.context("no tracer")?.trim().to_owned();
    ensure!(tracer != "0", "gdb is not attached");
    let outcome = engraft.apply(&patch, pid)?.exits(exit::NOT_PATCHABLE)?;
    outcome.says(&[&pid.to_string(), &tracer, "trace"])?;
    gdb.finish()?;
    before.expect_untouched()?;
    program.expect("round", "old=300 new=0 wrong=0")?;
    engraft.apply(&patch, pid)?.exits(exit::OK)?;
    program.expect("round", "old=0 new=300 wrong=0")?;
    program.finish()
}

/// What has a number and is no process that could be patched.
#[test]
fn numbers_that_are_no_such_process() -> Result<()> {
    let (engraft, victim) = (engraft(), victim("workers")?);
    let patch = victim.patch(&engraft, "fix.patch", "cheap-apples", &["workers"])?;
    // A process that has ended, and for which its parent has not asked yet.
    let mut ended = Command::new("true").spawn()?;
    let number = ended.id();
    while !fs::read_to_string(format!("/proc/{number}/stat"))?.contains(") Z ") {
        std::thread::yield_now();
    }
    let outcome = engraft.apply(&patch, number)?;
    ended.wait()?;
    outcome
        .exits(exit::NO_SUCH_PROCESS)?
        .says(&[&number.to_string(), "ended"])?;

    // A thread that is not a process's first.
    let program = victim.start("workers", &["1"])?;
    let before = Snapshot::take(program.pid())?;
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{}/task", program.pid()))? {
        threads.push(entry?.file_name().to_string_lossy().parse::<u32>()?);
    }
    let thread = threads.into_iter().find(|thread| *thread != program.pid());
    let thread = thread.context("no second thread")?;
    engraft
        .apply(&patch, thread)?
        .exits(exit::NOT_PATCHABLE)?
        .says(&[&thread.to_string(), "thread"])?;
    before.expect_untouched()?;
    program.finish()?;

    // The command itself.
    let mut itself = Command::new("sh");
    itself.args(["-c", "exec \"$0\" apply \"$1\" --pid $$"]);
    itself.arg(engraft.program()).arg(&patch);
    run(&mut itself, TIME_LIMIT)?.exits(exit::NOT_PATCHABLE)?;

    // A thread of the kernel.
    if fs::read_to_string("/proc/2/comm").is_ok_and(|comm| comm.trim() == "kthreadd") {
        engraft
            .apply(&patch, 2)?
            .exits(exit::NOT_PATCHABLE)?
            .says(&["kernel"])?;
    }
    Ok(())
}
