//! New code brings its call frame information, and it is what the compiler made for it.

use std::fs;
use std::ops::Range;

use engraft_build::Refusal;
use engraft_patch::{Image, Relocation, RelocationKind, RelocationTarget, Segment};
use gimli::{BaseAddresses, EhFrame, LittleEndian, UnwindContext, UnwindSection as _};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use crate::support::{LIBRARY, NO_PIE, Project, function, imports, names};

/// Where the image's segments are in these tests.
const TEXT: u64 = 0x10_0000;
const READ_ONLY: u64 = 0x20_0000;

const PART: &str = "
#include <stdlib.h>
int shared;
__attribute__((noinline)) int other(int x) { return x + shared; }
__attribute__((noinline, cold)) static int rare(int x) { return other(other(x) + other(x + 1)); }
int part(int x) {
    int a = other(x), b = other(a), c = other(b);
    if (__builtin_expect(a > 70, 0)) { rare(a); abort(); }
    return a * 100 + b * 10 + c;
}
int leaf(int x) { return x * 100 + 1; }
";
const EDITS: [(&str, &str, &str); 3] = [
    ("part.c", "return a * 100", "return added(a) + a * 200"),
    (
        "part.c",
        "int part(int x) {",
        "__attribute__((noinline)) static int added(int x) { char room[800]; shared = x; \
      return other(x) + atoi((char *)memset(room, '1', 799)); }\nint part(int x) {",
    ),
    ("part.c", "x * 100 + 1", "x * 200 + 1"),
];

/// The read-only bytes with the addresses of functions written.
fn relocated(image: &Image) -> Vec<u8> {
    let mut bytes = image.read_only.clone();
    for relocation in &image.relocations {
        let RelocationTarget::Image(target) = &relocation.target else {
            continue;
        };
        if relocation.place.segment == Segment::ReadOnly && target.segment == Segment::Text {
            assert_eq!(relocation.kind, RelocationKind::PcRelative32);
            let place = relocation.place.offset;
            let symbol = (TEXT + target.offset).wrapping_add_signed(relocation.addend);
            let value = symbol.wrapping_sub(READ_ONLY + place).to_le_bytes();
            let place = usize::try_from(place).unwrap();
            bytes[place..place + 4].copy_from_slice(&value[..4]);
        }
    }
    bytes
}

/// The rules of the function at an address, by the distance from its start; `None` without an FDE.
fn rules(section: &[u8], section_address: u64, function: u64) -> Option<Vec<String>> {
    let section = EhFrame::new(section, LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(section_address);
    let cie = EhFrame::cie_from_offset;
    let fde = match section.fde_for_address(&bases, function, cie) {
        Ok(fde) => fde,
        Err(gimli::Error::NoUnwindInfoForAddress) => return None,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(fde.initial_address(), function);
    let mut context = UnwindContext::new();
    let mut rows = fde.rows(&section, &bases, &mut context).unwrap();
    let mut rules = Vec::new();
    while let Some(row) = rows.next_row().unwrap() {
        let start = row.start_address() - function;
        let end = row.end_address() - function;
        let mut registers: Vec<_> = row.registers().map(|rule| format!("{rule:?}")).collect();
        registers.sort();
        rules.push(format!("{start}..{end} {:?} {registers:?}", row.cfa()));
    }
    Some(rules)
}

/// Where the zero word is that ends the entries.
fn end_of_entries(section: &[u8]) -> usize {
    let mut position = 0;
    loop {
        let length = u32::from_le_bytes(*section[position..].first_chunk().unwrap());
        if length == 0 {
            return position;
        }
        position += 4 + length as usize;
    }
}

#[test]
fn every_new_function_is_described_as_the_compiler_does() {
    let part = format!("#include <string.h>\n{PART}");
    let project = Project::new(LIBRARY, &part);
    let object = project.build(&EDITS, "libpart.so");
    assert_eq!(names(&object), ["leaf", "part"]);
    let image = &object.image;
    let range = image.unwind.unwrap();
    let start = usize::try_from(range.start.offset).unwrap();
    let end = start + usize::try_from(range.size).unwrap();
    let section = &relocated(image)[start..end];
    assert_eq!(end_of_entries(section), section.len() - 4);

    let binary = fs::read(project.file("libpart.so")).unwrap();
    let old = |name: &str| rules_of(&binary, name);
    // The same code, linked.
    fs::copy(
        project.source().join("../new/part.c"),
        project.file("fixed.c"),
    )
    .unwrap();
    let options = "-O2 -g -fPIC -ffunction-sections -fdata-sections -shared -o fixed.so fixed.c";
    let options: Vec<_> = options.split(' ').collect();
    project.run("gcc", &options);
    let linked = fs::read(project.file("fixed.so")).unwrap();
    let expected = |name: &str| rules_of(&linked, name);

    let address = READ_ONLY + range.start.offset;
    for name in ["leaf", "part"] {
        let function = function(&object, name);
        let found = rules(section, address, TEXT + function.new_entry.offset);
        assert_eq!(found, Some(expected(name)), "{name}");
        // The old function's frames are those of its first instructions, moved.
        let trampoline = TEXT + function.trampoline.entry.offset;
        let site = function.site().unwrap().start;
        let moved = rules(section, address, trampoline - site).unwrap();
        let old = old(name);
        let registers = |rules: &[String]| {
            let without_range = |rule: &String| rule.split_once(' ').unwrap().1.to_owned();
            rules.iter().map(without_range).collect::<Vec<_>>()
        };
        assert_eq!(registers(&moved), registers(&old), "{name}");
        let size = function.trampoline.size + site;
        let end = format!("..{size} ");
        assert!(moved.last().unwrap().contains(&end), "{moved:?}, {size}");
    }
    // A function that is new, and a cold part.
    let all = all_rules(section, address);
    assert_eq!(all.len(), 6, "{all:#?}");
    assert!(all.contains(&expected("added")), "{all:#?}");
    assert!(all.contains(&expected("part.cold")), "{all:#?}");
}

/// The rules of a function in a file.
fn rules_of(file: &[u8], name: &str) -> Vec<String> {
    let file = object::File::parse(file).unwrap();
    let section = file.section_by_name(".eh_frame").unwrap();
    let mut symbols = file.symbols();
    let symbol = symbols.find(|symbol| symbol.name() == Ok(name)).unwrap();
    rules(section.data().unwrap(), section.address(), symbol.address()).unwrap()
}

/// The rules of every entry.
fn all_rules(section: &[u8], section_address: u64) -> Vec<Vec<String>> {
    let ranges = ranges(section, section_address).into_iter();
    let rules = |range: Range<u64>| rules(section, section_address, range.start);
    ranges.filter_map(rules).collect()
}

/// The code that every entry is about.
fn ranges(section: &[u8], section_address: u64) -> Vec<Range<u64>> {
    let frame = EhFrame::new(section, LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(section_address);
    let mut entries = frame.entries(&bases);
    let mut ranges = Vec::new();
    while let Some(entry) = entries.next().unwrap() {
        if let gimli::CieOrFde::Fde(partial) = entry {
            let fde = partial.parse(EhFrame::cie_from_offset).unwrap();
            ranges.push(fde.initial_address()..fde.end_address());
        }
    }
    ranges
}

/// Trampolines begin behind `endbr64` of their functions, but their entries begin as the functions
/// do.
#[test]
fn no_code_is_described_twice() {
    let makefile = format!("CPPFLAGS += -fcf-protection=full\n{LIBRARY}");
    let project = Project::new(&makefile, include_str!("../fixtures/shapes.c"));
    let object = project.build(&[("part.c", "DELTA 1", "DELTA 2")], "libpart.so");
    let mut sites = object.functions.iter().filter_map(|it| it.site());
    assert!(sites.any(|site| site.start == 4), "no endbr64");
    let range = object.image.unwind.unwrap();
    let start = usize::try_from(range.start.offset).unwrap();
    let section = &relocated(&object.image)[start..];
    let section = &section[..usize::try_from(range.size).unwrap()];
    let mut ranges = ranges(section, READ_ONLY + range.start.offset);
    assert!(
        ranges.len() >= 2 * object.functions.len(),
        "{}",
        ranges.len()
    );
    ranges.sort_by_key(|range| range.start);
    for pair in ranges.windows(2) {
        assert!(pair[0].end <= pair[1].start, "{pair:#x?}");
    }
}

#[test]
fn code_without_call_frame_information_brings_none() {
    let makefile = format!("CPPFLAGS += -fno-asynchronous-unwind-tables\n{LIBRARY}");
    let project = Project::new(&makefile, "int part(int x) { return x * 9 + 1; }\n");
    let object = project.build(&[("part.c", "x * 9", "x * 8")], "libpart.so");
    assert_eq!(object.image.unwind, None);
}

const PERSONALITY: &str = "__gcc_personality_v0";
const TIDY: &str = "
void work(int *x);
static void tidy_up(int *x) { work(x + 1); }
int part(int x) {
    __attribute__((cleanup(tidy_up))) int values[2] = { x, x };
    work(values);
    return values[0] + 1;
}
__attribute__((noipa)) void work(int *x) { *x += 1; }
";

/// What is to be done when an exception comes through comes along: the routine that does it, and
/// the table that it reads.
#[test]
fn cleanups_come_along() {
    for (makefile, binary) in [(LIBRARY, "libpart.so"), (NO_PIE, "program")] {
        let makefile = format!("CPPFLAGS += -fexceptions -fno-inline\n{makefile}");
        let project = Project::new(&makefile, TIDY);
        let object = project.build(&[("part.c", "values[0] + 1", "values[0] + 2")], binary);
        let image = &object.image;
        let range = image.unwind.unwrap();
        let of_unwind = |relocation: &&Relocation| {
            let place = relocation.place;
            place.segment == Segment::ReadOnly
                && (range.start.offset..range.start.offset + range.size).contains(&place.offset)
        };
        let target = |relocation: &Relocation| match &relocation.target {
            RelocationTarget::Image(target) => (target.segment, target.offset),
            other => panic!("{other:?}"),
        };
        let targets: Vec<_> = image
            .relocations
            .iter()
            .filter(of_unwind)
            .map(target)
            .collect();
        // The table, which is a constant in front of this section.
        let is_table = |&(segment, offset): &(Segment, u64)| {
            segment == Segment::ReadOnly && offset < range.start.offset
        };
        assert!(targets.iter().any(is_table), "{targets:?}");
        // The routine, by a slot.
        let slots: Vec<_> = image
            .relocations
            .iter()
            .filter(|relocation| match &relocation.target {
                RelocationTarget::Import(import) => import.name == PERSONALITY,
                // The linker has given it a place in the program.
                RelocationTarget::Object { name, .. } => name == PERSONALITY,
                RelocationTarget::Image(_) => false,
            })
            .map(|relocation| (relocation.place.segment, relocation.place.offset))
            .collect();
        let [slot] = *slots else {
            panic!("{slots:?}");
        };
        let is_indirect = targets.contains(&slot);
        assert_eq!(is_indirect, binary == "libpart.so", "{targets:?}");
    }
}

/// A function whose jumps are short in the binary, where the function that they lead to is near,
/// and not in an object with a section for each function.
#[test]
fn tables_of_another_layout_are_refused() {
    const HELPER: &str =
        "static __attribute__((noipa, used)) int helper(int x) { return x * 3 + 1; }\n";
    let layouts = |part: &str, edit: (&str, &str)| {
        let makefile = format!("CPPFLAGS += -fexceptions -fcf-protection=none\n{LIBRARY}");
        let project = Project::new(&makefile, &format!("{HELPER}{TIDY}{part}"));
        match &*project.refusals(&[("part.c", edit.0, edit.1)], "libpart.so") {
            [
                Refusal::OtherLayout {
                    function,
                    expected,
                    found,
                    ..
                },
            ] => (function.clone(), expected.0, found.0),
            other => panic!("{other:?}"),
        }
    };
    // The jump in front of `push` is among the first instructions.
    let naked = "__attribute__((naked)) int naked(int x) { __asm__(\"test %edi, %edi; jne helper; push %rbx; \\
        .cfi_adjust_cfa_offset 8; mov $7, %eax; pop %rbx; .cfi_adjust_cfa_offset -8; ret\"); }\n";
    let found = layouts(naked, ("$7", "$8"));
    assert_eq!(found, ("naked".to_owned(), 8, 4));
    // One in front of cleanups may be anywhere.
    let tidy = "int tidy(int x) {
        __attribute__((cleanup(tidy_up))) int values[2] = { x, x };
        __asm__ goto(\"test %0, %0; jne helper\" : : \"r\"(x) : : out);
        work(values);
        out: return values[0] + 5;
    }\n";
    let (function, expected, found) = layouts(tidy, ("+ 5", "+ 6"));
    assert_eq!((&*function, expected - found), ("tidy", 4));
    assert!(found > 16, "{found}");
}

#[test]
fn the_routine_that_cleans_up_may_be_new() {
    let makefile = format!("CPPFLAGS += -fexceptions -fno-inline\n{LIBRARY}");
    let project = Project::new(&makefile, TIDY);
    let own = format!(
        "int rand(void);\nint {PERSONALITY}(void) {{ return 5 + rand(); }}\nint part(int x)"
    );
    let edits = [
        ("part.c", "values[0] + 1", "values[0] + 2"),
        ("part.c", "int part(int x)", own.as_str()),
    ];
    let object = project.build(&edits, "libpart.so");
    // What it refers to comes along.
    assert_eq!(imports(&object), ["rand"]);
}
