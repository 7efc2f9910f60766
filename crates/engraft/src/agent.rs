//! The agent in a process, as the controller sees it: found by its name in the memory map, read from
//! outside, and called in a borrowed thread.

use std::mem::offset_of;
use std::time::Duration;

use engraft_abi::{
    AGENT_MAPPING_NAME, CodeRange, Command, Control, DetourWrite, MAGIC, Outcome, VERSION,
};
use engraft_process::{OpenError, Process, RemoteCall, StoppedThread, TargetAddress};
use zerocopy::{FromBytes, FromZeros, IntoBytes, TryFromBytes};

use crate::error::Error;

/// The agent's code never waits for anything; this bounds what should not happen.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// No sane agent has so much to say; a length beyond it comes from damaged memory.
const LARGEST_ANSWER: u64 = 64 << 20;

/// A complete agent in a process.
#[derive(Clone)]
pub(crate) struct RunningAgent {
    process: Process,
    /// Where its control block is.
    address: TargetAddress,
    enter: TargetAddress,
    restorer: TargetAddress,
    stack_top: TargetAddress,
}

/// Whether a thread of the process has a seccomp filter.
pub(crate) fn has_filter(process: &Process) -> Result<bool, Error> {
    let pid = process.pid();
    let looked = process.has_filter();
    Ok(looked.map_err(|source| OpenError::System { pid, source })?)
}

/// What must be clear before threads switch.
pub(crate) struct Plan {
    /// Changes whenever a module comes or goes.
    pub(crate) generation: u64,
    /// The code.
    pub(crate) ranges: Vec<CodeRange>,
}

/// What the agent answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// How the command ended.
    pub outcome: Outcome,
    /// A value that belongs to the command.
    pub value: u64,
    /// Why it failed.
    pub text: String,
}

impl Answer {
    /// Whether the command may work a moment later.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.outcome, Outcome::Busy | Outcome::LoaderBusy)
    }

    /// The answer, if the command was carried out.
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
        for mapping in process.maps()?.iter() {
            let named = mapping.name.to_string_lossy().contains(AGENT_MAPPING_NAME);
            if !named || mapping.offset != 0 {
                continue;
            }
            let address = mapping.range.start;
            let mut control = Control::new_zeroed();
            process.memory().read(address, control.as_mut_bytes())?;
            // Without the magic it is what a controller left behind that was killed at its work.
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
        })
    }

    /// Tells the agent if there is a seccomp filter: the program may have got it after the agent.
    pub(crate) fn note_filter(&self) -> Result<(), Error> {
        if has_filter(&self.process)? {
            let field = self.address + offset_of!(Control, filtered) as u64;
            self.process.memory().write(field, &1_u64.to_ne_bytes())?;
        }
        Ok(())
    }

    fn control(&self) -> Result<Control, Error> {
        let mut control = Control::new_zeroed();
        self.process
            .memory()
            .read(self.address, control.as_mut_bytes())?;
        Ok(control)
    }

    /// Gives a command, in a thread of the process.
    pub(crate) fn command(
        &self,
        thread: &mut StoppedThread<'_>,
        command: Command,
        arguments: [u64; 2],
    ) -> Result<Answer, Error> {
        let pid = self.process.pid();
        let [first, second] = arguments;
        let answer = thread.call(&RemoteCall {
            entry: self.enter,
            arguments: [command as u64, self.address.get(), first, second, 0, 0],
            stack_top: self.stack_top,
            restorer: self.restorer,
            timeout: CALL_TIMEOUT,
            only_loader_calls: false,
        })?;
        let outcome = Outcome::try_read_from_bytes(&answer.to_ne_bytes())
            .map_err(|_| Error::BadAnswer { pid, answer })?;
        if outcome == Outcome::Busy {
            // The response belongs to whoever holds the agent's lock.
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
        let text = String::from_utf8_lossy(text).into_owned();
        Ok(Answer {
            outcome,
            value: response.value,
            text,
        })
    }

    /// The last plan.
    pub(crate) fn plan(&self) -> Result<Plan, Error> {
        let control = self.control()?;
        Ok(Plan {
            generation: control.generation,
            ranges: self.records(control.ranges, control.range_count)?,
        })
    }

    /// The generation of a plan that is up to date.
    pub(crate) fn plan_generation(&self) -> Result<u64, Error> {
        Ok(self.control()?.generation)
    }

    /// That the code in memory is what the last command says it wrote.
    pub(crate) fn verify_writes(&self) -> Result<(), Error> {
        let control = self.control()?;
        let writes: Vec<DetourWrite> = self.records(control.writes, control.write_count)?;
        for DetourWrite {
            address,
            length,
            bytes,
        } in writes
        {
            let expected = bytes.get(..length as usize).unwrap_or_default();
            self.verify(address.into(), expected)?;
        }
        Ok(())
    }

    fn records<T: FromBytes + IntoBytes + Clone>(
        &self,
        address: u64,
        count: u64,
    ) -> Result<Vec<T>, Error> {
        let length = count.saturating_mul(size_of::<T>() as u64);
        let bytes = self
            .process
            .memory()
            .read_bytes(address.into(), length, LARGEST_ANSWER)?;
        let record = |bytes: &[u8]| T::read_from_bytes(bytes).ok();
        Ok(bytes
            .chunks_exact(size_of::<T>())
            .filter_map(record)
            .collect())
    }

    /// Whether it takes part in the loader's work, and so knows what is loaded.
    pub(crate) fn is_attached(&self) -> Result<bool, Error> {
        Ok(self.control()?.attached != 0)
    }

    /// That these bytes are at `address`.
    fn verify(&self, address: TargetAddress, expected: &[u8]) -> Result<(), Error> {
        let mut found = vec![0; expected.len()];
        self.process.memory().read(address, &mut found)?;
        match found == expected {
            true => Ok(()),
            false => Err(Error::NotVerified {
                pid: self.process.pid(),
                address,
            }),
        }
    }

    /// The agent's description of itself, as one state of it, 8-byte aligned.
    pub(crate) fn read_snapshot(&self) -> Result<Vec<u64>, Error> {
        const TRIES: usize = 1000;
        for _ in 0..TRIES {
            let before = self.control()?;
            let length = before.snapshot_length;
            let read =
                self.process
                    .memory()
                    .read_bytes(before.snapshot.into(), length, LARGEST_ANSWER);
            // Read last: if it is what it was, the buffer did not change meanwhile.
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

    /// Where the agent's own mappings are.
    pub(crate) fn mapping(&self) -> Result<std::ops::Range<TargetAddress>, Error> {
        let control = self.control()?;
        Ok(self.address..self.address + control.mapping_length)
    }

    /// Resident memory of the agent and of everything that it mapped, in bytes.
    pub(crate) fn resident_memory(&self) -> Result<u64, Error> {
        let path = std::path::PathBuf::from(format!("/proc/{}/smaps", self.process.pid()));
        let smaps =
            std::fs::read_to_string(&path).map_err(|source| Error::ReadFile { path, source })?;
        Ok(resident_bytes(&smaps))
    }
}

/// Adds up the resident pages of the mappings that bear our name.
fn resident_bytes(smaps: &str) -> u64 {
    let mut ours = false;
    let mut kibibytes = 0;
    for line in smaps.lines() {
        match line.split_once(':') {
            Some(("Rss", size)) if ours => {
                kibibytes += size
                    .split_whitespace()
                    .next()
                    .and_then(|size| size.parse().ok())
                    .unwrap_or(0);
            }
            // A mapping's first line: its address range, then five more words.
            _ if line
                .split_whitespace()
                .next()
                .is_some_and(|word| word.contains('-')) =>
            {
                ours = line.contains("engraft-");
            }
            _ => {}
        }
    }
    kibibytes * 1024_u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_mappings_count() {
        let smaps = "\
7f00-7f01 r-xp 00000000 00:01 9 /memfd:engraft-agent (deleted)
Size:                  8 kB
Rss:                   8 kB
7f01-7f02 rw-p 00000000 00:00 0 
Rss:                 100 kB
VmFlags: rd wr
7f03-7f04 r-xp 00000000 00:01 9 /memfd:engraft-patch (deleted)
Rss:                   4 kB
";
        assert_eq!(resident_bytes(smaps), 12 * 1024);
    }
}
