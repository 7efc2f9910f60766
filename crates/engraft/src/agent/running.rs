//! The agent that is in a process: found in the memory map, read from outside, and called in a
//! stopped thread.

use std::mem::offset_of;
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engraft_abi::{
    CodeRange, Command, Control, MAGIC, Outcome, VERSION, WriteRequest, request_state,
};
use engraft_machine::PAGE_SIZE;
use engraft_process::foreign::escape_bytes;
use engraft_process::{
    Asker, BeyondLimit, MemoryError, Process, ProtectedWriter, RemoteCall, RemoteCallError,
    Requests, Seen, StoppedThread, TargetAddress, limits,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes, TryFromBytes};

use crate::agent::header::agent_ranges;
use crate::agent::plan::Plan;
use crate::agent::snapshot::ImageStatus;
use crate::error::explain::with_errno_in_words;
use crate::error::{Error, is_busy};

/// Bounds a call of the agent, whose code never waits. Next to hundreds of threads that want a
/// processor, each of its system calls may take a second. The bound is far above that, because a
/// call that is given up leaves the agent's lock taken.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// A complete agent in a process.
#[derive(Clone)]
pub(crate) struct RunningAgent {
    process: Process,
    /// Where its control block is.
    address: TargetAddress,
    enter: TargetAddress,
    restorer: TargetAddress,
    stack_top: TargetAddress,
    /// The pid of the process in its own pid namespace, so that the agent need not ask for it; 0 if
    /// unknown.
    namespace_pid: u64,
}

/// Whether a thread of the process has a seccomp filter.
pub(crate) fn has_filter(process: &Process) -> Result<bool, Error> {
    process.has_filter().map_err(Error::reading(process))
}

/// The agent's answer to a command.
#[derive(Debug)]
pub(crate) struct Answer {
    /// How the command ended.
    pub outcome: Outcome,
    /// The result; what it means depends on the command.
    pub value: u64,
    /// Why it failed.
    pub text: String,
}

impl Answer {
    /// Whether the same command may succeed a moment later.
    pub(crate) fn is_busy(&self) -> bool {
        is_busy(self.outcome)
    }

    /// The answer, if the command was carried out; otherwise the agent's reason as an error.
    pub(crate) fn done(self, pid: i32) -> Result<Self, Error> {
        match self.outcome {
            Outcome::Done => Ok(self),
            outcome => Err(Error::Agent {
                pid,
                outcome,
                text: self.text,
            }),
        }
    }
}

impl RunningAgent {
    /// Looks for an agent of our version in a process.
    pub(crate) fn find(process: &Process) -> Result<Option<Self>, Error> {
        for range in agent_ranges(process)? {
            let address = range.start;
            let mut control = Control::new_zeroed();
            process.memory().read(address, control.as_mut_bytes())?;
            // Memory without the magic was left by a controller that was killed before the agent
            // was complete.
            if control.magic == MAGIC {
                return Self::new(process, address, &control).map(Some);
            }
        }
        Ok(None)
    }

    /// The agent whose control block is at `address`.
    pub(crate) fn new(
        process: &Process,
        address: TargetAddress,
        control: &Control,
    ) -> Result<Self, Error> {
        if control.version != VERSION {
            let (found, expected) = (control.version, VERSION);
            return Err(Error::AgentVersion {
                pid: process.pid(),
                found,
                expected,
            });
        }
        Ok(Self {
            process: process.clone(),
            address,
            enter: control.enter.into(),
            restorer: control.restorer.into(),
            stack_top: control.stack_top.into(),
            namespace_pid: process
                .pid_in_own_namespace()
                .unwrap_or(0)
                .cast_unsigned()
                .into(),
        })
    }

    /// The process that it is in.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// The pid of the process.
    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Scratch memory after the control block, and its size in bytes. Only for a controller that
    /// has stopped all threads, and until they are resumed.
    pub(crate) fn scratch(&self) -> (TargetAddress, usize) {
        let control = size_of::<Control>().next_multiple_of(16);
        (self.address + control as u64, PAGE_SIZE as usize - control)
    }

    /// Tells the agent that the program has a seccomp filter, if it has one: the filter may be
    /// newer than the agent.
    pub(crate) fn note_filter(&self) -> Result<(), Error> {
        if has_filter(&self.process)? {
            let field = self.address + offset_of!(Control, filtered) as u64;
            self.process.memory().write(field, &1_u64.to_ne_bytes())?;
        }
        Ok(())
    }

    /// Tells the agent to keep the images of a patch, because threads are about to be redirected
    /// into them.
    pub(crate) fn keep_images(&self, patch: u64) -> Result<(), Error> {
        let field = self.address + offset_of!(Control, moved_into) as u64;
        Ok(self.process.memory().write(field, &patch.to_ne_bytes())?)
    }

    /// Notes that a transition begins now, so that `status` can say how long it has been open.
    pub(crate) fn note_begin(&self) -> Result<(), Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(0));
        let field = self.address + offset_of!(Control, begun) as u64;
        Ok(self.process.memory().write(field, &now.to_ne_bytes())?)
    }

    /// How long ago the last transition began, if that is known.
    pub(crate) fn time_since_begin(&self) -> Result<Option<Duration>, Error> {
        let begun = self.control()?.begun;
        let begun = UNIX_EPOCH.checked_add(Duration::from_nanos(begun));
        let begun = begun.filter(|begun| *begun != UNIX_EPOCH);
        // No time has passed if the clock was set back.
        Ok(begun.map(|begun| begun.elapsed().unwrap_or_default()))
    }

    /// Whether the agent found its own state damaged, and how many libraries it has let the loader
    /// load since.
    pub(crate) fn damage(&self) -> Result<(bool, u64), Error> {
        let control = self.control()?;
        Ok((control.broken != 0, control.loads_since))
    }

    fn control(&self) -> Result<Control, Error> {
        let mut control = Control::new_zeroed();
        self.process
            .memory()
            .read(self.address, control.as_mut_bytes())?;
        Ok(control)
    }

    /// Gives a command, in a thread of the process; the others may run.
    pub(crate) fn command(
        &self,
        thread: &mut StoppedThread<'_>,
        command: Command,
        arguments: [u64; 2],
    ) -> Result<Answer, Error> {
        let answer = thread.call(&self.call(command, arguments))?;
        self.answer(answer)
    }

    /// Gives a command, and writes what the agent asks for. The caller has stopped all threads that
    /// may execute the bytes that are written.
    pub(crate) fn command_writing(
        &self,
        thread: &mut StoppedThread<'_>,
        command: Command,
        arguments: [u64; 2],
    ) -> Result<Answer, Error> {
        let writer = thread.protected_writer();
        let call = self.call(command, arguments);
        let request = self.address + offset_of!(Control, request) as u64;
        // A controller that died may have left a request there, which must not be served.
        self.set_state(request, request_state::NOTHING)
            .map_err(RemoteCallError::from)?;
        let answer = thread.call_serving(
            &call,
            &mut Requests {
                watched: Some(request),
                serve: &mut |request, asker| self.serve(&writer, request, asker),
            },
        )?;
        self.answer(answer)
    }

    /// The remote call that gives a command.
    pub(crate) fn call(&self, command: Command, arguments: [u64; 2]) -> RemoteCall {
        let [first, second] = arguments;
        RemoteCall {
            entry: self.enter,
            arguments: [
                command as u64,
                self.address.get(),
                first,
                second,
                0,
                self.namespace_pid,
            ],
            stack_top: self.stack_top,
            restorer: self.restorer,
            timeout: CALL_TIMEOUT,
            only_loader_calls: false,
        }
    }

    /// Carries out a request of the agent if there is one, and tells it the result.
    fn serve(
        &self,
        writer: &ProtectedWriter,
        address: TargetAddress,
        asker: Asker,
    ) -> Result<Seen, MemoryError> {
        let memory = self.process.memory();
        // The agent writes this word last, so it is read first.
        match memory.read_u64(address + offset_of!(WriteRequest, state) as u64)? {
            // `SEEN` if an earlier try to carry it out, or to say so, has failed.
            request_state::ASKED | request_state::SEEN => {}
            request_state::AT_WORK => return Ok(Seen::Work),
            _ => return Ok(Seen::Nothing),
        }
        self.set_state(address, request_state::SEEN)?;
        let mut request = WriteRequest::new_zeroed();
        memory.read(address, request.as_mut_bytes())?;
        let written = self.write(writer, &request);
        match written {
            Ok(state) => self.set_state(address, state)?,
            // The thread will stop, and then this is tried again.
            Err(_) if asker == Asker::Runs => {}
            Err(_) => self.set_state(address, request_state::FAILED)?,
        }
        written.map(|_| Seen::Request)
    }

    fn set_state(&self, request: TargetAddress, state: u64) -> Result<(), MemoryError> {
        let field = request + offset_of!(WriteRequest, state) as u64;
        self.process.memory().write(field, &state.to_ne_bytes())
    }

    /// Writes what a request asks for, and reads it back. Returns one of [`request_state`].
    fn write(&self, writer: &ProtectedWriter, request: &WriteRequest) -> Result<u64, MemoryError> {
        let memory = self.process.memory();
        let address = TargetAddress::new(request.address);
        let length = request.length as usize;
        let (Some(from), Some(to)) = (request.expected.get(..length), request.bytes.get(..length))
        else {
            return Ok(request_state::FAILED);
        };
        let mut found = [0; 16];
        let found = found.get_mut(..length).unwrap_or_default();
        memory.read(address, found)?;
        if found != from {
            return Ok(request_state::DIFFERS);
        }
        writer.write(address, to)?;
        memory.read(address, found)?;
        Ok(match found == to {
            true => request_state::DONE,
            false => request_state::FAILED,
        })
    }

    fn answer(&self, answer: u64) -> Result<Answer, Error> {
        let pid = self.process.pid();
        let outcome = Outcome::try_read_from_bytes(&answer.to_ne_bytes())
            .map_err(|_| Error::BadAnswer { pid, answer })?;
        if outcome == Outcome::Busy {
            // The response belongs to the thread that has the agent's lock.
            return Ok(Answer {
                outcome,
                value: 0,
                text: String::new(),
            });
        }
        let response = self.control()?.response;
        let text = response
            .text
            .get(..response.text_length as usize)
            .unwrap_or_default();
        let text = with_errno_in_words(escape_bytes(text));
        Ok(Answer {
            outcome,
            value: response.value,
            text,
        })
    }

    /// The plan of the last command that made one.
    pub(crate) fn plan(&self) -> Result<Plan, Error> {
        let control = self.control()?;
        Ok(Plan {
            generation: control.generation,
            ranges: self.ranges(control.ranges, control.range_count)?,
            sites: self.ranges(control.sites, control.site_count)?,
        })
    }

    /// The generation that a plan must have to be up to date.
    pub(crate) fn plan_generation(&self) -> Result<u64, Error> {
        Ok(self.control()?.generation)
    }

    fn ranges(&self, address: u64, count: u64) -> Result<Vec<CodeRange>, Error> {
        const RECORD: u64 = size_of::<CodeRange>() as u64;
        if count > limits::PLAN_RANGES {
            return Err(self.over_limit("ranges of code", limits::PLAN_RANGES));
        }
        let length = count * RECORD;
        let bytes = self
            .process
            .memory()
            .read_bytes(address.into(), length, length)?;
        let record = |bytes: &[u8]| CodeRange::read_from_bytes(bytes).ok();
        let ranges: Vec<CodeRange> = bytes
            .chunks_exact(RECORD as usize)
            .filter_map(record)
            .collect();
        match ranges.iter().all(|range| range.start <= range.end) {
            true => Ok(ranges),
            false => Err(Error::BadSnapshot { pid: self.pid() }),
        }
    }

    /// The error that the agent claims to have more of something than any agent has.
    pub(crate) fn over_limit(&self, what: &'static str, limit: u64) -> Error {
        let pid = self.pid();
        BeyondLimit { pid, what, limit }.into()
    }

    /// Whether a thread has the agent's lock.
    pub(crate) fn is_busy(&self) -> Result<bool, Error> {
        let lock_owner = self.control()?.holder;
        Ok(lock_owner != 0 && self.process.memory().read_u64(lock_owner.into())? != 0)
    }

    /// Notes whether a controller works with the agent. Returns what was noted before: `true` then
    /// means that a controller has died at its work.
    pub(crate) fn set_controlled(&self, controlled: bool) -> Result<bool, Error> {
        let before = self.control()?.controlled != 0;
        if before != controlled {
            let field = self.address + offset_of!(Control, controlled) as u64;
            let memory = self.process.memory();
            memory.write(field, &u64::from(controlled).to_ne_bytes())?;
        }
        Ok(before)
    }

    /// Whether the agent follows the loader, and so knows what is loaded.
    pub(crate) fn is_attached(&self) -> Result<bool, Error> {
        Ok(self.control()?.attached != 0)
    }

    /// The agent's snapshot of its own state, 8-byte aligned. Empty before the first command.
    pub(crate) fn read_snapshot(&self) -> Result<Vec<u64>, Error> {
        const TRIES: usize = 1000;
        for _ in 0..TRIES {
            let before = self.control()?;
            let length = before.snapshot_length;
            if length > limits::SNAPSHOT_BYTES {
                return Err(self.over_limit("bytes of patches", limits::SNAPSHOT_BYTES));
            }
            let memory = self.process.memory();
            let read = memory.read_bytes(before.snapshot.into(), length, length);
            // The buffer has not changed if the generation after reading it is the one before.
            let after = self.control()?;
            if before.snapshot_generation % 2 == 0
                && before.snapshot_generation == after.snapshot_generation
            {
                let bytes = read?;
                let mut words = vec![0_u64; bytes.len().div_ceil(8)];
                words
                    .as_mut_bytes()
                    .iter_mut()
                    .zip(&bytes)
                    .for_each(|(to, from)| *to = *from);
                return Ok(words);
            }
            std::thread::yield_now();
        }
        Err(Error::BadSnapshot {
            pid: self.process.pid(),
        })
    }

    /// The range of the agent's own memory.
    pub(crate) fn mapping(&self) -> Result<Range<TargetAddress>, Error> {
        let control = self.control()?;
        Ok(self.address..self.address + control.mapping_length)
    }

    /// Resident memory of the agent and of its patches' images, in bytes.
    pub(crate) fn resident_memory<'i>(
        &self,
        images: impl Iterator<Item = &'i ImageStatus>,
    ) -> Result<u64, Error> {
        let ranges = images.map(|image| image.range.clone());
        let ranges = std::iter::once(self.mapping()?).chain(ranges);
        let sum = self.process.resident_bytes(ranges);
        sum.map_err(Error::reading(&self.process))
    }
}
