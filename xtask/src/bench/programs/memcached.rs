//! memcached: threads in event loops that a library runs.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::case::Case;
use super::clients::Question;
use super::server::{Server, free_port};
use super::workshop::{Fix, Workshop, installed_version, require};

/// The objects go, so that a patch is made by compiling what the fix changes and nothing else.
const BUILD: &str = "./configure --disable-docs && make memcached && find . -name '*.o' -delete";
const BUILD_COMMAND: &str = "make memcached-thread.o";

/// As Debian builds it; nothing is compiled before a patch is made.
const CONFIGURE_LIBRARY: &str = "autoreconf --force --install && ./configure \
    --disable-libevent-regress --disable-samples --disable-openssl \
    CFLAGS='-g -O2 -fstack-protector-strong -Wformat -Werror=format-security' \
    CPPFLAGS='-Wdate-time -D_FORTIFY_SOURCE=2'";
/// The objects that a fix of the library's loop is in.
const BUILD_LIBRARY: &str = "make include/event2/event-config.h && make epoll.lo";
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libevent-2.1.so.7";

const GET: Question = Question {
    request: "get nothing\r\nmn\r\n",
    begins: "END\r\n",
    ends: "MN\r\n",
};

pub(super) fn case(workshop: &Workshop<'_>) -> Result<Case> {
    require(&[
        "libevent-2.1-7",
        "libevent-dev",
        "autoconf",
        "automake",
        "libtool",
        "m4",
    ])?;
    let memcached = workshop.built("memcached", "1.6.18-1+deb12u1", BUILD)?;
    let version = installed_version("libevent-2.1-7")?;
    let libevent = workshop.built("libevent", &version, CONFIGURE_LIBRARY)?;
    let program = memcached.tree.join("memcached");
    let event_loop = Fix {
        name: "libevent-event-loop",
        function: "epoll_dispatch",
        tree: &libevent.tree,
        binary: Path::new(LIBRARY),
        build: BUILD_LIBRARY,
    };
    let command = Fix {
        name: "memcached-item-get",
        function: "item_get",
        tree: &memcached.tree,
        binary: &program,
        build: BUILD_COMMAND,
    };
    let patches = [workshop.patch(&event_loop)?, workshop.patch(&command)?];
    let start = move || {
        let port = free_port()?;
        let mut command = Command::new(&program);
        // Its four threads get the clients in turn.
        command.args(["-u", "root", "-l", "127.0.0.1", "-t", "4"]);
        Server::that_listens(command.args(["-p", &port.to_string()]), port)
    };
    Ok(Case {
        name: format!("memcached {} with libevent {version}", memcached.version),
        patches,
        start: Box::new(start),
        question: Some(GET),
    })
}
