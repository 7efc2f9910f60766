//! Whether there is room for the jump to new code at an old function's entry.

use std::ops::Range;

use engraft_patch::{OldPart, site};
use iced_x86::{Decoder, DecoderOptions, OpKind};

use crate::refusal::{Hex, Refusal};

/// The site of a function, whose parts are given with the entry first. Checks that nothing in the
/// function branches into its middle.
///
/// A jump to its start is harmless, as a recursive call is: what runs there relies on nothing but
/// what the ABI says of a function's entry, because a first entry runs the same instructions.
pub(crate) fn check(function: &str, parts: &[OldPart]) -> Result<Range<u64>, Refusal> {
    let entry = parts.first();
    let code = entry.map(|entry| entry.code.as_slice()).unwrap_or_default();
    let (Some(entry), Some(site)) = (entry, site::of(code)) else {
        return Err(Refusal::TooShort {
            function: function.to_owned(),
            size: code.len() as u64,
            minimum: site::LENGTH,
        });
    };
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
    Ok(site)
}

fn jump_into(part: &OldPart, inside: &Range<u64>) -> Option<(u64, u64)> {
    let decoder = Decoder::with_ip(64, &part.code, part.address.0, DecoderOptions::NONE);
    decoder.into_iter().find_map(|instruction| {
        let near = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::NearBranch64;
        let target = instruction.near_branch_target();
        (near && inside.contains(&target)).then_some((instruction.ip(), target))
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
        // sub edi, 1; call to the entry; ret
        let mut recursion = [0x83, 0xef, 1, 0xe8, 0xf8, 0xff, 0xff, 0xff, 0xc3];
        assert_eq!(refused(&recursion), None);
        recursion[4] += 3;
        assert!(matches!(
            refused(&recursion),
            Some(Refusal::JumpIntoEntry {
                to: Hex(0x1003),
                ..
            })
        ));
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
