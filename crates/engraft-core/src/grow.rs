//! The one way in which lists grow: fallibly.

use alloc::vec::Vec;

use crate::OutOfMemory;

/// Appends `item`, or leaves the list as it was.
#[expect(clippy::disallowed_methods, reason = "the room was just reserved")]
pub(crate) fn push<T>(list: &mut Vec<T>, item: T) -> Result<(), OutOfMemory> {
    list.try_reserve(1)?;
    list.push(item);
    Ok(())
}
