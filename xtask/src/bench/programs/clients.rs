//! Clients that ask a server without a pause, and count what becomes of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use engraft_testkit::TIME_LIMIT;

use crate::crowd::{self, Crowd};

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

/// What came of one request, and how long its client has waited.
pub(super) struct Answer {
    result: Result<()>,
    waited: Duration,
}

impl crowd::Answers for Answers {
    type Answer = Answer;

    fn count(&mut self, answer: Answer) -> bool {
        self.longest = self.longest.max(answer.waited);
        let counter = match answer.result {
            Ok(()) => &mut self.right,
            Err(_) => &mut self.failed,
        };
        *counter += 1;
        answer.result.is_ok()
    }
}

/// Starts clients that ask this question. Each has had its first answer when this returns.
pub(super) fn crowd(
    address: SocketAddr,
    size: usize,
    question: &Question,
) -> Result<Crowd<Answers>> {
    let connect = |_| {
        let mut stream = TcpStream::connect(address)
            .with_context(|| format!("failed to connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIME_LIMIT))?;
        question.ask(&mut stream)?;
        let question = question.clone();
        Ok(move || {
            let asked = Instant::now();
            let result = question.ask(&mut stream);
            Answer {
                result,
                waited: asked.elapsed(),
            }
        })
    };
    let clients: Result<Vec<_>> = (0..size).map(connect).collect();
    Ok(Crowd::start(clients?))
}

/// Waits until this many more requests than now have been answered, or one has failed.
pub(super) fn wait_for_more(crowd: &Crowd<Answers>, requests: u64) -> Result<()> {
    let enough = crowd.answers().right + requests;
    crowd.wait_until(|answers| answers.right >= enough)?;
    Ok(())
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
    use std::thread;

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
        let crowd = crowd(address, 1, &PING).unwrap();
        wait_for_more(&crowd, 2).unwrap();
        let answers = crowd.take();
        assert_eq!((answers.right, answers.failed), (1, 1));
        crowd.stop().unwrap();
    }

    #[test]
    fn a_crowd_needs_a_right_answer_to_begin() {
        assert!(crowd(server(&["wrong\n"]), 1, &PING).is_err());
        assert!(crowd(server(&[]), 1, &PING).is_err());
    }
}
