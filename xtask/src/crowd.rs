//! A crowd of clients that ask a server without a pause, each on a connection of its own that it
//! keeps.
//!
//! It must not know what is asked, nor what an answer means: its users give it the clients and
//! count the answers.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Result, anyhow, ensure};
use engraft_testkit::TIME_LIMIT;

/// What the clients have received so far, counted.
pub(crate) trait Answers: std::fmt::Debug + Copy + Default + Send + 'static {
    /// What comes of one request.
    type Answer;

    /// Counts an answer. Returns whether its client can ask again: its connection is as it should
    /// be.
    fn count(&mut self, answer: Self::Answer) -> bool;
}

/// Running clients.
#[derive(Debug)]
pub(crate) struct Crowd<A> {
    shared: Arc<Shared<A>>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared<A> {
    state: Mutex<State<A>>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State<A> {
    answers: A,
    /// A client has ended because it could not ask again.
    has_broken: bool,
    stop: bool,
}

impl<A> Shared<A> {
    fn lock(&self) -> MutexGuard<'_, State<A>> {
        // The state is plain counters: valid even if another thread has panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A: Answers> Crowd<A> {
    /// Starts a thread for each client, which asks once each time that it is called.
    pub(crate) fn start<C>(clients: impl IntoIterator<Item = C>) -> Self
    where
        C: FnMut() -> A::Answer + Send + 'static,
    {
        let shared = Arc::new(Shared::default());
        let start = |client| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || ask_until_stopped(client, &shared))
        };
        let clients = clients.into_iter().map(start).collect();
        Self { shared, clients }
    }

    /// Waits until `enough` is true of the answers so far, or a connection has broken. Returns the
    /// answers.
    pub(crate) fn wait_until(&self, enough: impl Fn(A) -> bool) -> Result<A> {
        let go_on = |state: &mut State<A>| !enough(state.answers) && !state.has_broken;
        let state = self.shared.lock();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, TIME_LIMIT, go_on);
        let (state, timeout) = waited.map_err(|_| anyhow!("a client died"))?;
        let answers = state.answers;
        ensure!(
            !timeout.timed_out(),
            "the crowd of clients is stuck at {answers:?}"
        );
        Ok(answers)
    }

    /// The answers so far.
    pub(crate) fn answers(&self) -> A {
        self.shared.lock().answers
    }

    /// The answers since the last call.
    pub(crate) fn take(&self) -> A {
        let mut state = self.shared.lock();
        state.has_broken = false;
        std::mem::take(&mut state.answers)
    }

    /// Ends the clients and returns the answers of all of them.
    pub(crate) fn stop(self) -> Result<A> {
        self.shared.lock().stop = true;
        for client in self.clients {
            client.join().map_err(|_| anyhow!("a client died"))?;
        }
        Ok(self.shared.lock().answers)
    }
}

fn ask_until_stopped<A: Answers>(mut client: impl FnMut() -> A::Answer, shared: &Shared<A>) {
    loop {
        let answer = client();
        let mut state = shared.lock();
        let can_ask_again = state.answers.count(answer);
        state.has_broken |= !can_ask_again;
        shared.changed.notify_all();
        if state.stop || !can_ask_again {
            return;
        }
    }
}
