//! Call instructions, recognised from behind.

/// The longest call instruction, without superfluous prefixes.
pub(crate) const TAIL: usize = 7;

/// May the code that ends with these bytes end in a call? `e8` with a displacement, or `ff /2` with any
/// operand. Other instructions may end in the same bytes.
pub(crate) fn may_be_call(tail: &[u8; TAIL]) -> bool {
    const LENGTHS_OF_INDIRECT: [usize; 5] = [2, 3, 4, 6, 7];
    let indirect = |length: usize| matches!(&tail[TAIL - length..], [0xff, operand, ..] if operand & 0x38 == 0x10);
    tail[TAIL - 5] == 0xe8 || LENGTHS_OF_INDIRECT.into_iter().any(indirect)
}
