//! Errors in terms of what has become of the process, or of what it is allowed.

use std::io;

use engraft_abi::Outcome;
use engraft_process::{Process, StopError};

use crate::error::Error;

impl Error {
    /// This error of a process that lives, after a look at what it may come from.
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

    /// Whether the process runs another program by now, which has to be looked at anew.
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

/// The agent's words, with the number of an error at their end put into words, too.
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
