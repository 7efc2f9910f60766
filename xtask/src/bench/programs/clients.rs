//! Clients that ask a server without a pause, and count what becomes of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use engraft_testkit::TIME_LIMIT;

/// What is asked, and what the answer looks like.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) request: &'static str,
    pub(super) begins: &'static str,
    pub(super) ends: &'static str,
}

/// What came of the requests so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Answers {
    pub(super) right: u64,
    /// Wrong answers, and connections that broke.
    pub(super) failed: u64,
    /// The longest that a client has waited for an answer.
    pub(super) longest: Duration,
}

/// Clients, each with a connection of its own that it keeps.
pub(super) struct Crowd {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    answers: Answers,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is plain counters: sound whatever another thread died of.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crowd {
    /// All have had their first answer when this returns.
    pub(super) fn start(address: SocketAddr, size: usize, question: &Question) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut clients = Vec::new();
        for _ in 0..size {
            let mut stream = TcpStream::connect(address)
                .with_context(|| format!("failed to connect to {address}"))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(TIME_LIMIT))?;
            question.ask(&mut stream)?;
            let (shared, question) = (Arc::clone(&shared), question.clone());
            clients.push(thread::spawn(move || {
                ask_until_stopped(stream, &question, &shared);
            }));
        }
        Ok(Self { shared, clients })
    }

    /// Waits until this many more requests than now have been answered.
    pub(super) fn wait_for_more(&self, requests: u64) -> Result<()> {
        let state = self.shared.lock();
        let enough = state.answers.right + requests;
        let over = |state: &mut State| state.answers.right < enough && state.answers.failed == 0;
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, TIME_LIMIT, over);
        let (_state, timeout) = waited.map_err(|_| anyhow!("a client died"))?;
        ensure!(!timeout.timed_out(), "the server answers no more");
        Ok(())
    }

    /// What came of the requests since the last call.
    pub(super) fn take(&self) -> Answers {
        std::mem::take(&mut self.shared.lock().answers)
    }

    pub(super) fn stop(self) -> Result<()> {
        self.shared.lock().stop = true;
        let mut clients = self.clients.into_iter();
        clients.try_for_each(|client| client.join().map_err(|_| anyhow!("a client died")))
    }
}

fn ask_until_stopped(mut stream: TcpStream, question: &Question, shared: &Shared) {
    loop {
        let asked = Instant::now();
        let result = question.ask(&mut stream);
        let waited = asked.elapsed();
        let mut state = shared.lock();
        let answers = &mut state.answers;
        answers.longest = answers.longest.max(waited);
        match &result {
            Ok(()) => answers.right += 1,
            Err(_) => answers.failed += 1,
        }
        shared.changed.notify_all();
        if state.stop || result.is_err() {
            return;
        }
    }
}

impl Question {
    /// Fails unless the answer is right.
    fn ask(&self, stream: &mut TcpStream) -> Result<()> {
        stream.write_all(self.request.as_bytes())?;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while !answer.ends_with(self.ends.as_bytes()) {
            match stream.read(&mut buffer)? {
                0 => bail!("the server closed the connection"),
                read => answer.extend_from_slice(buffer.get(..read).unwrap_or_default()),
            }
        }
        ensure!(
            answer.starts_with(self.begins.as_bytes()),
            "wrong answer {:?}",
            String::from_utf8_lossy(&answer)
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that gives one client these answers and then hangs up.
    fn server(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                stream.read_exact(&mut [0; 5]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    const PING: Question = Question {
        request: "ping\n",
        begins: "p",
        ends: "ng\n",
    };

    #[test]
    fn right_answers_and_a_wrong_one_are_counted() {
        let address = server(&["pong\n", "pang\n", "wrong\n"]);
        // The first answer is that with which the crowd begins.
        let crowd = Crowd::start(address, 1, &PING).unwrap();
        crowd.wait_for_more(2).unwrap();
        let answers = crowd.take();
        assert_eq!((answers.right, answers.failed), (1, 1));
        crowd.stop().unwrap();
    }

    #[test]
    fn a_crowd_needs_a_right_answer_to_begin() {
        assert!(Crowd::start(server(&["wrong\n"]), 1, &PING).is_err());
        assert!(Crowd::start(server(&[]), 1, &PING).is_err());
    }
}
