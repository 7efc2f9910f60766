//! The bytes after a function that is shorter than the jump to its new code. They may be
//! overwritten as well if they are proven to be padding.

use engraft_machine::jump;
use engraft_patch::{LinkAddress, OldPart, site};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic};

use crate::binary::Binary;

/// Compilers fill up to where the next function may begin.
const ALIGNMENT: u64 = 16;

/// Adds as much padding to a function as its site needs. Without proof the function stays as it is.
///
/// The proof: the function's last instruction never continues with the next one; from there to the
/// next boundary there is nothing but padding; no symbol, no pointer that the loader relocates and
/// no direct branch in the binary leads there.
pub(crate) fn extend(binary: &Binary, entry: &mut OldPart) {
    let start = entry.address.0;
    let end = start.saturating_add(entry.code.len() as u64);
    let site_end = start.saturating_add(site::LENGTH);
    let boundary = end.next_multiple_of(ALIGNMENT);
    if end >= site_end || boundary < site_end || runs_on(entry) {
        return;
    }
    let gap = binary.bytes(end, boundary - end).unwrap_or_default();
    let needed = usize::try_from(site_end - end).unwrap_or(usize::MAX);
    let Some(padding) = gap.get(..needed).filter(|_| is_padding(gap)) else {
        return;
    };
    let wanted = end..site_end;
    if !binary.is_referred_to(&wanted) && !has_branch_to(binary, &wanted) {
        entry.code.extend_from_slice(padding);
    }
}

/// True unless the last instruction is one that nothing follows.
fn runs_on(entry: &OldPart) -> bool {
    let LinkAddress(address) = entry.address;
    let mut decoder = Decoder::with_ip(64, &entry.code, address, DecoderOptions::NONE);
    let last = decoder.iter().last();
    !last.is_some_and(|last| {
        matches!(
            last.flow_control(),
            FlowControl::Return
                | FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch
                | FlowControl::Exception
        )
    })
}

fn is_padding(bytes: &[u8]) -> bool {
    let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
    decoder
        .iter()
        .all(|instruction| matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3))
}

/// True if there is a direct call or jump into a range, or bytes that could be one.
fn has_branch_to(binary: &Binary, range: &std::ops::Range<u64>) -> bool {
    binary.executable().any(|(address, code)| {
        (address..).zip(code.windows(6)).any(|(here, bytes)| {
            let near = |field: Option<&[u8]>, length: u64| {
                let field = field.and_then(|field| field.try_into().ok());
                let distance = i64::from(i32::from_le_bytes(field.unwrap_or_default()));
                here.wrapping_add(length).wrapping_add_signed(distance)
            };
            let target = match *bytes {
                [0xe8 | jump::OPCODE, ..] => near(bytes.get(1..5), 5),
                [0x0f, 0x80..=0x8f, ..] => near(bytes.get(2..6), 6),
                [0xeb | 0x70..=0x7f | 0xe0..=0xe3, distance, ..] => here
                    .wrapping_add(2)
                    .wrapping_add_signed(i64::from(distance.cast_signed())),
                _ => return false,
            };
            range.contains(&target)
        })
    })
}
