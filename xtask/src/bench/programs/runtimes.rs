//! Programs of our own in several languages, whose threads sleep in the C library.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use engraft_testkit::{TIME_LIMIT, exit, run};

use super::case::Case;
use super::clients::Question;
use super::libc::Libc;
use super::server::Server;
use super::workshop::{Patch, Workshop, programs, require};

/// A line, and the answer to it.
const LINE: Question = Question {
    request: "ping\n",
    begins: "pong\n",
    ends: "pong\n",
};

const HTTP: Question = Question {
    request: "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    begins: "HTTP/1.1 200 OK\r\n",
    ends: "\r\n\r\npong\n",
};

/// One of them, with the patches of the C library.
pub(super) type Make = fn(&Workshop<'_>, &Libc) -> Result<Case>;

pub(super) const ALL: [(&str, Make); 5] = [
    ("C", |workshop, libc| sleepers(workshop, libc, 1)),
    ("C, 100 threads", |workshop, libc| {
        sleepers(workshop, libc, 100)
    }),
    ("python", python),
    ("node", node),
    ("java", java),
];

fn case(
    name: impl Into<String>,
    [first, second]: [&Patch; 2],
    question: Option<Question>,
    command: impl Fn() -> Command + 'static,
) -> Case {
    Case {
        name: name.into(),
        patches: [first.clone(), second.clone()],
        start: Box::new(move || Server::that_says(&mut command())),
        question,
    }
}

/// Threads that sleep in poll for 300 ms, again and again.
fn sleepers(workshop: &Workshop<'_>, libc: &Libc, threads: u32) -> Result<Case> {
    let program = workshop.path("sleepers");
    let mut compile = Command::new("gcc");
    compile.args(["-O2", "-pthread", "-o"]).arg(&program);
    compile.arg(programs().join("sleepers.c"));
    run(&mut compile, TIME_LIMIT)?.exits(exit::OK)?;
    let command = move || {
        let mut command = Command::new(&program);
        command.arg(threads.to_string());
        command
    };
    let name = format!("C, {threads} threads in poll(300 ms)");
    Ok(case(name, [&libc.sleep, &libc.write], None, command))
}

/// A thread for each connection, in poll.
fn python(_: &Workshop<'_>, libc: &Libc) -> Result<Case> {
    require(&["python3"])?;
    let command = || {
        // Not one that somebody has put into the path, which may have another C library.
        let mut command = Command::new("/usr/bin/python3");
        command.arg(programs().join("server.py"));
        command
    };
    Ok(case(
        "python, a thread in poll each client",
        [&libc.sleep, &libc.write],
        Some(LINE),
        command,
    ))
}

/// One thread in an event loop, and those of the runtime. One of these sleeps in `epoll_pwait` for
/// ever, as long as no task is to run later; so another function is patched.
fn node(_: &Workshop<'_>, libc: &Libc) -> Result<Case> {
    require(&["nodejs"])?;
    let command = || {
        let mut command = Command::new("/usr/bin/node");
        command.arg(programs().join("server.js"));
        command
    };
    Ok(case("node", [&libc.read, &libc.write], Some(HTTP), command))
}

/// A thread in poll for every second connection, one in epoll_wait for the others, and those of the
/// runtime.
fn java(workshop: &Workshop<'_>, libc: &Libc) -> Result<Case> {
    require(&["openjdk-17-jdk-headless"])?;
    let classes = workshop.path("classes");
    let mut compile = Command::new("javac");
    compile
        .arg("-d")
        .arg(&classes)
        .arg(programs().join("Server.java"));
    run(&mut compile, TIME_LIMIT)?.exits(exit::OK)?;
    let command = move || java_command(&classes);
    Ok(case(
        "java",
        [&libc.sleep, &libc.write],
        Some(LINE),
        command,
    ))
}

fn java_command(classes: &Path) -> Command {
    let mut command = Command::new("java");
    command.arg("-cp").arg(classes).arg("Server");
    command
}
