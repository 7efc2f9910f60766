//! What cannot be opened is refused by name.

mod support;

use std::os::unix::process::CommandExt;
use std::process::Command;

use engraft_process::{MapsError, MemoryError, ModuleError, OpenError, Process, StopError};
use support::{LONG, Victim, compile};

fn idle() -> Victim {
    Victim::start(&compile("idle.c", "idle", &[]), &[])
}

#[test]
fn a_process_that_does_not_exist() {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id() as i32;
    child.wait().unwrap();
    for pid in [pid, 0, -1] {
        assert!(matches!(
            Process::open(pid),
            Err(OpenError::NoSuchProcess { .. })
        ));
    }
}

#[test]
fn a_zombie() {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id() as i32;
    // Not waited for yet: it stays a zombie when it has ended. Its pipe-less end is visible in
    // /proc.
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    while !state().contains(") Z ") {
        std::thread::yield_now();
    }
    assert!(matches!(Process::open(pid), Err(OpenError::Zombie { .. })));
    child.wait().unwrap();
}

#[test]
fn a_kernel_thread() {
    // kthreadd is process 2 unless we are in a pid namespace of our own.
    let is_kthreadd =
        std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n");
    if is_kthreadd {
        assert!(matches!(
            Process::open(2),
            Err(OpenError::KernelThread { pid: 2 })
        ));
    }
}

#[test]
fn a_thread_that_is_not_a_process() {
    let mut victim = idle();
    assert_eq!(victim.ask("threads 1"), "ok");
    let threads = victim.process().threads().unwrap();
    let tid = threads.into_iter().find(|tid| *tid != victim.pid).unwrap();
    match Process::open(tid) {
        Err(OpenError::NotAProcess { process, .. }) => assert_eq!(process, victim.pid),
        other => panic!("{other:?}"),
    }
    victim.finish();
}

#[test]
fn ourselves() {
    let pid = std::process::id() as i32;
    assert!(matches!(
        Process::open(pid),
        Err(OpenError::Ourselves { .. })
    ));
}

/// Not a test by itself: opens the process that the variable names, as another user.
#[test]
fn opener_without_permission() {
    let Ok(pid) = std::env::var("ENGRAFT_TEST_OPEN") else {
        return;
    };
    match Process::open(pid.parse().unwrap()) {
        Err(error @ OpenError::PermissionDenied { .. }) => {
            assert!(error.to_string().contains("CAP_SYS_PTRACE"));
            std::process::exit(42);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_process_of_another_user() {
    let is_root = rustix::process::geteuid().is_root();
    let victim = idle();
    let directory = tempfile::tempdir().unwrap();
    // As root: look as another user. As an ordinary user: look at a process of root, init.
    let pid = if is_root { victim.pid } else { 1 };
    let copy = directory.path().join("opener");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut opener = Command::new(&copy);
    opener.args(["opener_without_permission", "--exact"]);
    opener.env("ENGRAFT_TEST_OPEN", pid.to_string());
    if is_root {
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), everybody).unwrap();
        opener.uid(65534).gid(65534);
    }
    assert_eq!(opener.output().unwrap().status.code(), Some(42));
    victim.finish();
}

#[test]
fn a_32_bit_program() {
    // No C library for it is needed: it says that it is ready, and calls pause(2) for ever.
    let text = ".globl _start\n_start: mov $4,%eax\nmov $1,%ebx\nmov $message,%ecx\nmov $6,%edx\n\
                int $0x80\n1: mov $29,%eax\nint $0x80\njmp 1b\nmessage: .ascii \"ready\\n\"\n";
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("small.s");
    let program = directory.path().join("small");
    std::fs::write(&source, text).unwrap();
    let mut gcc = Command::new("gcc");
    gcc.args(["-m32", "-nostdlib", "-static", "-o"])
        .arg(&program)
        .arg(&source);
    assert!(gcc.status().unwrap().success());
    if Command::new(&program)
        .spawn()
        .map(|mut child| child.kill().and(child.wait()))
        .is_err()
    {
        eprintln!("skipped: this kernel does not run 32-bit programs");
        return;
    }
    let victim = Victim::start(&program, &[]);
    assert!(matches!(
        Process::open(victim.pid),
        Err(OpenError::ForeignArchitecture { .. })
    ));
    victim.finish();
}

#[test]
fn everything_says_gone_after_the_end() {
    let mut victim = idle();
    let process = victim.process();
    let at = process.modules().unwrap().program().unwrap().range().start;
    assert_eq!(process.memory().read_array::<4>(at).unwrap(), *b"\x7fELF");
    victim.child.kill().unwrap();
    assert!(process.wait_for_end(LONG));
    for reaped in [false, true] {
        if reaped {
            victim.child.wait().unwrap();
        }
        assert!(!process.is_alive());
        let memory = process.memory();
        assert!(matches!(memory.read_u64(at), Err(MemoryError::Gone { .. })));
        assert!(matches!(
            memory.write(at, b"x"),
            Err(MemoryError::Gone { .. })
        ));
        assert!(matches!(
            memory.write_protected(at, b"x"),
            Err(MemoryError::Gone { .. })
        ));
        assert!(matches!(process.maps(), Err(MapsError::Gone { .. })));
        assert!(matches!(process.modules(), Err(ModuleError::Gone { .. })));
        assert!(matches!(process.stop(LONG), Err(StopError::Gone { .. })));
        assert!(process.threads().unwrap().is_empty());
    }
}

#[test]
fn memory_at_the_edges() {
    let mut victim = idle();
    let process = victim.process();
    let memory = process.memory();
    assert!(matches!(
        memory.read_u64(0x10u64.into()),
        Err(MemoryError::Unmapped { .. })
    ));
    assert!(matches!(
        memory.read_u64(u64::MAX.into()),
        Err(MemoryError::Unmapped { .. })
    ));
    let huge = memory.read_bytes(0x1000u64.into(), u64::MAX, 4096);
    assert!(matches!(huge, Err(MemoryError::TooMuch { .. })));
    // A read across the end of what is mapped says where it ends.
    let maps = process.maps().unwrap();
    let stack = maps
        .iter()
        .find(|mapping| mapping.name == "[stack]")
        .unwrap();
    let result = memory.read_bytes(stack.range.end - 16, 32, 32);
    match result {
        Err(MemoryError::Unmapped { address, .. }) => assert_eq!(address, stack.range.end),
        other => panic!("{other:?}"),
    }
    // Text is written only when that is asked for, and then without a change of protection.
    let module = process.modules().unwrap().program().unwrap().clone();
    let text = maps
        .iter()
        .find(|m| m.executable && module.contains(m.range.start))
        .unwrap();
    let at = text.range.start;
    let before: [u8; 8] = memory.read_array(at).unwrap();
    assert!(matches!(
        memory.write(at, &[0xcc; 8]),
        Err(MemoryError::Unmapped { .. })
    ));
    memory.write_protected(at, &[0xcc; 8]).unwrap();
    assert_eq!(memory.read_array::<8>(at).unwrap(), [0xcc; 8]);
    memory.write_protected(at, &before).unwrap();
    assert_eq!(process.maps().unwrap().find(at).unwrap(), text);
    assert_eq!(victim.ask("pid"), victim.pid.to_string());
    // Many ranges at once, more than the kernel takes in one call, some of them empty.
    let mut buffers = vec![[0u8; 3]; 3000];
    let mut ranges: Vec<_> = buffers
        .iter_mut()
        .enumerate()
        .map(|(index, buffer)| (stack.range.end - 4096, &mut buffer[..index % 3]))
        .collect();
    memory.read_many(&mut ranges).unwrap();
    victim.finish();
}
