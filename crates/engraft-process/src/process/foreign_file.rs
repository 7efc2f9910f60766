//! Files that a process names, such as `/proc/PID/exe`. They are opened and read so that nothing
//! that the process has put there can block us, cause a side effect, or make us use memory without
//! bound.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::process::limits::FILE_BYTES;
use object::read::{ReadCache, ReadRef};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, open, statx};

/// What reading a piece costs besides its bytes.
const OVERHEAD: u64 = 64;

/// Opens a file for reading, if it is an ordinary one.
///
/// Opening a device may have an effect, and opening a FIFO waits. So we first get a reference to
/// the file without opening it (`O_PATH`), ask the kernel for its type, and open the file through
/// the reference, which cannot lead to another file any more.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] if the file is not an ordinary one; otherwise what the system
/// reports.
pub fn open_ordinary(path: &Path) -> io::Result<File> {
    let reference = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    // DONT_SYNC: a file's type does not change, so the server of a network file system need not be
    // asked.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let facts = statx(&reference, c"", flags, StatxFlags::TYPE)?;
    if FileType::from_raw_mode(facts.stx_mode.into()) != FileType::RegularFile {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not an ordinary file",
        ));
    }
    let same = format!("/proc/self/fd/{}", reference.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(open(same, flags, Mode::empty())?.into())
}

/// A file that is read piece by piece, up to a bound.
pub(crate) struct BoundedFile {
    cache: ReadCache<File>,
    left: Cell<u64>,
}

impl BoundedFile {
    pub(crate) fn new(file: File) -> Self {
        Self {
            cache: ReadCache::new(file),
            left: FILE_BYTES.into(),
        }
    }

    fn charge(&self, length: u64) -> Result<(), ()> {
        let cost = length.checked_add(OVERHEAD).ok_or(())?;
        let left = self.left.get().checked_sub(cost).ok_or(())?;
        self.left.set(left);
        Ok(())
    }
}

impl<'f> ReadRef<'f> for &'f BoundedFile {
    fn len(self) -> Result<u64, ()> {
        ReadRef::len(&self.cache)
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'f [u8], ()> {
        self.charge(size)?;
        (&self.cache).read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'f [u8], ()> {
        // The length is known only afterwards; no longer piece is needed.
        const LONGEST: u64 = 64 << 10;
        let end = range.end.min(range.start.saturating_add(LONGEST));
        let bytes = (&self.cache).read_bytes_at_until(range.start..end, delimiter)?;
        self.charge(bytes.len() as u64)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_is_no_ordinary_file_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        // Each of them would wait, or be something else.
        for path in [
            &fifo,
            directory.path(),
            Path::new("/dev/tty"),
            Path::new("/dev/zero"),
        ] {
            let error = open_ordinary(path).unwrap_err();
            assert!(matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::NotFound
            ));
        }
        open_ordinary(Path::new("/proc/self/exe")).unwrap();
    }

    #[test]
    fn no_more_is_read_than_the_bound() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"name\0").unwrap();
        file.set_len(1 << 40).unwrap();
        let bounded = BoundedFile::new(file);
        assert_eq!(
            (&bounded).read_bytes_at_until(0..1 << 40, 0),
            Ok(&b"name"[..])
        );
        assert_eq!((&bounded).read_bytes_at(0, 1 << 39), Err(()));
        let pieces = (1..).take_while(|at| (&bounded).read_bytes_at(at << 20, 1 << 20).is_ok());
        assert_eq!(pieces.count() as u64, (FILE_BYTES >> 20) - 1);
    }
}
