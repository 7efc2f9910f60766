//! The jump that leads from an old function to new code: `jmp rel32`.

/// The opcode of `jmp rel32`.
pub const OPCODE: u8 = 0xe9;

/// The length of the whole instruction, in bytes.
pub const LENGTH: usize = 5;

/// The instruction at `from` that jumps to `to`; `None` if `to` is farther than 2 GiB.
#[must_use]
pub fn encode(from: u64, to: u64) -> Option<[u8; LENGTH]> {
    // The processor counts from the end of the instruction.
    let distance = to.wrapping_sub(from.wrapping_add(LENGTH as u64));
    let [a, b, c, d] = i32::try_from(distance.cast_signed()).ok()?.to_le_bytes();
    Some([OPCODE, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_goes_both_ways_and_not_too_far() {
        assert_eq!(encode(0x1000, 0x1005), Some([0xe9, 0, 0, 0, 0]));
        assert_eq!(encode(0x1005, 0x1000), Some([0xe9, 0xf6, 0xff, 0xff, 0xff]));
        assert_eq!(encode(0, 0x8000_0004), Some([0xe9, 0xff, 0xff, 0xff, 0x7f]));
        assert_eq!(encode(0, 0x8000_0005), None);
    }
}
