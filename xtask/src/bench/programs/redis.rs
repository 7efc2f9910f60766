//! redis: one thread in an event loop.

use std::process::Command;

use anyhow::Result;

use super::case::Case;
use super::clients::Question;
use super::server::{Server, free_port};
use super::workshop::{Fix, Workshop};

/// The objects go, so that a patch is made by compiling what the fix changes and nothing else.
const BUILD: &str = "make MALLOC=libc && find . -name '*.o' -delete";

/// Asks for a value and for one that is not there, so that the answer needs nobody to set it.
const GET: Question = Question {
    request: "PING\r\nGET nothing\r\n",
    begins: "+PONG\r\n",
    ends: "$-1\r\n",
};

pub(super) fn case(workshop: &Workshop<'_>) -> Result<Case> {
    let redis = workshop.built("redis", "5:7.0.15-1~deb12u10", BUILD)?;
    let program = redis.tree.join("src/redis-server");
    let patch = |name, function, build| {
        workshop.patch(&Fix {
            name,
            function,
            tree: &redis.tree,
            binary: &program,
            build,
        })
    };
    let patches = [
        patch(
            "redis-event-loop",
            "aeProcessEvents",
            "make -C src MALLOC=libc ae.o",
        )?,
        patch(
            "redis-command",
            "getGenericCommand",
            "make -C src MALLOC=libc t_string.o",
        )?,
    ];
    let start = move || {
        let port = free_port()?;
        let mut command = Command::new(&program);
        command.args([
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        Server::that_listens(&mut command, port)
    };
    Ok(Case {
        name: format!("redis {}", redis.version),
        patches,
        start: Box::new(start),
        question: Some(GET),
    })
}
