//! The site: where in an old function the jump to new code is written.
//!
//! There is one rule, and it is here: the builder, the controller and the trampolines that a patch
//! brings must mean the same bytes.

use std::ops::Range;

use engraft_machine::jump;

use crate::model::Function;

/// The size of a site: a jump with a 32-bit displacement.
pub const LENGTH: u64 = jump::LENGTH as u64;

/// `endbr64`, which indirect calls land on where the processor enforces branch tracking.
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// The bytes of a function's entry part that the jump replaces, from its start: the first ones, or
/// those after a leading `endbr64` if there is room, so that the landing pad stays. `None` if the
/// code is too short.
pub fn of(code: &[u8]) -> Option<Range<u64>> {
    let length = code.len() as u64;
    let pad = ENDBR64.len() as u64;
    if code.starts_with(&ENDBR64) && length >= pad + LENGTH {
        Some(pad..pad + LENGTH)
    } else {
        (length >= LENGTH).then_some(0..LENGTH)
    }
}

impl Function {
    /// [`of`] the function's entry part.
    pub fn site(&self) -> Option<Range<u64>> {
        of(&self.parts.first()?.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_landing_pad_stays_where_there_is_room() {
        let mut code = [0x90; 9];
        assert_eq!(of(&code), Some(0..5));
        assert_eq!(of(&code[..5]), Some(0..5));
        assert_eq!(of(&code[..4]), None);
        code[..4].copy_from_slice(&ENDBR64);
        assert_eq!(of(&code), Some(4..9));
        assert_eq!(of(&code[..8]), Some(0..5));
        assert_eq!(of(&code[..4]), None);
    }
}
