//! Failures: a kind for programs, and a text for people that ends up in `dlerror` or in the
//! controller's error message. A failure can be made without memory; then it has no text.

use alloc::vec::Vec;

use engraft_abi::{ModuleRefusal, Outcome, RefusalText};

use crate::system::Errno;

/// A message of bounded length. A part for which there is no memory is missing.
#[derive(Default)]
pub(crate) struct Text {
    bytes: Vec<u8>,
}

impl Text {
    /// No text.
    pub(crate) const EMPTY: Self = Self { bytes: Vec::new() };

    /// The longest text that fits into a response, and with a zero byte into the loader's error.
    const LONGEST: usize = 399;

    /// Appends what fits.
    // Not inlined, nor are its neighbours: failures are rare, and the agent is to be small.
    #[inline(never)]
    pub(crate) fn push(mut self, part: &[u8]) -> Self {
        let free = Self::LONGEST - self.bytes.len().min(Self::LONGEST);
        let part = part.get(..part.len().min(free)).unwrap_or_default();
        if self.bytes.try_reserve(part.len()).is_ok() {
            self.bytes.extend_from_slice(part);
        }
        self
    }

    /// Appends `0x` and the digits.
    #[inline(never)]
    pub(crate) fn push_hexadecimal(self, value: u64) -> Self {
        let digits = (64 - value.leading_zeros()).div_ceil(4).max(1);
        let text = self.push(b"0x");
        (0..digits).rev().fold(text, |text, digit| {
            let nibble = (value >> (4 * digit)) as u8 & 15;
            text.push(&[if nibble < 10 {
                b'0' + nibble
            } else {
                b'a' + nibble - 10
            }])
        })
    }

    /// Appends a decimal number.
    #[inline(never)]
    pub(crate) fn push_decimal(self, value: u64) -> Self {
        let text = if value >= 10 {
            self.push_decimal(value / 10)
        } else {
            self
        };
        text.push(&[b'0' + (value % 10) as u8])
    }

    /// The text as a C string. `None` if there is no memory for its end.
    pub(crate) fn as_c_str(&mut self) -> Option<&core::ffi::CStr> {
        self.as_c_string();
        core::ffi::CStr::from_bytes_until_nul(&self.bytes).ok()
    }

    /// The text as a library name that glibc looks up literally. It has a slash, so that no search
    /// path is tried, and no `$`, which would be expanded. glibc adds that it cannot open such a
    /// file.
    pub(crate) fn fit_for_library_name(self) -> Self {
        // The beginning matters most, but the end has to fit, too.
        const END: &[u8] = b" (refused; the rest is the loader's) /";
        let mut name = self;
        name.bytes.truncate(Self::LONGEST - END.len());
        let mut name = name.push(END);
        for byte in &mut name.bytes {
            if *byte == b'$' {
                *byte = b'?';
            }
        }
        name
    }

    /// What was appended.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.strip_suffix(b"\0").unwrap_or(&self.bytes)
    }

    /// A copy; without what there is no memory for.
    pub(crate) fn copy(&self) -> Self {
        Self::EMPTY.push(self.as_bytes())
    }

    /// The text, followed by a zero byte, as C wants it. It lives as long as the text.
    pub(crate) fn as_c_string(&mut self) -> *const u8 {
        if self.bytes.last() != Some(&0) {
            match self.bytes.try_reserve(1) {
                Ok(()) => self.bytes.push(0),
                Err(_) => return c"engraft: out of memory /".as_ptr().cast(),
            }
        }
        self.bytes.as_ptr()
    }
}

impl RefusalText for Text {
    fn push(self, part: &[u8]) -> Self {
        Self::push(self, part)
    }

    fn push_hexadecimal(self, value: u64) -> Self {
        Self::push_hexadecimal(self, value)
    }
}

/// What went wrong.
pub(crate) struct Failure {
    /// For programs.
    pub outcome: Outcome,
    /// For people; fits after "failed to ...: ".
    pub text: Text,
}

impl Failure {
    /// With a constant text.
    #[inline(never)]
    pub(crate) fn new(outcome: Outcome, text: &[u8]) -> Self {
        Self {
            outcome,
            text: Text::EMPTY.push(text),
        }
    }

    /// The patch does not fit into a module.
    #[inline(never)]
    pub(crate) fn refusal(refusal: ModuleRefusal<'_>) -> Self {
        Self {
            outcome: refusal.outcome(),
            text: refusal.describe(Text::EMPTY),
        }
    }

    /// The text. A failure without one has found no memory for it.
    pub(crate) fn words(&self) -> &[u8] {
        match self.text.as_bytes() {
            b"" => b"the agent's memory is used up",
            text => text,
        }
    }

    /// A system call that failed.
    #[inline(never)]
    pub(crate) fn system_call(what: &[u8], Errno(number): Errno) -> Self {
        let text = Text::EMPTY
            .push(what)
            .push(b" failed with errno ")
            .push_decimal(number.into());
        Self {
            outcome: Outcome::SystemCall,
            text,
        }
    }

    /// The heap is exhausted.
    #[inline(never)]
    pub(crate) fn out_of_memory() -> Self {
        Self::new(Outcome::NoMemory, b"the agent's memory is used up")
    }

    /// A payload that a controller of this version would not have written.
    #[inline(never)]
    pub(crate) fn bad_payload() -> Self {
        Self::new(
            Outcome::BadPayload,
            b"the patch in the target's memory contradicts itself",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_out() {
        let text = Text::EMPTY
            .push_decimal(0)
            .push(b" ")
            .push_decimal(1907)
            .push(b" ");
        assert_eq!(text.push_hexadecimal(0xa0f).as_bytes(), b"0 1907 0xa0f");
        assert_eq!(Text::EMPTY.push_hexadecimal(0).as_bytes(), b"0x0");
    }

    #[test]
    fn a_long_text_is_cut_and_still_ends_in_zero() {
        let text = Text::EMPTY.push(&[b'x'; 1000]);
        assert_eq!(text.as_bytes().len(), 399);
        let mut text = text;
        let c_string = text.as_c_string();
        assert_eq!(c_string, text.bytes.as_ptr());
        assert_eq!((text.bytes.len(), text.bytes.last()), (400, Some(&0)));
    }
}
