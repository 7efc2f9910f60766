//! Each rule is broken once, and named.

use crate::support::{at, example};
use engraft_patch::{
    ImageRange, Inconsistency, LinkAddress, Patch, RelocationKind, RelocationTarget, Segment,
    WriteError, write,
};

fn broken(change: impl FnOnce(&mut Patch)) -> Inconsistency {
    let mut patch = example();
    change(&mut patch);
    let error = patch.check().expect_err("a rule is broken");
    assert!(matches!(write(&patch), Err(WriteError::Inconsistent(same)) if same == error));
    error
}

#[test]
fn names() {
    for name in ["", "a/b", "a b", &"x".repeat(64)] {
        let error = broken(|p| p.name = name.to_owned());
        assert!(matches!(error, Inconsistency::PatchName { .. }), "{error}");
    }
    let error = broken(|p| p.objects[0].functions[0].name.clear());
    assert!(
        matches!(
            error,
            Inconsistency::Name {
                what: "symbol name",
                ..
            }
        ),
        "{error}"
    );
    let error = broken(|p| p.objects[0].file_name = "/lib/libc.so.6".to_owned());
    assert!(matches!(error, Inconsistency::Name { .. }), "{error}");
}

#[test]
fn objects_and_functions() {
    assert_eq!(broken(|p| p.objects.clear()), Inconsistency::NoObjects);
    let error = broken(|p| p.objects[0].functions.clear());
    assert!(
        matches!(error, Inconsistency::NoFunctions { .. }),
        "{error}"
    );
    let error = broken(|p| p.objects[1].build_id = p.objects[0].build_id);
    assert!(
        matches!(error, Inconsistency::DuplicateObject { .. }),
        "{error}"
    );
    let error = broken(|p| {
        let twice = p.objects[0].functions[0].clone();
        p.objects[0].functions.push(twice);
    });
    assert!(
        matches!(error, Inconsistency::OverlappingFunctions { .. }),
        "{error}"
    );
    let error = broken(|p| p.objects[0].functions[0].parts.clear());
    assert!(matches!(error, Inconsistency::EmptyPart { .. }), "{error}");
    let error = broken(|p| p.objects[0].functions[0].parts[1].code.clear());
    assert!(matches!(error, Inconsistency::EmptyPart { .. }), "{error}");
    let error = broken(|p| p.objects[0].functions[0].parts[1].address = LinkAddress(u64::MAX));
    assert!(matches!(error, Inconsistency::Address { .. }), "{error}");
}

#[test]
fn entries() {
    for change in [
        |p: &mut Patch| p.objects[0].functions[0].new_entry = at(Segment::Data, 0),
        |p: &mut Patch| p.objects[0].functions[0].new_entry.offset = 60,
        |p: &mut Patch| p.objects[0].functions[0].new_size = 0,
        |p: &mut Patch| p.objects[0].functions[0].new_size = u64::MAX,
    ] {
        let error = broken(change);
        assert!(
            matches!(error, Inconsistency::EntryOutsideText { .. }),
            "{error}"
        );
    }
}

#[test]
fn trampolines_and_sites() {
    for change in [
        |p: &mut Patch| p.objects[0].functions[0].trampoline.entry = at(Segment::ReadOnly, 0),
        |p: &mut Patch| p.objects[0].functions[0].trampoline.entry.offset = 55,
        |p: &mut Patch| p.objects[0].functions[0].trampoline.entry.offset = u64::MAX,
        |p: &mut Patch| p.objects[0].functions[0].trampoline.size = 0,
        |p: &mut Patch| p.objects[0].functions[0].trampoline.size = 17,
    ] {
        let error = broken(change);
        assert!(
            matches!(error, Inconsistency::TrampolineOutsideText { .. }),
            "{error}"
        );
    }
    let error = broken(|p| p.objects[0].functions[0].parts[0].code.truncate(4));
    assert!(matches!(error, Inconsistency::NoSite { .. }), "{error}");
}

#[test]
fn call_frame_information() {
    for change in [
        |unwind: &mut ImageRange| unwind.start.segment = Segment::Data,
        |unwind: &mut ImageRange| unwind.start.offset = 14,
        |unwind: &mut ImageRange| unwind.start.offset = u64::MAX,
        |unwind: &mut ImageRange| unwind.size = 0,
        |unwind: &mut ImageRange| unwind.size = u64::MAX,
    ] {
        let error = broken(|p| change(p.objects[0].image.unwind.as_mut().unwrap()));
        assert!(
            matches!(error, Inconsistency::UnwindOutsideReadOnly { .. }),
            "{error}"
        );
    }
}

#[test]
fn relocations() {
    let error = broken(|p| p.objects[0].image.relocations[0].place.offset = 61);
    assert!(
        matches!(error, Inconsistency::PlaceOutside { .. }),
        "{error}"
    );
    let error = broken(|p| p.objects[0].image.relocations[0].place.offset = u64::MAX);
    assert!(
        matches!(error, Inconsistency::PlaceOutside { .. }),
        "{error}"
    );
    let error = broken(|p| p.objects[0].image.relocations[0].place.offset = 10);
    assert!(
        matches!(error, Inconsistency::OverlappingPlaces { .. }),
        "{error}"
    );
    let error = broken(|p| {
        let target = RelocationTarget::Image(at(Segment::Data, 133));
        p.objects[0].image.relocations[0].target = target;
    });
    assert!(
        matches!(error, Inconsistency::TargetOutside { .. }),
        "{error}"
    );
    let error = broken(|p| p.objects[0].image.relocations[5].addend = 1);
    assert!(
        matches!(error, Inconsistency::ImportNotSlot { .. }),
        "{error}"
    );
    let error = broken(|p| p.objects[0].image.relocations[5].kind = RelocationKind::PcRelative64);
    assert!(
        matches!(error, Inconsistency::ImportNotSlot { .. }),
        "{error}"
    );
    let error = broken(|p| p.objects[0].image.bss_size = u64::MAX);
    assert!(
        matches!(error, Inconsistency::ImageTooLarge { .. }),
        "{error}"
    );
}
