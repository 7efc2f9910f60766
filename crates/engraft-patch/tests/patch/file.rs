//! What is written is read again; what is damaged is refused; nothing makes the reader panic.

use crate::support::{example, patch, reseal};
use engraft_patch::{ReadError, read, write};
use proptest::prelude::*;

#[test]
fn the_example_comes_back() {
    let file = write(&example()).unwrap();
    assert_eq!(read(&file).unwrap(), example());
}

#[test]
fn every_flipped_byte_is_found() {
    let file = write(&example()).unwrap();
    for offset in 0..file.len() {
        let mut bad = file.clone();
        bad[offset] ^= 1 << (offset % 8);
        assert!(read(&bad).is_err(), "byte {offset:#x}");
    }
}

#[test]
fn every_truncation_is_called_so() {
    let file = write(&example()).unwrap();
    for length in 4..file.len() {
        let error = read(&file[..length]).unwrap_err();
        assert!(
            matches!(error, ReadError::Truncated { .. }),
            "{length}: {error}"
        );
    }
    for length in 0..4 {
        assert_eq!(read(&file[..length]).unwrap_err(), ReadError::NotElf);
    }
}

#[test]
fn a_longer_file_is_damaged() {
    let mut file = write(&example()).unwrap();
    file.push(0);
    assert!(matches!(read(&file), Err(ReadError::Damaged { .. })));
}

#[test]
fn other_files_are_no_patch_files() {
    assert_eq!(read(b"#!/bin/sh\n"), Err(ReadError::NotElf));
    let program = std::fs::read("/proc/self/exe").unwrap();
    assert!(matches!(read(&program), Err(ReadError::NotAPatch { .. })));
}

#[test]
fn a_newer_format_is_called_so() {
    let mut file = write(&example()).unwrap();
    file[72] = 3;
    reseal(&mut file);
    assert_eq!(read(&file), Err(ReadError::UnsupportedVersion { found: 3 }));
}

#[test]
fn another_machine_is_called_so() {
    let mut file = write(&example()).unwrap();
    file[18] = 183;
    reseal(&mut file);
    assert_eq!(
        read(&file),
        Err(ReadError::UnsupportedArchitecture {
            class: 2,
            machine: 183
        })
    );
}

#[test]
fn a_hidden_relocation_section_is_missed() {
    let file = write(&example()).unwrap();
    let name = b".rela.engraft.text.0\0";
    // SHT_RELA entries: make each one in turn something that readers skip.
    let table = u64::from_le_bytes(file[40..48].try_into().unwrap()) as usize;
    let mut seen = 0;
    for header in (table..file.len()).step_by(64) {
        if file[header + 4] == 4 {
            let mut bad = file.clone();
            bad[header + 4] = 1;
            reseal(&mut bad);
            assert!(matches!(read(&bad), Err(ReadError::Malformed { .. })));
            seen += 1;
        }
    }
    assert!(seen > 0 && file.windows(name.len()).any(|w| w == name));
}

#[test]
fn manifest_edits_are_checked() {
    let original = write(&example()).unwrap();
    for (from, to) in [
        ("\"size\": 32", "\"size\": 33"),
        ("\"size\": 32", "\"size\": 31"),
        ("\"size\": 40", "\"size\": 99"),
        ("\"size\": 10", "\"size\": 60"),
        ("\"size\": 8", "\"size\": 0"),
        ("\"trampoline\"", "\"trampolinE\""),
        ("\"name\": \"parse\"", "\"name\": \"pa@se\""),
        ("\"references\"", "\"referenceS\""),
        ("\"0x2000\"", "\"0x100g\""),
        ("\"0x2000\"", "\"0x1001\""),
        (
            "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
            "abababababababababababababababababababab",
        ),
        ("CVE-2024-1", "CVE/2024-1"),
        ("memcpy@GLIBC_2.14\"", "memcpy@GLIBC_2.15\""),
    ] {
        let mut file = original.clone();
        let place = file
            .windows(from.len())
            .position(|w| w == from.as_bytes())
            .expect(from);
        file[place..place + to.len()].copy_from_slice(to.as_bytes());
        reseal(&mut file);
        let error = read(&file).expect_err(to);
        assert!(
            matches!(
                error,
                ReadError::Malformed { .. } | ReadError::Inconsistent(_)
            ),
            "{to}: {error}"
        );
    }
}

#[test]
fn readelf_shows_it_without_complaint() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), write(&example()).unwrap()).unwrap();
    let readelf = |arguments: &[&str]| {
        let output = std::process::Command::new("readelf")
            .args(arguments)
            .arg(file.path())
            .output()
            .expect("readelf (Debian package binutils)");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let everything = readelf(&["-aW"]);
    assert!(!everything.contains("arning"), "{everything}");
    assert!(
        everything.contains("FUNC    LOCAL  DEFAULT    3 parse"),
        "{everything}"
    );
    assert!(
        everything.contains("FUNC    LOCAL  DEFAULT    3 parse.trampoline"),
        "{everything}"
    );
    assert!(everything.contains("R_X86_64_PC32"), "{everything}");
    assert!(
        everything.contains(".engraft.sym.0.helper,0x1234 - 4"),
        "{everything}"
    );
    assert!(
        everything.contains(".engraft.import.0.memcpy@GLIBC_2.14 + 0"),
        "{everything}"
    );
    let manifest = readelf(&["-p", ".engraft.manifest"]);
    for line in [
        "\"name\": \"CVE-2024-1\"",
        "\"file_name\": \"libexample.so.1\"",
        "\"0x2000\"",
    ] {
        assert!(manifest.contains(line), "{manifest}");
    }
}

proptest! {
    #[test]
    fn any_patch_comes_back(patch in patch()) {
        let file = write(&patch).unwrap();
        prop_assert_eq!(read(&file).unwrap(), patch);
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&bytes).is_err());
    }

    /// Mutated and sealed again, so that the mutation reaches everything behind the digest.
    #[test]
    fn mutations_behind_the_seal_are_survived(
        patch in patch(),
        mutations in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = write(&patch).unwrap();
        for (index, value) in mutations {
            let place = index.index(file.len());
            file[place] = value;
        }
        if let Some(cut) = cut {
            file.truncate(120 + cut.index(file.len() - 120));
        }
        file[64..72].copy_from_slice(b"ENGRAFT\0");
        reseal(&mut file);
        if let Ok(patch) = read(&file) {
            prop_assert_eq!(patch.check(), Ok(()));
        }
    }

    /// The same for the bytes that decide most: headers, tables and symbols at the file's ends.
    #[test]
    fn mutated_structures_are_survived(
        offset in 0usize..2000,
        value in any::<u64>(),
        width in 1usize..=8,
    ) {
        let mut file = write(&example()).unwrap();
        let place = file.len().saturating_sub(offset + 8);
        file[place..place + width].copy_from_slice(&value.to_le_bytes()[..width]);
        reseal(&mut file);
        if let Ok(patch) = read(&file) {
            prop_assert_eq!(patch.check(), Ok(()));
        }
    }
}
