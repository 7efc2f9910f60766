//! Answering what the kernel reports of traced threads.

use rustix::io::Errno;

use crate::memory::access::Memory;
use crate::sys::ptrace::{self, Resume};
use crate::sys::restart::{hide_our_interrupt, undo_restart};
use crate::sys::wait::{Event, Waited, wait};
use crate::trace::patience::LAST_CHANCE;
use crate::trace::stop_error::StopError;
use crate::trace::traced_threads::Condition;
use crate::trace::tracees::Tracees;

impl Tracees {
    /// Answers the events of all threads since the last call, without waiting.
    ///
    /// A seized thread stops for every signal and when it starts a thread, and stays stopped until
    /// that is answered. So between a resume and a detach this must be called again and again.
    pub(crate) fn handle_events(&mut self) -> Result<(), StopError> {
        self.handle_events_except(None)?;
        self.detach_foreign_children();
        Ok(())
    }

    /// Answers the events of all threads but one, also of stopped ones: an exec may have killed
    /// them, and it waits until their ends are noted.
    pub(crate) fn handle_events_except(&mut self, except: Option<i32>) -> Result<(), StopError> {
        let tids = self.threads.tids().into_iter();
        let mut others = tids.filter(|tid| Some(*tid) != except);
        others.try_for_each(|tid| self.handle_events_of(tid))
    }

    /// Answers the events of one thread.
    pub(super) fn handle_events_of(&mut self, tid: i32) -> Result<(), StopError> {
        while self.threads.contains(tid) {
            let waited = wait(tid, false);
            match waited.map_err(|error| self.system("wait for a thread", error))? {
                Waited::Event(event) => self.handle(tid, event)?,
                Waited::Nothing => break,
            }
        }
        Ok(())
    }

    /// Answers one event. Afterwards the thread is stopped if that is wanted and it is at a point
    /// where it can stay stopped; otherwise it runs.
    pub(super) fn handle(&mut self, tid: i32, event: Event) -> Result<(), StopError> {
        let is_stopping = self.progress.is_stopping();
        match event {
            Event::Ended => {
                self.threads.remove_ended(tid);
                return Ok(());
            }
            Event::Stop { group } if is_stopping => return self.note_stop(tid, group),
            Event::Stop { group: true } => return self.accept(ptrace::listen(tid)),
            Event::Clone => self.note_birth(tid)?,
            Event::Exec => self.note_exec(),
            Event::Stop { group: false } | Event::SystemCall | Event::Signal(_) => {}
        }
        // A signal is delivered in full: the thread will then stop before the first instruction of
        // the handler, and nothing is left that we would have to remember. A request for a stop
        // that is made inside a stop is kept, and takes effect before any further signal
        // (get_signal, kernel/signal.c).
        if is_stopping {
            self.accept(ptrace::interrupt(tid))?;
        }
        let signal = match event {
            Event::Signal(signal) => signal,
            _ => 0,
        };
        self.accept(ptrace::resume(tid, Resume::Continue, signal))
    }

    fn note_stop(&mut self, tid: i32, group: bool) -> Result<(), StopError> {
        let mut registers = match ptrace::registers(tid) {
            Ok(registers) => registers,
            Err(Errno::SRCH) => return Ok(()),
            Err(error) => return Err(self.system("read the registers", error)),
        };
        let task = self.process().task(tid);
        let is_socket = |descriptor| {
            let file = task.descriptor(descriptor).ok().flatten();
            file.is_some_and(|path| path.as_os_str().as_encoded_bytes().starts_with(b"socket:"))
        };
        let code = |at| Memory::new(self.process()).read_array(at).ok();
        if hide_our_interrupt(&mut registers, is_socket) || undo_restart(&mut registers, code) {
            self.accept(ptrace::set_registers(tid, &registers))?;
        }
        self.process().note_interrupted_call(tid, &registers);
        self.threads
            .set_condition(tid, Condition::Stopped { group });
        self.threads.set_registers(tid, &registers);
        Ok(())
    }

    /// A thread has started a thread, which is traced from its birth, or a process.
    fn note_birth(&mut self, tid: i32) -> Result<(), StopError> {
        let Ok(message) = ptrace::event_message(tid) else {
            return Ok(());
        };
        let Ok(born) = i32::try_from(message) else {
            return Ok(());
        };
        let stat = self.process().task(born).stat();
        match stat.map_err(|error| self.system("read the state", error))? {
            Some(_) => self.threads.add(born),
            None => self.threads.add_foreign_child(born),
        }
        Ok(())
    }

    /// Detaches from processes that a plain `clone` made, and to which the kernel has attached us.
    /// They stop at birth.
    pub(crate) fn detach_foreign_children(&mut self) {
        for tid in self.threads.take_foreign_children() {
            // Blocks only until the child has reached its first stop, or has ended.
            let deadline = self.process().patience(LAST_CHANCE);
            while matches!(wait(tid, true), Ok(Waited::Nothing)) && !deadline.has_passed() {}
            if let Err(error) = ptrace::detach(tid) {
                tracing::debug!(tid, %error, "a new process ended before it could be detached");
            }
        }
    }
}
