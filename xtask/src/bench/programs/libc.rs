//! The machine's own C library, whose functions threads sleep in.

use std::path::Path;

use anyhow::{Result, ensure};

use super::workshop::{Fix, Patch, Workshop, installed_version, require};

const LIBRARY: &str = "/lib/x86_64-linux-gnu/libc.so.6";

/// With the options of Debian's `debian/rules.d/build.mk` that reach code. Nothing is compiled
/// before a patch is made, and what no compile needs goes, because the tree is copied then.
const CONFIGURE: &str = "rm -rf localedata po manual benchtests debian/patches .pc iconvdata ChangeLog.old
mkdir -p built && cd built
echo 'CFLAGS = -pipe -O2 -g' > configparms
CC=gcc AUTOCONF=false MAKEINFO=: ../configure --prefix=/usr --disable-crypt \
    --enable-stackguard-randomization --enable-stack-protector=strong --enable-multi-arch --enable-kernel=3.2";

/// The objects that the first fix is in, as they go into the shared library.
const BUILD_SLEEP: &str = "objects() {
    directory=$1; shift
    make -r -C $directory subdir=$directory objdir=$PWD/built ..=../ $(printf \"$PWD/built/$directory/%s.os \" $@)
}
objects io poll
objects misc epoll_wait epoll_pwait";

/// The same for the others.
const BUILD_READ: &str = "make -r -C io subdir=io objdir=$PWD/built ..=../ $PWD/built/io/read.os";
const BUILD_WRITE: &str = "make -r -C io subdir=io objdir=$PWD/built ..=../ $PWD/built/io/write.os";

/// Patches of the C library.
pub(super) struct Libc {
    /// For functions that threads sleep in.
    pub(super) sleep: Patch,
    /// For functions that are called for a moment, if the file is ready.
    pub(super) read: Patch,
    pub(super) write: Patch,
}

impl Libc {
    pub(super) fn patched(workshop: &Workshop<'_>) -> Result<Self> {
        require(&["bison", "gawk", "python3"])?;
        let version = installed_version("libc6")?;
        let libc = workshop.built("glibc", &version, CONFIGURE)?;
        ensure!(
            libc.version == version,
            "libc6 {version} is installed, and only the source of {} can be fetched; \
            remove target/programs/glibc* to fetch it again",
            libc.version
        );
        let patch = |name, function, build| {
            workshop.patch(&Fix {
                name,
                function,
                tree: &libc.tree,
                binary: Path::new(LIBRARY),
                build,
            })
        };
        Ok(Self {
            sleep: patch("libc-sleep", "poll and epoll_wait", BUILD_SLEEP)?,
            read: patch("libc-read", "read", BUILD_READ)?,
            write: patch("libc-write", "write", BUILD_WRITE)?,
        })
    }
}
