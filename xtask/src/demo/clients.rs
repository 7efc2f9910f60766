//! Clients of the demo's server: one that asks what the story needs, and a crowd that never stops.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, ensure};
use engraft_testkit::TIME_LIMIT;

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

/// Clients that ask without a pause, each on a connection of its own that it keeps.
#[derive(Debug)]
pub(super) struct Crowd {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    answers: Answers,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is plain counters: valid even if another thread has panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crowd {
    pub(super) fn start(socket: &Path, size: usize, question: &Question) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut clients = Vec::new();
        for _ in 0..size {
            let client = Client::connect(socket)?;
            let (shared, question) = (Arc::clone(&shared), question.clone());
            clients.push(thread::spawn(move || {
                ask_until_stopped(client, &question, &shared)
            }));
        }
        Ok(Self { shared, clients })
    }

    /// Waits until `enough` is true of the answers so far, and returns them.
    pub(super) fn wait_until(&self, enough: impl Fn(Answers) -> bool) -> Result<Answers> {
        let over = |state: &mut State| !enough(state.answers) && state.answers.dropped == 0;
        let waited = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), TIME_LIMIT, over);
        let (state, timeout) = waited.map_err(|_| anyhow!("a client died"))?;
        let answers = state.answers;
        ensure!(
            !timeout.timed_out(),
            "the crowd of clients is stuck at {answers:?}"
        );
        Ok(answers)
    }

    /// Ends the clients and returns the answers of all of them.
    pub(super) fn stop(self) -> Result<Answers> {
        self.shared.lock().stop = true;
        for client in self.clients {
            client.join().map_err(|_| anyhow!("a client died"))?;
        }
        Ok(self.shared.lock().answers)
    }
}

fn ask_until_stopped(mut client: Client, question: &Question, shared: &Shared) {
    loop {
        let answer = client.ask(question.line);
        let mut state = shared.lock();
        let answers = &mut state.answers;
        match &answer {
            Ok(answer) if *answer == question.old => answers.old += 1,
            Ok(answer) if *answer == question.new => answers.new += 1,
            Ok(_) => answers.wrong += 1,
            Err(_) => answers.dropped += 1,
        }
        shared.changed.notify_all();
        if state.stop || answer.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

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
        let crowd = Crowd::start(
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
