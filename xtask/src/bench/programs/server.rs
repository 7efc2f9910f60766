//! A program that runs while it is patched.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use engraft_testkit::TIME_LIMIT;

/// A running program, which ends when the value is dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    /// Where it listens, if it does.
    pub(super) address: Option<SocketAddr>,
}

impl Server {
    /// Starts a program that says `ready` and, if it listens, the port, in its first line.
    pub(super) fn that_says(command: &mut Command) -> Result<Self> {
        let mut server = Self::spawn(command.stdout(Stdio::piped()))?;
        let stdout = server.child.stdout.take();
        let mut line = String::new();
        BufReader::new(stdout.context("failed to take the program's stdout")?)
            .read_line(&mut line)?;
        let rest = line.trim().strip_prefix("ready");
        let port = rest.with_context(|| format!("{command:?} began with {line:?}"))?;
        if !port.is_empty() {
            server.address = Some(local(port.trim().parse()?));
        }
        Ok(server)
    }

    /// Starts a program that is told the port to listen on.
    pub(super) fn that_listens(command: &mut Command, port: u16) -> Result<Self> {
        let mut server = Self::spawn(command.stdout(Stdio::null()))?;
        let address = local(port);
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{command:?} ended with {status}");
            }
            ensure!(
                started.elapsed() < TIME_LIMIT,
                "{command:?} does not listen"
            );
            thread::sleep(Duration::from_millis(10));
        }
        server.address = Some(address);
        Ok(server)
    }

    fn spawn(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self {
            child: child.with_context(|| format!("failed to start {command:?}"))?,
            address: None,
        })
    }

    /// Its process, and that one's children.
    pub(super) fn pids(&self) -> Result<Vec<u32>> {
        let pid = self.child.id();
        let children = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(children)
            .with_context(|| format!("failed to list the children of process {pid}"))?;
        let children = children.split_whitespace().map(str::parse);
        let pids = std::iter::once(Ok(pid)).chain(children);
        Ok(pids.collect::<Result<_, _>>()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gently, so that one with children ends these, too. It fails only if the program has
        // ended.
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().ok();
        self.child.wait().ok();
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A port that nobody listens on at this moment.
pub(super) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(local(0)).context("failed to find a free port")?;
    Ok(listener.local_addr()?.port())
}
