//! Who writes what other threads may be about to run: code, and the words that dispatch reads.
//!
//! While a command runs, all threads are stopped, but only as long as the controller lives. If it
//! is killed, the threads run, and so does the command. So in a command the agent never writes such
//! things itself. It asks the controller, which writes while it holds the threads, or has died and
//! does not write. In the loader's hook no thread is stopped, but no thread runs the module's code
//! yet, so the agent writes itself.

#![expect(unsafe_code, reason = "writes code and words that others use")]

use core::sync::atomic::{AtomicU64, Ordering};

use engraft_abi::{Outcome, WriteRequest, request_state};
use zerocopy::FromZeros;

use crate::system::code::write_code;
use crate::system::control::ControlBlock;
use crate::system::failure::{Failure, Text};
use crate::system::memory;

/// Who writes.
#[derive(Clone, Copy)]
pub(crate) enum CodeWriter {
    /// The controller that gave the command.
    Controller(ControlBlock),
    /// The agent.
    Agent,
}

impl CodeWriter {
    /// Replaces the code `from` by `to`: a whole jump, or the bytes that it had replaced. Both have
    /// the same length, at most 16 bytes.
    pub(crate) fn write_code(self, address: u64, from: &[u8], to: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Controller(control) => ask(control, address, from, to),
            Self::Agent => {
                memory::equals(address, from).map_err(|_| changed_by_somebody(address))?;
                // SAFETY: the module is coming or going, so nobody executes its code; and what is
                // written is complete code.
                unsafe { write_code(address, to) }
            }
        }
    }

    /// Sets a word that dispatch reads. Only in a command: the hook switches no thread.
    pub(crate) fn store(self, word: &AtomicU64, value: u64) -> Result<(), Failure> {
        let Self::Controller(control) = self else {
            return Err(Failure::bad_payload());
        };
        // ORDERING: only the holder of the agent's lock has the word changed.
        let from = word.load(Ordering::Relaxed).to_le_bytes();
        let address = core::ptr::from_ref(word).expose_provenance() as u64;
        ask(control, address, &from, &value.to_le_bytes())
    }
}

fn ask(control: ControlBlock, address: u64, from: &[u8], to: &[u8]) -> Result<(), Failure> {
    let padded = |bytes: &[u8]| {
        let mut padded = [0; 16];
        padded
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        padded
    };
    let state = control.request(WriteRequest {
        address,
        length: to.len() as u64,
        expected: padded(from),
        bytes: padded(to),
        ..WriteRequest::new_zeroed()
    });
    let text: &[u8] = match state {
        request_state::DONE => return Ok(()),
        // The controller may have written, and died or failed before it could say so.
        _ if from != to && memory::equals(address, to).is_ok() => return Ok(()),
        request_state::DIFFERS => return Err(changed_by_somebody(address)),
        request_state::FAILED => b"the controller failed to write at ",
        _ => b"no controller was there to write at ",
    };
    let text = Text::EMPTY.push(text).push_hexadecimal(address);
    Err(Failure {
        outcome: Outcome::NotWritten,
        text,
    })
}

fn changed_by_somebody(address: u64) -> Failure {
    let text = Text::EMPTY.push(b"somebody else has changed the code at ");
    Failure {
        outcome: Outcome::CodeDiffers,
        text: text.push_hexadecimal(address),
    }
}
