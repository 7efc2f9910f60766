//! Checking the stacks of all threads in one stop.

use std::collections::{HashMap, HashSet};

use engraft_process::{StoppedProcess, TargetAddress, ThreadState};

use super::stack_check::{BlockedThread, StackChecker};
use super::suspended::block_on_suspended;
use crate::error::Error;
use crate::session::Session;

/// What checking all threads in one stop has shown.
#[derive(Default)]
pub(super) struct StopCheck {
    /// The thread pointer of every thread, by thread number.
    pub(super) thread_pointers: HashMap<i32, u64>,
    /// The threads that are not clear.
    pub(super) blocked: Vec<BlockedThread>,
    /// A thread that may return into the middle of bytes that will be overwritten.
    pub(super) in_site: Option<BlockedThread>,
    /// The threads that execute the middle of bytes that will be overwritten, and where the same
    /// instructions are in the trampoline.
    pub(super) redirects: Vec<(i32, TargetAddress)>,
}

impl StopCheck {
    /// Checks one thread.
    pub(super) fn check(&mut self, checker: &StackChecker<'_>, thread: &ThreadState) {
        let pointer = thread.registers.thread_pointer().get();
        self.thread_pointers.insert(thread.tid, pointer);
        // Also if the thread is clear: it may be in an unwinder, which gets a site as well.
        let redirect = checker.redirect_target(thread);
        self.redirects.extend(redirect.map(|to| (thread.tid, to)));
        let Some(blocked) = checker.check(thread) else {
            return;
        };
        let mut redirected = *thread;
        redirected.registers.rip = redirect.map_or(thread.registers.rip, TargetAddress::get);
        if checker.may_return_into_site(&redirected) {
            self.in_site.get_or_insert_with(|| blocked.clone());
        }
        self.blocked.push(blocked);
    }

    /// If a suspended context is inside, blocks all threads: any of them may resume it.
    pub(super) fn block_on_suspended(
        &mut self,
        session: &Session<'_>,
        stopped: &StoppedProcess,
        checker: &StackChecker<'_>,
    ) -> Result<(), Error> {
        let threads: Vec<ThreadState> = stopped.threads().collect();
        let Some(block) = block_on_suspended(session, &threads, checker.ranges())? else {
            return Ok(());
        };
        // A thread that comes to its door may be about to resume the context.
        self.blocked
            .iter_mut()
            .for_each(|blocked| blocked.door = None);
        let blocked: HashSet<i32> = self.blocked.iter().map(|blocked| blocked.tid).collect();
        let clear = threads.iter().filter(|it| !blocked.contains(&it.tid));
        self.blocked
            .extend(clear.filter(|it| !it.is_kernel_worker).map(block));
        Ok(())
    }
}
