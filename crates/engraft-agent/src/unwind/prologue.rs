//! Which of a compiled function's first instructions can be executed at another address.

use core::ops::Range;

use engraft_machine::jump;

/// How many bytes of a function are examined.
pub(crate) const LENGTH: usize = 24;

/// The range of instructions that a jump may replace, after the landing pad if there is one. They
/// do the same at every address, and no jump of the function leads between them. `None` if that is
/// not certain.
///
/// The last of them is a `push` or makes room on the stack. Compiled code does that once on every
/// path. So no jump leads to what precedes it, not even a loop that begins there.
pub(crate) fn movable(code: &[u8; LENGTH]) -> Option<Range<usize>> {
    let start = match code {
        // endbr64: an indirect call has to find it here.
        [0xf3, 0x0f, 0x1e, 0xfa, ..] => 4,
        _ => 0,
    };
    let mut end = start;
    loop {
        let (length, moves_stack) = instruction(code.get(end..)?)?;
        end += length;
        if moves_stack && end - start >= jump::LENGTH {
            return (end <= LENGTH).then_some(start..end);
        }
    }
}

/// Length of the first instruction, and whether it moves the stack pointer; `None` if no function
/// begins with such an instruction.
fn instruction(code: &[u8]) -> Option<(usize, bool)> {
    Some(match code {
        // push
        [0x50..=0x57, ..] => (1, true),
        [0x41, 0x50..=0x57, ..] => (2, true),
        // sub rsp, number
        [0x48, 0x83, 0xec, ..] => (4, true),
        [0x48, 0x81, 0xec, ..] => (7, true),
        // mov register, register
        [0x89 | 0x8b, 0xc0..=0xff, ..] => (2, false),
        [0x40..=0x4f, 0x89 | 0x8b, 0xc0..=0xff, ..] => (3, false),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::string::String;
    use std::vec::Vec;

    use super::*;
    use crate::loader::elf::LoadedElf;
    use crate::system::memory::probe;

    fn code(hexadecimal: &str) -> [u8; LENGTH] {
        let digits: String = hexadecimal.split_whitespace().collect();
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        let mut code: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        code.resize(LENGTH, 0xcc);
        code.try_into().unwrap()
    }

    /// `_Unwind_Find_FDE` as distributions have it.
    #[test]
    fn the_prologues_of_libgcc_can_be_moved() {
        for (name, begins, moved) in [
            ("Debian 11", "4157 4156 4989fe 4155 4154 55", 0..9),
            ("Ubuntu 20.04", "f30f1efa 4157 4156 4989fe 4155 4154", 4..13),
            ("Debian 12", "f30f1efa 4157 4156 4155 4154 4989f4 55", 4..10),
            ("Ubuntu 22.04", "f30f1efa 4157 4156 4155 4154 4989f4", 4..10),
            (
                "Debian 13",
                "f30f1efa 4157 4156 4155 4154 55 53 4889fb",
                4..10,
            ),
            ("GCC 16", "f30f1efa 4881ec28010000 48899c24f8000000", 4..11),
        ] {
            assert_eq!(movable(&code(begins)), Some(moved), "{name}");
        }
    }

    #[test]
    fn what_is_not_certain_is_not_moved() {
        for (why, begins) in [
            ("a jump of somebody else", "e900000000 4154 55"),
            (
                "the same behind the landing pad",
                "f30f1efa e900000000 4154",
            ),
            ("a breakpoint", "cc56 4155 4154 55 53"),
            ("relative to itself", "4157 488b05ac6b0000 4156 4155 4154"),
            (
                "an address relative to itself",
                "488d3d64efffff 4157 4156 4155",
            ),
            ("a branch", "4157 85c0 757e 4156 4155 4154"),
            ("a call", "55 e800000000 53 53 53 53"),
            ("the end, and another function", "c3 4157 4156 4155 4154"),
            (
                "perhaps a loop",
                "4889f8 4889f2 4889f8 4889f2 4889f8 4889f2 4889f8 4889f2",
            ),
            ("a landing pad in the middle", "4157 f30f1efa 4156 4155"),
            ("mov to memory", "4157 48897c2408 4156 4155"),
        ] {
            assert_eq!(movable(&code(begins)), None, "{why}");
        }
    }

    #[test]
    fn the_library_of_this_machine_can_be_moved() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| line.contains("/libgcc_s"));
        // A Rust program is linked with it.
        let (start, _) = line.unwrap().split_once('-').unwrap();
        let bias = u64::from_str_radix(start, 16).unwrap();
        let library = LoadedElf::find(bias, 0).unwrap().elf;
        let find_fde = |version| library.exported_function(b"_Unwind_Find_FDE", version);
        assert_eq!(find_fde(b"GCC_9.9"), None);
        let function = find_fde(b"GCC_3.0").unwrap();
        let moved = movable(&probe(function).unwrap()).unwrap();
        assert!(moved.len() >= jump::LENGTH, "{moved:?}");
    }
}
