//! The agent's plan: the code that a thread must be clear of before it switches, and the bytes that
//! the change overwrites.

use std::ops::Range;

use engraft_abi::{CodeRange, range_kind};
use engraft_machine::jump;
use engraft_process::foreign::escape_bytes;
use engraft_process::{ReplacedCode, TargetAddress};

/// What must be clear before threads switch.
pub(crate) struct Plan {
    /// Changes whenever a module comes or goes.
    pub(crate) generation: u64,
    /// The code that threads must be clear of.
    pub(crate) ranges: Vec<CodeRange>,
    /// The bytes that will be overwritten: no thread may be about to execute the middle of them.
    pub(crate) sites: Vec<CodeRange>,
}

impl Plan {
    /// The code that the plan lists, in the form that a stack walk needs to find doors.
    pub(crate) fn replaced_code(&self) -> ReplacedCode {
        let of_kind = |kind| self.ranges.iter().filter(move |range| range.kind == kind);
        let deciding: Vec<_> = of_kind(range_kind::DECIDES).copied().collect();
        ReplacedCode {
            ranges: addresses(&self.ranges),
            deciding: addresses(&deciding),
            entries: of_kind(range_kind::ENTRY)
                .map(|range| {
                    let start = TargetAddress::new(range.start);
                    let end = start + range.site + jump::LENGTH as u64;
                    let original = range.original.get(..jump::LENGTH).unwrap_or_default();
                    (start..end, original.to_vec())
                })
                .collect(),
        }
    }
}

/// The ranges as addresses of the target.
pub(crate) fn addresses(ranges: &[CodeRange]) -> Vec<Range<TargetAddress>> {
    let addresses = |range: &CodeRange| range.start.into()..range.end.into();
    ranges.iter().map(addresses).collect()
}

/// The name of the function that the range belongs to.
pub(crate) fn function_name(range: &CodeRange) -> String {
    let name = range.name.split(|byte| *byte == 0).next();
    escape_bytes(name.unwrap_or_default())
}

/// A range of code that is not in a plan, with a name for messages, of which the first 64 bytes are
/// kept.
pub(crate) fn range_named(code: Range<TargetAddress>, text: &str) -> CodeRange {
    let mut name = [0; 64];
    name.iter_mut()
        .zip(text.bytes())
        .for_each(|(to, from)| *to = from);
    CodeRange {
        kind: range_kind::CODE,
        site: 0,
        original: [0; 8],
        start: code.start.get(),
        end: code.end.get(),
        moved: 0,
        name,
    }
}
