//! Code that is being replaced.

use std::ops::Range;

use crate::sys::address::TargetAddress;

/// Code that is being replaced, as far as a walk needs to know it.
#[derive(Debug, Default)]
pub struct ReplacedCode {
    /// All replaced code.
    pub ranges: Vec<Range<TargetAddress>>,
    /// Code in which a thread decides where a call goes: the decision may be in its registers
    /// there.
    pub deciding: Vec<Range<TargetAddress>>,
    /// The entries of replaced functions: the range from the entry to the end of the site, and the
    /// original bytes of the site, at the end of that range.
    pub entries: Vec<(Range<TargetAddress>, Vec<u8>)>,
}
