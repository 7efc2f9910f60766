//! One kind of instruction after the other, moved from 0x1000 to 0x2000.

use engraft_patch::{RelocationTarget, site};

use super::*;

const OLD: u64 = 0x1000;
const NEW: u64 = 0x2000;

fn moved(code: &[u8]) -> Result<MovedCode, Refusal> {
    let part = OldPart {
        address: LinkAddress(OLD),
        code: code.to_vec(),
    };
    MovedCode::new("f", &part, site::of(code).unwrap())
}

/// The trampoline as it is in memory.
fn trampoline(code: &[u8]) -> Vec<u8> {
    let mut draft = ImageDraft::default();
    let (spot, size) = moved(code).unwrap().place(&mut draft, &HashMap::new());
    assert_eq!((spot.area, spot.offset % 16), (Area::Text, 0));
    let mut image = draft.finish(None, false);
    let mut bytes = image.text.split_off(usize::try_from(spot.offset).unwrap());
    assert_eq!(size, bytes.len() as u64);
    for relocation in &image.relocations {
        assert_eq!(relocation.kind, RelocationKind::PcRelative32);
        let RelocationTarget::Object { address, .. } = relocation.target else {
            panic!("{:?}", relocation.target);
        };
        let place = relocation.place.offset - spot.offset;
        let symbol = address.0.wrapping_add_signed(relocation.addend);
        let value = symbol.wrapping_sub(NEW + place);
        let place = usize::try_from(place).unwrap();
        bytes[place..place + 4].copy_from_slice(&value.to_le_bytes()[..4]);
    }
    bytes
}

fn reason(code: &[u8]) -> Unmovable {
    match moved(code) {
        Err(Refusal::UnmovableInstruction { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

/// `jmp` from `from` in the trampoline to `to` in the old function.
fn jump(from: u64, to: u64) -> [u8; 5] {
    let [a, b, c, d, ..] = (OLD + to).wrapping_sub(NEW + from + 5).to_le_bytes();
    [0xe9, a, b, c, d]
}

#[test]
fn code_that_fits_anywhere_is_copied() {
    // push %rbp; mov %rsp,%rbp; sub $16,%rsp; ret
    let prologue = [0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x10, 0xc3];
    assert_eq!(
        trampoline(&prologue),
        [&prologue[..8], &jump(8, 8)].concat()
    );
    // mov $1,%eax; ret: exactly the site.
    let exact = [0xb8, 1, 0, 0, 0, 0xc3];
    assert_eq!(trampoline(&exact), [&exact[..5], &jump(5, 5)].concat());
}

#[test]
fn a_landing_pad_stays_where_it_is() {
    // endbr64; mov $1,%eax; ret
    let code = [0xf3, 0x0f, 0x1e, 0xfa, 0xb8, 1, 0, 0, 0, 0xc3];
    assert_eq!(trampoline(&code), [&code[4..9], &jump(5, 9)].concat());
    // endbr64; nop; ret: no room behind it.
    let short = [0xf3, 0x0f, 0x1e, 0xfa, 0x90, 0xc3];
    assert_eq!(trampoline(&short), [&short[..5], &jump(5, 5)].concat());
}

#[test]
fn operands_relative_to_the_instruction_pointer() {
    // mov 0x100(%rip),%eax; ret: 0x1106, from 0x2006.
    let load = [0x8b, 0x05, 0, 1, 0, 0, 0xc3];
    let expected = [0x8b, 0x05, 0x00, 0xf1, 0xff, 0xff];
    assert_eq!(trampoline(&load), [&expected[..], &jump(6, 6)].concat());
    // cmpl $7,0x100(%rip); ret: an immediate behind the field; 0x110a, from 0x200a.
    let compare = [0x81, 0x3d, 0, 1, 0, 0, 7, 0, 0, 0, 0xc3];
    let expected = [0x81, 0x3d, 0x00, 0xf1, 0xff, 0xff, 7, 0, 0, 0];
    assert_eq!(
        trampoline(&compare),
        [&expected[..], &jump(10, 10)].concat()
    );
    // mov -0x2000(%rip),%eax; ret: below address 0, as an array's base may be.
    let below = [0x8b, 0x05, 0, 0xe0, 0xff, 0xff, 0xc3];
    let expected = [0x8b, 0x05, 0x00, 0xd0, 0xff, 0xff];
    assert_eq!(trampoline(&below), [&expected[..], &jump(6, 6)].concat());
    // jmp *0x100(%rip): never comes back.
    let indirect = [0xff, 0x25, 0, 1, 0, 0];
    assert_eq!(trampoline(&indirect), [0xff, 0x25, 0x00, 0xf1, 0xff, 0xff]);
}

#[test]
fn calls() {
    // call 0x1105 + 0x100; ret
    let call = [0xe8, 0, 1, 0, 0, 0xc3];
    let expected = [0xe8, 0x00, 0xf1, 0xff, 0xff];
    assert_eq!(trampoline(&call), [&expected[..], &jump(5, 5)].concat());
    // push %rax; call: the end of a function that does not return.
    let last = [0x50, 0xe8, 0, 1, 0, 0];
    let expected = [0x50, 0xe8, 0x00, 0xf1, 0xff, 0xff];
    assert_eq!(trampoline(&last), [&expected[..], &jump(6, 6)].concat());
    // call *%rax; call *8(%rax); ret
    let indirect = [0xff, 0xd0, 0xff, 0x50, 8, 0xc3];
    assert_eq!(
        trampoline(&indirect),
        [&indirect[..5], &jump(5, 5)].concat()
    );
    // data16 data16 rex.W call, as in calls of __tls_get_addr
    let padded = [0x66, 0x66, 0x48, 0xe8, 0, 1, 0, 0, 0xc3];
    let expected = [0x66, 0x66, 0x48, 0xe8, 0x00, 0xf1, 0xff, 0xff];
    assert_eq!(trampoline(&padded), [&expected[..], &jump(8, 8)].concat());
}

#[test]
fn short_branches_lead_to_long_ones() {
    // test %edi,%edi; jne to the last ret; nop; ret; ret
    let forward = [0x85, 0xff, 0x75, 0x02, 0x90, 0xc3, 0xc3];
    let moved = [0x85, 0xff, 0x75, 6, 0x90];
    let expected = [&moved[..], &jump(5, 5), &jump(10, 6)].concat();
    assert_eq!(trampoline(&forward), expected);
    // inc %edi; jne to the entry; nop; ret
    let backward = [0xff, 0xc7, 0x75, 0xfc, 0x90, 0xc3];
    let moved = [0xff, 0xc7, 0x75, 6, 0x90];
    let expected = [&moved[..], &jump(5, 5), &jump(10, 0)].concat();
    assert_eq!(trampoline(&backward), expected);
    // je to the ret; jne to the nop; nop; ret
    let both = [0x74, 0x03, 0x75, 0x00, 0x90, 0xc3];
    let moved = [0x74, 8, 0x75, 11, 0x90];
    let expected = [&moved[..], &jump(5, 5), &jump(10, 5), &jump(15, 4)].concat();
    assert_eq!(trampoline(&both), expected);
    // jmp over what is dead.
    let always = [0xeb, 0x04, 0x90, 0x90, 0x90, 0x90, 0xc3];
    assert_eq!(trampoline(&always), jump(0, 6));
    // ja with 32 bits: the site's last byte is in its middle.
    let long = [0x31, 0xc0, 0x0f, 0x87, 0, 1, 0, 0, 0xc3];
    let [_, displacement @ ..] = jump(3, 0x108);
    let expected = [&[0x31, 0xc0, 0x0f, 0x87][..], &displacement, &jump(8, 8)].concat();
    assert_eq!(trampoline(&long), expected);
}

#[test]
fn branches_without_a_long_form() {
    for instruction in [
        &[0xe0][..],   // loopne
        &[0xe1],       // loope
        &[0xe2],       // loop
        &[0xe3],       // jrcxz
        &[0x67, 0xe3], // jecxz
        &[0x67, 0xe2], // loop with %ecx
    ] {
        // To the ret behind three bytes that are a nop.
        let code = [instruction, &[3, 0x0f, 0x1f, 0x00, 0xc3]].concat();
        let length = instruction.len() as u64 + 1;
        let rest = &code[usize::try_from(length).unwrap()..code.len() - 1];
        let mut expected = instruction.to_vec();
        expected.push(8);
        expected.extend(rest);
        expected.extend(jump(length + 3, length + 3));
        expected.extend(jump(length + 8, length + 3));
        assert_eq!(trampoline(&code), expected, "{instruction:x?}");
    }
}

#[test]
fn what_ends_early_needs_no_way_back() {
    // xor %eax,%eax; ret; padding
    assert_eq!(
        trampoline(&[0x31, 0xc0, 0xc3, 0x90, 0x90]),
        [0x31, 0xc0, 0xc3]
    );
    // ud2, ends what must not be reached.
    assert_eq!(trampoline(&[0x0f, 0x0b, 0x90, 0x90, 0x90]), [0x0f, 0x0b]);
}

#[test]
fn what_cannot_be_moved_is_refused() {
    // The function ends behind `mov $1,%eax`, or in its middle, or is not code.
    assert_eq!(reason(&[0xb8, 1, 0, 0, 0]), Unmovable::FallsOut);
    assert_eq!(reason(&[0x90, 0xb8, 1, 0, 0]), Unmovable::NoInstruction);
    assert_eq!(reason(&[0x06, 0, 0, 0, 0, 0]), Unmovable::NoInstruction);
    // call the next instruction; pop %rax: where am I?
    assert_eq!(
        reason(&[0xe8, 0, 0, 0, 0, 0x58, 0xc3]),
        Unmovable::CallsNext
    );
    // mov 0x100(%eip),%eax
    assert_eq!(
        reason(&[0x67, 0x8b, 0x05, 0, 1, 0, 0, 0xc3]),
        Unmovable::Narrow
    );
    // data16 call: four bytes of displacement on some processors, two on others.
    assert_eq!(reason(&[0x66, 0xe8, 0, 1, 0, 0, 0xc3]), Unmovable::Narrow);
}
