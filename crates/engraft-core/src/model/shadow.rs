//! Shadow variables: data that patches attach to the program's objects from outside.
//!
//! Users cannot reach them yet: no patch file names a shadow variable.

use alloc::vec::Vec;

use crate::OutOfMemory;
use crate::terms::grow;

/// Why there is no shadow variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShadowError<E> {
    /// It exists already, with this data.
    Exists(u64),
    /// The constructor failed.
    Construct(E),
    /// No memory to note it down. The constructor did not run.
    OutOfMemory,
}

impl<E> From<OutOfMemory> for ShadowError<E> {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ShadowVariable {
    id: u64,
    object: u64,
    data: u64,
}

/// The shadow variables of one process: for a pair of an object's address and an id, a word, most
/// often the address of data that the constructor allocated.
///
/// Patched code uses it at any time, from any thread; its owner guards it with a lock of its own
/// and lets nothing else happen under that lock.
///
/// Sorted by id and object, so that finding one costs a binary search, and one id's variables lie
/// together. Adding and removing move the variables after the place: with the tens of thousands of
/// variables that this is made for, less than looking them up.
#[cfg_attr(feature = "controls", derive(Clone))]
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct ShadowStore {
    variables: Vec<ShadowVariable>,
}

impl ShadowStore {
    /// No variables.
    pub const fn new() -> Self {
        Self {
            variables: Vec::new(),
        }
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.variables.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.variables.is_empty()
    }

    /// The data of `(object, id)` (`klp_shadow_get`).
    pub fn get(&self, object: u64, id: u64) -> Option<u64> {
        let index = self.find(object, id).ok()?;
        self.variables.get(index).map(|variable| variable.data)
    }

    /// Adds `(object, id)` with what `construct` makes (`klp_shadow_alloc`).
    ///
    /// # Errors
    ///
    /// Nothing has changed.
    pub fn alloc<E>(
        &mut self,
        object: u64,
        id: u64,
        construct: impl FnOnce() -> Result<u64, E>,
    ) -> Result<u64, ShadowError<E>> {
        match self.find(object, id) {
            Ok(_) => Err(ShadowError::Exists(
                self.get(object, id).unwrap_or_default(),
            )),
            Err(index) => self.insert(index, object, id, construct),
        }
    }

    /// The data of `(object, id)`, added if it is missing (`klp_shadow_get_or_alloc`).
    ///
    /// # Errors
    ///
    /// Nothing has changed.
    pub fn get_or_alloc<E>(
        &mut self,
        object: u64,
        id: u64,
        construct: impl FnOnce() -> Result<u64, E>,
    ) -> Result<u64, ShadowError<E>> {
        match self.alloc(object, id, construct) {
            Err(ShadowError::Exists(data)) => Ok(data),
            result => result,
        }
    }

    /// Removes `(object, id)` and hands its data to `destroy` (`klp_shadow_free`). Returns whether
    /// there was one.
    pub fn free(&mut self, object: u64, id: u64, destroy: impl FnOnce(u64)) -> bool {
        let Ok(index) = self.find(object, id) else {
            return false;
        };
        let variable = self.variables.drain(index..=index).next();
        if let Some(variable) = variable {
            destroy(variable.data);
        }
        true
    }

    /// Removes all variables of an id and hands each object and data to `destroy`
    /// (`klp_shadow_free_all`).
    pub fn free_all(&mut self, id: u64, mut destroy: impl FnMut(u64, u64)) {
        let start = self.variables.partition_point(|variable| variable.id < id);
        let end = self.variables.partition_point(|variable| variable.id <= id);
        for variable in self.variables.drain(start..end) {
            destroy(variable.object, variable.data);
        }
    }

    fn find(&self, object: u64, id: u64) -> Result<usize, usize> {
        self.variables
            .binary_search_by_key(&(id, object), |it| (it.id, it.object))
    }

    fn insert<E>(
        &mut self,
        index: usize,
        object: u64,
        id: u64,
        construct: impl FnOnce() -> Result<u64, E>,
    ) -> Result<u64, ShadowError<E>> {
        // Appended first and then rotated into its place, because the room comes first and the
        // constructor, which may fail, second.
        grow::push(
            &mut self.variables,
            ShadowVariable {
                id,
                object,
                data: 0,
            },
        )?;
        match construct() {
            Ok(data) => {
                if let Some(last) = self.variables.last_mut() {
                    last.data = data;
                }
                if let Some(tail) = self.variables.get_mut(index..) {
                    tail.rotate_right(1);
                }
                Ok(data)
            }
            Err(error) => {
                self.variables.pop();
                Err(ShadowError::Construct(error))
            }
        }
    }
}
