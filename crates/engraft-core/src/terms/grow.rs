//! The one way in which lists grow: fallibly. The crate's clippy.toml bans the others.

use alloc::vec::Vec;

use crate::OutOfMemory;

/// Appends `item`, or leaves the list as it was.
pub(crate) fn push<T>(list: &mut Vec<T>, item: T) -> Result<(), OutOfMemory> {
    list.try_reserve(1)?;
    push_reserved(list, item);
    Ok(())
}

/// Appends `item` where room was reserved before something happened that must not be undone.
#[expect(
    clippy::disallowed_methods,
    reason = "callers have reserved the room fallibly"
)]
pub(crate) fn push_reserved<T>(list: &mut Vec<T>, item: T) {
    debug_assert!(list.len() < list.capacity(), "no room was reserved");
    list.push(item);
}
