//! Modules are found from memory, whatever kind of program it is.
#![expect(clippy::unwrap_used, reason = "a test fails so")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use engraft_process::{Module, ModuleKind, Process, TargetAddress, find_gap};
use support::{Victim, compile};

/// What readelf says about the build-id of a file.
fn build_id(path: &Path) -> String {
    let output = Command::new("readelf")
        .arg("-n")
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("Build ID")).unwrap();
    line.rsplit(' ').next().unwrap().to_owned()
}

fn parse(address: &str) -> TargetAddress {
    u64::from_str_radix(address.trim_start_matches("0x"), 16)
        .unwrap()
        .into()
}

fn library(name: &str) -> PathBuf {
    compile("library.c", name, &["-shared", "-fPIC", "-Wl,--build-id"])
}

/// The module in which the victim says that its function is; and it is the file we know.
fn program(victim: &mut Victim, file: &Path) -> Module {
    let address = parse(&victim.ask("address"));
    let modules = victim.process().modules().unwrap();
    let module = modules.program().unwrap();
    assert!(module.contains(address), "{module:?}");
    assert_eq!(
        module.build_id.as_ref().unwrap().to_string(),
        build_id(file)
    );
    assert_eq!(
        modules.containing(address).unwrap().load_bias,
        module.load_bias
    );
    assert_eq!(
        modules
            .iter()
            .filter(|module| module.kind == ModuleKind::Program)
            .count(),
        1
    );
    assert_eq!(
        modules
            .iter()
            .filter(|module| module.kind == ModuleKind::Vdso)
            .count(),
        1
    );
    module.clone()
}

fn kinds(process: &Process, kind: ModuleKind) -> usize {
    process
        .modules()
        .unwrap()
        .iter()
        .filter(|module| module.kind == kind)
        .count()
}

#[test]
fn a_position_independent_program() {
    let file = compile("idle.c", "idle-pie", &["-pie", "-fPIE", "-Wl,--build-id"]);
    let mut victim = Victim::start(&file, &[]);
    let module = program(&mut victim, &file);
    assert!(module.load_bias != 0);
    assert_eq!(module.path.as_deref(), Some(file.as_path()));
    let process = victim.process();
    assert_eq!(kinds(&process, ModuleKind::Loader), 1);
    assert!(kinds(&process, ModuleKind::Library) >= 1);
    let modules = process.modules().unwrap();
    let loader = modules.loader().unwrap();
    assert!(loader.is_consistent());
    let breakpoint = modules.containing(loader.breakpoint().unwrap()).unwrap();
    assert_eq!(breakpoint.kind, ModuleKind::Loader);
    victim.finish();
}

#[test]
fn a_program_at_a_fixed_address() {
    let file = compile(
        "idle.c",
        "idle-fixed",
        &["-no-pie", "-fno-pie", "-Wl,--build-id"],
    );
    let mut victim = Victim::start(&file, &[]);
    assert_eq!(program(&mut victim, &file).load_bias, 0);
    assert_eq!(kinds(&victim.process(), ModuleKind::Loader), 1);
    victim.finish();
}

#[test]
fn a_static_program() {
    let flags = ["-static", "-DSTATIC", "-no-pie", "-Wl,--build-id"];
    let file = compile("idle.c", "idle-static", &flags);
    let mut victim = Victim::start(&file, &[]);
    let module = program(&mut victim, &file);
    assert_eq!(module.load_bias, 0);
    let modules = victim.process().modules().unwrap();
    assert!(modules.loader().is_none());
    assert_eq!(modules.iter().count(), 2);
    victim.finish();
}

#[test]
fn a_static_position_independent_program() {
    let flags = ["-static-pie", "-fPIE", "-DSTATIC", "-Wl,--build-id"];
    let file = compile("idle.c", "idle-static-pie", &flags);
    let mut victim = Victim::start(&file, &[]);
    assert!(program(&mut victim, &file).load_bias != 0);
    assert_eq!(kinds(&victim.process(), ModuleKind::Library), 0);
    victim.finish();
}

#[test]
fn a_program_started_through_the_loader() {
    let file = compile(
        "idle.c",
        "idle-loader",
        &["-pie", "-fPIE", "-Wl,--build-id"],
    );
    let text = Command::new("readelf")
        .arg("-l")
        .arg(&file)
        .output()
        .unwrap()
        .stdout;
    let text = String::from_utf8(text).unwrap();
    let (_, rest) = text.split_once("interpreter: ").unwrap();
    let interpreter = rest.split(']').next().unwrap();
    let mut victim = Victim::start(Path::new(interpreter), &[file.to_str().unwrap()]);
    program(&mut victim, &file);
    assert_eq!(kinds(&victim.process(), ModuleKind::Loader), 1);
    victim.finish();
}

#[test]
fn libraries_that_come_and_go_in_several_namespaces() {
    let file = compile("idle.c", "idle-libraries", &["-Wl,--build-id"]);
    let library = library("library.so");
    let mut victim = Victim::start(&file, &[]);
    let process = victim.process();
    let id = build_id(&library);
    let instances = || {
        let modules = process.modules().unwrap();
        let has_id = |module: &&Module| {
            module
                .build_id
                .as_ref()
                .is_some_and(|i| i.to_string() == id)
        };
        modules.iter().filter(has_id).cloned().collect::<Vec<_>>()
    };
    assert!(instances().is_empty());
    let first = parse(&victim.ask(&format!("dlopen {}", library.display())));
    assert_eq!(instances().len(), 1);
    assert!(instances()[0].contains(first));
    assert_eq!(
        instances()[0]
            .symbol(process.memory(), b"in_library")
            .unwrap(),
        Some(first)
    );
    assert_eq!(
        instances()[0].symbol(process.memory(), b"nothing").unwrap(),
        None
    );
    let second = parse(&victim.ask(&format!("dlmopen {}", library.display())));
    let both = instances();
    assert_eq!(both.len(), 2);
    assert!(
        both.iter()
            .any(|module| module.contains(second) && module.namespace == 1)
    );
    // The loader itself is there once, however many namespaces list it.
    assert_eq!(kinds(&process, ModuleKind::Loader), 1);
    assert_eq!(victim.ask("dlclose"), "0");
    assert_eq!(instances().len(), 1);
    victim.finish();
}

#[test]
fn files_that_were_deleted_or_replaced() {
    let file = compile("idle.c", "idle-deleted", &["-Wl,--build-id"]);
    let copy = file.with_extension("copy");
    fs::copy(&file, &copy).unwrap();
    let library = library("deleted.so");
    let moved = library.with_extension("moved");
    fs::copy(&library, &moved).unwrap();
    let mut victim = Victim::start(&copy, &[]);
    let address = parse(&victim.ask(&format!("dlopen {}", moved.display())));
    fs::remove_file(&copy).unwrap();
    fs::remove_file(&moved).unwrap();
    fs::write(&moved, "something else").unwrap();
    program(&mut victim, &file);
    let modules = victim.process().modules().unwrap();
    let module = modules.containing(address).unwrap();
    assert_eq!(
        module.build_id.as_ref().unwrap().to_string(),
        build_id(&library)
    );
    fs::remove_file(&moved).unwrap();
    victim.finish();
}

#[test]
fn the_function_that_refuses_a_load_is_the_one_that_works() {
    let file = compile("idle.c", "idle-error", &[]);
    let victim = Victim::start(&file, &[]);
    let process = victim.process();
    let modules = process.modules().unwrap();
    let found = modules.loader().unwrap().signal_error().unwrap();
    let holder = modules.containing(found).unwrap();
    // Where ld.so has a PLT slot for it (glibc up to 2.36), the slot leads to libc.
    let name = holder
        .path
        .as_ref()
        .unwrap()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let output = Command::new("getconf")
        .arg("GNU_LIBC_VERSION")
        .output()
        .unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    let minor: u32 = version.trim().rsplit('.').next().unwrap().parse().unwrap();
    let expected = if minor <= 36 { "libc" } else { "ld-" };
    assert!(name.starts_with(expected), "{name} with {version}");
    victim.finish();
}

#[test]
fn a_gap_near_every_module() {
    let victim = Victim::start(&compile("idle.c", "idle-gap", &[]), &[]);
    let process = victim.process();
    let maps = process.maps().unwrap();
    for module in &process.modules().unwrap() {
        let range = module.range();
        let gap = find_gap(&maps, &range, 1 << 20, 4096).unwrap();
        assert!(
            maps.iter()
                .all(|m| m.range.end < gap || gap + (1 << 20) < m.range.start)
        );
        assert!(gap.get().abs_diff(range.end.get()) < 1 << 31);
    }
    victim.finish();
}

#[test]
fn a_process_whose_first_thread_has_ended() {
    let file = compile("idle.c", "idle-leader", &["-Wl,--build-id"]);
    let mut victim = Victim::start(&file, &["exit-leader"]);
    program(&mut victim, &file);
    let mut stopped = victim.stop();
    let mut thread = stopped.calling_thread().unwrap();
    assert_eq!(
        thread.system_call(libc::SYS_getpid, [0; 6]).unwrap(),
        victim.pid as u64
    );
    stopped.detach().unwrap();
    assert_eq!(victim.ask("pid"), victim.pid.to_string());
    victim.finish();
}
