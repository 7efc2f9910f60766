//! Fuzz targets: whatever is in `/proc/PID/maps`, reading it ends without a panic. A file may be
//! named like a line of it.

use bolero::check;

use super::maps::Maps;

#[test]
fn any_bytes() {
    check!().with_iterations(2000).for_each(|text: &[u8]| {
        if let Ok(maps) = Maps::parse(text) {
            let lines = text.split(|byte| *byte == b'\n').count();
            assert!(maps.iter().count() <= lines);
        }
    });
}

/// A mapping as the kernel shows it.
#[derive(Clone, Debug, bolero::TypeGenerator)]
struct Line {
    start: u64,
    length: u32,
    permissions: u8,
    offset: u64,
    file: (u8, u8, u64),
    name: Vec<u8>,
}

impl Line {
    /// The kernel escapes line breaks, and a name does not begin with a space that could be told
    /// from those before it.
    fn name(&self) -> Vec<u8> {
        let mut name = self.name.clone();
        name.retain(|byte| *byte != b'\n' && *byte != 0);
        name.trim_ascii_start().to_vec()
    }

    fn text(&self) -> Vec<u8> {
        let flag = |bit: u8, letter: char| match self.permissions & bit {
            0 => '-',
            _ => letter,
        };
        let (major, minor, inode) = self.file;
        let text = format!(
            "{:08x}-{:08x} {}{}{}{} {:08x} {major:02x}:{minor:02x} {inode}          ",
            self.start,
            self.start.saturating_add(self.length.into()),
            flag(1, 'r'),
            flag(2, 'w'),
            flag(4, 'x'),
            if self.permissions & 8 == 0 { 'p' } else { 's' },
            self.offset,
        );
        [text.as_bytes(), &self.name(), b"\n"].concat()
    }
}

#[test]
fn lines_come_back() {
    check!()
        .with_iterations(1000)
        .with_type::<Vec<Line>>()
        .for_each(|lines| {
            let text: Vec<u8> = lines.iter().flat_map(Line::text).collect();
            let maps = Maps::parse(&text).unwrap();
            assert_eq!(maps.iter().count(), lines.len());
            for (found, line) in maps.iter().zip(lines) {
                assert_eq!(found.range.start.get(), line.start);
                assert_eq!(found.offset, line.offset);
                assert_eq!(found.writable, line.permissions & 2 != 0);
                assert_eq!(found.shared, line.permissions & 8 != 0);
                assert_eq!(found.file.2, line.file.2);
                assert_eq!(found.name.as_encoded_bytes(), line.name());
            }
        });
}

/// Two lines, with bytes that are changed.
#[test]
fn damaged_lines() {
    const TEXT: &[u8] = b"00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/a b\n\
        7ffc9d3f4000-7ffc9d415000 rw-p 00000000 00:00 0      [stack]\n";
    check!()
        .with_iterations(3000)
        .with_type::<Vec<(u8, u8)>>()
        .for_each(|changes| {
            let mut text = TEXT.to_vec();
            for (place, byte) in changes {
                let place = usize::from(*place) % text.len();
                text[place] = *byte;
            }
            let _ = Maps::parse(&text);
        });
}
