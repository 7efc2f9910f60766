//! Clients of the demo's server: one that asks what the story needs, and a crowd that never stops.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use engraft_testkit::TIME_LIMIT;

use crate::crowd::{self, Crowd};

/// One connection to the server.
#[derive(Debug)]
pub(super) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    pub(super) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("failed to connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(TIME_LIMIT))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Sends one line and returns the answer.
    pub(super) fn ask(&mut self, line: &str) -> Result<String> {
        self.stream
            .get_mut()
            .write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer)?;
        ensure!(answer.ends_with('\n'), "the server closed the connection");
        answer.pop();
        Ok(answer)
    }
}

/// The answers that a crowd of clients has received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answers {
    /// As the code with the bug gives them.
    pub old: u64,
    /// As the fixed code gives them.
    pub new: u64,
    /// Anything else.
    pub wrong: u64,
    /// Connections that broke.
    pub dropped: u64,
}

/// A question that each client of a crowd asks over and over.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) line: &'static str,
    pub(super) old: String,
    pub(super) new: String,
}

/// What a client of the crowd is told.
#[derive(Debug)]
pub(crate) enum Answer {
    Old,
    New,
    Wrong,
    Dropped,
}

impl crowd::Answers for Answers {
    type Answer = Answer;

    fn count(&mut self, answer: Answer) -> bool {
        let counter = match answer {
            Answer::Old => &mut self.old,
            Answer::New => &mut self.new,
            Answer::Wrong => &mut self.wrong,
            Answer::Dropped => {
                self.dropped += 1;
                return false;
            }
        };
        *counter += 1;
        true
    }
}

impl Question {
    fn ask(&self, client: &mut Client) -> Answer {
        match client.ask(self.line) {
            Ok(answer) if answer == self.old => Answer::Old,
            Ok(answer) if answer == self.new => Answer::New,
            Ok(_) => Answer::Wrong,
            Err(_) => Answer::Dropped,
        }
    }
}

/// Starts clients that ask this question.
pub(super) fn crowd(socket: &Path, size: usize, question: &Question) -> Result<Crowd<Answers>> {
    let connect = |_| {
        let (mut client, question) = (Client::connect(socket)?, question.clone());
        Ok(move || question.ask(&mut client))
    };
    let clients: Result<Vec<_>> = (0..size).map(connect).collect();
    Ok(Crowd::start(clients?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A server that gives each client these answers and then hangs up.
    fn server(path: &Path, answers: &'static [&'static str]) {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                for answer in answers {
                    stream.read_line(&mut String::new()).unwrap();
                    stream
                        .get_mut()
                        .write_all(format!("{answer}\n").as_bytes())
                        .unwrap();
                }
            }
        });
    }

    #[test]
    fn a_crowd_counts_what_it_gets() {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("socket");
        server(&socket, &["leak", "leak", "hello", "nonsense"]);
        let (old, new) = ("leak".to_owned(), "hello".to_owned());
        let crowd = crowd(
            &socket,
            1,
            &Question {
                line: "?",
                old,
                new,
            },
        )
        .unwrap();
        crowd.wait_until(|answers| answers.new == 1).unwrap();
        // A broken connection ends the waiting too.
        crowd.wait_until(|answers| answers.new == 2).unwrap();
        let answers = crowd.stop().unwrap();
        assert_eq!(
            answers,
            Answers {
                old: 2,
                new: 1,
                wrong: 1,
                dropped: 1
            }
        );
    }
}
