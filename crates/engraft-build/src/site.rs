//! Whether there is room for the jump to new code at an old function's entry.

use std::ops::Range;

use engraft_patch::OldPart;
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, OpKind};

use crate::refusal::{Hex, Refusal};

/// A jump with a 32-bit displacement.
const JUMP: u64 = 5;
/// A leading `endbr64` stays, so that indirect calls still find it; the jump goes behind it.
const ENDBR: u64 = 4;

/// Checks that nothing in the function, whose parts are given with the entry first, jumps into the middle of the
/// bytes to be replaced.
///
/// A jump to their start is harmless, as a recursive call is: what runs there relies on nothing but what the ABI
/// says of a function's entry, because a first entry runs the same instructions.
pub(crate) fn check(function: &str, parts: &[OldPart]) -> Result<(), Refusal> {
    let Some(entry) = parts.first() else {
        return Ok(());
    };
    let size = entry.code.len() as u64;
    let site = site(&entry.code);
    if size < site.end {
        let function = function.to_owned();
        return Err(Refusal::TooShort {
            function,
            size,
            minimum: site.end,
        });
    }
    let inside = entry.address.0 + site.start + 1..entry.address.0 + site.end;
    for part in parts {
        if let Some((from, to)) = jump_into(part, &inside) {
            let function = function.to_owned();
            return Err(Refusal::JumpIntoEntry {
                function,
                from: Hex(from),
                to: Hex(to),
            });
        }
    }
    Ok(())
}

/// The bytes to be replaced.
fn site(code: &[u8]) -> Range<u64> {
    let first = Decoder::new(64, code, DecoderOptions::NONE).decode();
    if first.code() == Code::Endbr64 && code.len() as u64 >= ENDBR + JUMP {
        ENDBR..ENDBR + JUMP
    } else {
        0..JUMP
    }
}

fn jump_into(part: &OldPart, inside: &Range<u64>) -> Option<(u64, u64)> {
    let decoder = Decoder::with_ip(64, &part.code, part.address.0, DecoderOptions::NONE);
    decoder.into_iter().find_map(|instruction| {
        let near = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::NearBranch64;
        let target = instruction.near_branch_target();
        let jumps = near && instruction.flow_control() != FlowControl::Call;
        (jumps && inside.contains(&target)).then_some((instruction.ip(), target))
    })
}

#[cfg(test)]
mod tests {
    use engraft_patch::LinkAddress;

    use super::*;

    fn refused(code: &[u8]) -> Option<Refusal> {
        check(
            "f",
            &[OldPart {
                address: LinkAddress(0x1000),
                code: code.to_vec(),
            }],
        )
        .err()
    }

    #[test]
    fn short_functions() {
        let size = |code: &[u8]| match refused(code) {
            Some(Refusal::TooShort { size, minimum, .. }) => Some((size, minimum)),
            _ => None,
        };
        assert_eq!(size(&[0x31, 0xc0, 0xc3]), Some((3, 5)));
        assert_eq!(size(&[0xb8, 1, 0, 0, 0]), None);
        // endbr64; ret: the jump replaces endbr64 as well.
        assert_eq!(size(&[0xf3, 0x0f, 0x1e, 0xfa, 0xc3]), None);
    }

    #[test]
    fn jumps_into_the_entry() {
        // inc edi; test edi, edi; jnz to the test; ret
        assert!(matches!(
            refused(&[0xff, 0xc7, 0x85, 0xff, 0x75, 0xfc, 0xc3]),
            Some(Refusal::JumpIntoEntry {
                from: Hex(0x1004),
                to: Hex(0x1002),
                ..
            })
        ));
        // The same, but to the entry.
        assert_eq!(refused(&[0xff, 0xc7, 0x85, 0xff, 0x75, 0xfa, 0xc3]), None);
        // nop x5; inc edi; jnz -4 (behind the entry); ret
        let behind = [0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xc7, 0x75, 0xfc, 0xc3];
        assert_eq!(refused(&behind), None);
        // endbr64; nop; inc edi; jnz -4: bytes 4 to 9 are replaced.
        let endbr = [0xf3, 0x0f, 0x1e, 0xfa, 0x90, 0xff, 0xc7, 0x75, 0xfc, 0xc3];
        assert!(matches!(
            refused(&endbr),
            Some(Refusal::JumpIntoEntry { .. })
        ));
        // A recursive call is a call.
        assert_eq!(
            refused(&[0x83, 0xef, 1, 0xe8, 0xf8, 0xff, 0xff, 0xff, 0xc3]),
            None
        );
    }

    #[test]
    fn jumps_from_a_cold_part() {
        let entry = OldPart {
            address: LinkAddress(0x1000),
            code: vec![0x90; 16],
        };
        // jmp 0x1002, from 0x1100.
        let code = vec![0xe9, 0xfd, 0xfe, 0xff, 0xff];
        let cold = OldPart {
            address: LinkAddress(0x1100),
            code,
        };
        assert!(matches!(
            check("f", &[entry, cold]),
            Err(Refusal::JumpIntoEntry {
                from: Hex(0x1100),
                to: Hex(0x1002),
                ..
            })
        ));
    }
}
