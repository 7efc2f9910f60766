//! Finding the cause of an error in what has become of the process, or in its limits.

use std::io;

use engraft_abi::Outcome;
use engraft_process::{Process, StopError};

use crate::error::Error;

impl Error {
    /// This error of a living process, with its cause if the process shows one: it has executed
    /// another program, or its address space is limited.
    pub fn with_cause(self, process: &Process) -> Self {
        let pid = process.pid();
        if process.has_executed() {
            return StopError::Executed { pid }.into();
        }
        match process.address_space_limit() {
            Some(limit) if self.is_out_of_memory() => Self::AddressSpace {
                pid,
                limit,
                source: self.into(),
            },
            _ => self,
        }
    }

    /// Whether the process has executed another program, so that the command has to start again.
    pub fn is_exec(&self) -> bool {
        matches!(self, Self::Stop(StopError::Executed { .. }))
    }

    fn is_out_of_memory(&self) -> bool {
        match self {
            Self::RemoteCall(error) => error.errno() == Some(libc::ENOMEM),
            Self::Agent {
                outcome: Outcome::SystemCall,
                text,
                ..
            } => text.ends_with(&io::Error::from_raw_os_error(libc::ENOMEM).to_string()),
            _ => false,
        }
    }
}

/// The agent's text, with an errno at its end put into words: the agent has no text for errno.
pub(crate) fn with_errno_in_words(text: String) -> String {
    const NUMBER: &str = " failed with errno ";
    let Some((what, number)) = text.rsplit_once(NUMBER) else {
        return text;
    };
    match number.parse() {
        Ok(number) => format!("{what} failed: {}", io::Error::from_raw_os_error(number)),
        Err(_) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_errors_are_put_into_words() {
        let words = with_errno_in_words("mapping a patch failed with errno 12".to_owned());
        assert_eq!(
            words,
            "mapping a patch failed: Cannot allocate memory (os error 12)"
        );
        let other = "errno 12 failed with errno x".to_owned();
        assert_eq!(with_errno_in_words(other.clone()), other);
    }
}
