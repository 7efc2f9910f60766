//! The agent's access to the control block.

#![expect(
    unsafe_code,
    reason = "the control block is memory that the controller set up"
)]

use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use engraft_abi::{Control, Outcome, Response, WriteRequest, request_state};
use zerocopy::IntoBytes;

use crate::system;
use crate::system::failure::Failure;
use crate::system::memory::{bytes_mut, read};

/// How a command ended: an outcome that is not a failure, with the response's value; or why not.
pub(crate) type Answer = Result<(Outcome, u64), Failure>;

/// The control block at the start of the agent's mapping. It exists as long as the agent.
#[derive(Clone, Copy)]
pub(crate) struct ControlBlock(u64);

impl ControlBlock {
    /// The control block at `address`.
    ///
    /// # Safety
    /// A complete [`Control`] is there, and stays there.
    pub(crate) unsafe fn at(address: u64) -> Self {
        Self(address)
    }

    /// A copy of the whole block.
    pub(crate) fn read(self) -> Control {
        // SAFETY: the block exists, and only the agent's own lock holder writes to it now.
        unsafe { read(self.0) }
    }

    /// Its address.
    pub(crate) fn address(self) -> u64 {
        self.0
    }

    fn word(self, offset: usize) -> &'static AtomicU64 {
        let pointer = core::ptr::with_exposed_provenance::<AtomicU64>(self.0 as usize + offset);
        // SAFETY: an aligned word of the block (all offsets come from `offset_of!` of u64 fields).
        unsafe { &*pointer }
    }

    /// Whether the controller has seen a seccomp filter.
    pub(crate) fn is_filtered(self) -> bool {
        // ORDERING: written by the controller before the call.
        self.word(offset_of!(Control, filtered))
            .load(Ordering::Relaxed)
            != 0
    }

    /// Number of the patch into whose trampolines the controller has moved threads; 0 for none.
    pub(crate) fn moved_into(self) -> u64 {
        // ORDERING: written by the controller while all threads are stopped.
        self.word(offset_of!(Control, moved_into))
            .load(Ordering::Relaxed)
    }

    /// The controller's random number.
    pub(crate) fn random(self) -> u64 {
        // ORDERING: written by the controller before the first call.
        self.word(offset_of!(Control, random))
            .load(Ordering::Relaxed)
    }

    /// Whether threads may read their thread pointer with `rdfsbase`.
    pub(crate) fn has_fsgsbase(self) -> bool {
        // ORDERING: written by the controller before the first call.
        self.word(offset_of!(Control, has_fsgsbase))
            .load(Ordering::Relaxed)
            != 0
    }

    /// Writes a field of 64 bits.
    pub(crate) fn store(self, offset: usize, value: u64) {
        // ORDERING: read by the controller after the command has returned and the thread has
        // stopped.
        self.word(offset).store(value, Ordering::Relaxed);
    }

    /// A field of the request.
    fn request_word(self, offset: usize) -> &'static AtomicU64 {
        self.word(offset_of!(Control, request) + offset)
    }

    /// Lets a controller that looks for requests know that this thread has a processor.
    pub(crate) fn note_work(self) {
        let state = self.request_word(offset_of!(WriteRequest, state));
        // ORDERING: nothing else is told by it.
        state.store(request_state::AT_WORK, Ordering::Relaxed);
    }

    /// Asks the controller to write something; one of [`engraft_abi::request_state`].
    pub(crate) fn request(self, request: WriteRequest) -> u64 {
        let field = self.0 + offset_of!(Control, request) as u64;
        let state = self.request_word(offset_of!(WriteRequest, state));
        // ORDERING: written by this thread, or before the call.
        let may_wait = state.load(Ordering::Relaxed) == request_state::AT_WORK;
        // SAFETY: the field belongs to the agent while it carries out a command, and the controller
        // does not read this part of it yet.
        let bytes = unsafe { bytes_mut(field, offset_of!(WriteRequest, state)) };
        bytes
            .iter_mut()
            .zip(request.as_bytes())
            .for_each(|(to, from)| *to = *from);
        // ORDERING: Release: a reader that sees this sees the request; x86 keeps the order of
        // stores for readers in other processes, too.
        state.store(request_state::ASKED, Ordering::Release);
        let in_time = may_wait && self.await_answer();
        let next = match in_time {
            true => request_state::AT_WORK,
            false => {
                system::call_tracer(field);
                // The controller may share this thread's processor: no more waiting in this
                // command.
                request_state::NOTHING
            }
        };
        // Without a tracer the request may still stand. A tracer has answered or given up by now,
        // so this does not withdraw a request that is about to be served.
        // ORDERING: Acquire: after an answer, this thread sees what was written.
        state.swap(next, Ordering::Acquire)
    }

    /// Whether the controller answers while this thread spins, for as long as that costs less than
    /// a stop.
    fn await_answer(self) -> bool {
        /// A controller that is watching looks every microsecond. Otherwise it shares this thread's
        /// processor, sleeps, or has died. A turn takes ten times as long on some processors as on
        /// others.
        const TURNS_TO_SEE: u32 = 500;
        /// A controller that has seen the request answers within some microseconds, unless it loses
        /// its processor.
        const TURNS_TO_ANSWER: u32 = 3000;
        let state = self.request_word(offset_of!(WriteRequest, state));
        let is_still = |expected| {
            core::hint::spin_loop();
            // ORDERING: the exchange that takes the answer is an Acquire.
            state.load(Ordering::Relaxed) == expected
        };
        let seen = (0..TURNS_TO_SEE).any(|_| !is_still(request_state::ASKED));
        seen && (0..TURNS_TO_ANSWER).any(|_| !is_still(request_state::SEEN))
    }

    /// Writes the response to a command; what the command returns.
    pub(crate) fn respond(self, answer: Answer) -> Outcome {
        let mut response = Response {
            value: 0,
            text_length: 0,
            text: [0; 400],
        };
        let outcome = match answer {
            Ok((outcome, value)) => {
                response.value = value;
                outcome
            }
            Err(failure) => {
                let text = failure.words();
                response.text_length = text.len() as u64;
                response
                    .text
                    .iter_mut()
                    .zip(text)
                    .for_each(|(to, from)| *to = *from);
                failure.outcome
            }
        };
        let field = self.0 + offset_of!(Control, response) as u64;
        // SAFETY: the field belongs to the agent while it carries out a command.
        let bytes = unsafe { bytes_mut(field, size_of::<Response>()) };
        bytes.copy_from_slice(response.as_bytes());
        outcome
    }

    /// Writes the response of an agent that is broken, without allocating.
    pub(crate) fn respond_broken(self) -> Outcome {
        const TEXT: &[u8] = b"the agent found its own state damaged";
        let response = offset_of!(Control, response);
        self.store(
            response + offset_of!(Response, text_length),
            TEXT.len() as u64,
        );
        let text = self.0 + (response + offset_of!(Response, text)) as u64;
        // SAFETY: the field belongs to the agent while it carries out a command.
        let text = unsafe { bytes_mut(text, TEXT.len()) };
        text.iter_mut().zip(TEXT).for_each(|(to, from)| *to = *from);
        Outcome::Broken
    }

    /// Points readers to a new snapshot. A reader takes the generation before and after it has
    /// read; an odd one, or two different ones, mean that it has to read again.
    pub(crate) fn publish_snapshot(self, address: u64, length: u64) {
        let generation = self.word(offset_of!(Control, snapshot_generation));
        // ORDERING: only the lock holder writes, so Relaxed reads its own last value. A reader that
        // sees either new field must see the odd generation: each store is Release, and x86 keeps
        // the order of stores for readers in other processes too.
        let stable = generation.load(Ordering::Relaxed) & !1;
        generation.store(stable + 1, Ordering::Release);
        // ORDERING: Release, as above.
        self.word(offset_of!(Control, snapshot))
            .store(address, Ordering::Release);
        // ORDERING: Release, as above.
        self.word(offset_of!(Control, snapshot_length))
            .store(length, Ordering::Release);
        // ORDERING: Release: a reader that sees the even generation sees both fields and the
        // buffer.
        generation.store(stable + 2, Ordering::Release);
    }
}
