//! What applying or enabling a patch has led to.

use std::time::Duration;

use super::objects::ObjectPresence;
use crate::error::Error;
use crate::session::Session;

/// What applying or enabling a patch has led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// The patch is enabled: in effect in every object that is loaded. The other objects are
    /// patched when they are loaded.
    Now {
        /// Which objects are loaded.
        presence: ObjectPresence,
        /// How long the threads were stopped for the change.
        stopped_for: Duration,
    },
    /// A patch of this name was enabled already; nothing was done.
    Already,
}

impl Applied {
    /// For a patch that is enabled now.
    pub(super) fn now(
        session: &Session<'_>,
        name: &str,
        stopped_for: Duration,
    ) -> Result<Self, Error> {
        Ok(Self::Now {
            presence: ObjectPresence::of_enabled(session, name)?,
            stopped_for,
        })
    }
}
