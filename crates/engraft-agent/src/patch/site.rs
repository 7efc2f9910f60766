//! Sites in memory: the jump at an old function's entry, and where it leads.

use alloc::vec::Vec;

use engraft_core::{LinkAddress, ModuleId, ObjectId};
use engraft_machine::jump;

use crate::system::code;
use crate::system::failure::Failure;
use crate::system::writer::Writer;

/// The entry of an old function.
pub(crate) struct Site {
    pub module: ModuleId,
    pub function: LinkAddress,
    /// Where the jump goes.
    pub address: u64,
    /// The function's own bytes there.
    pub original: [u8; jump::LENGTH],
    /// What is there now.
    pub current: [u8; jump::LENGTH],
    /// Whose stub it leads to, or did last: a thread may have got as far as that stub, however long ago.
    pub stub: Option<ObjectId>,
}

impl Site {
    /// Whether the function has its own bytes.
    pub(crate) fn is_original(&self) -> bool {
        self.current == self.original
    }
}

/// All sites that are, or may become, a jump.
pub(crate) struct Sites {
    list: Vec<Site>,
}

impl Sites {
    /// None.
    pub(crate) const fn new() -> Self {
        Self { list: Vec::new() }
    }

    /// The site of a function.
    pub(crate) fn get(&self, module: ModuleId, function: LinkAddress) -> Option<&Site> {
        let mut list = self.list.iter();
        list.find(|site| site.module == module && site.function == function)
    }

    /// The site of a function, to be changed.
    pub(crate) fn get_mut(&mut self, module: ModuleId, function: LinkAddress) -> Option<&mut Site> {
        let mut list = self.list.iter_mut();
        list.find(|site| site.module == module && site.function == function)
    }

    /// The site whose jump lies in these addresses.
    pub(crate) fn within(&self, range: &core::ops::Range<u64>) -> Option<&Site> {
        self.list.iter().find(|site| range.contains(&site.address))
    }

    /// Adds one.
    pub(crate) fn add(&mut self, site: Site) -> Result<(), Failure> {
        self.list
            .try_reserve(1)
            .map_err(|_| Failure::out_of_memory())?;
        self.list.push(site);
        Ok(())
    }

    /// Forgets those that are as they were, and lead nobody anywhere.
    pub(crate) fn forget_original(&mut self) {
        self.list.retain(|site| !site.is_original());
    }

    /// Forgets those of a module.
    pub(crate) fn forget_module(&mut self, module: ModuleId) {
        self.list.retain(|site| site.module != module);
    }
}

impl Site {
    /// Has the site lead to `to`, or be the function's own code again.
    pub(crate) fn lead(&mut self, writer: Writer, to: Option<u64>) -> Result<(), Failure> {
        let bytes = match to {
            Some(to) => jump::encode(self.address, to).ok_or_else(code::out_of_reach)?,
            None => self.original,
        };
        if self.current == bytes {
            return Ok(());
        }
        writer.write_code(self.address, &self.current, &bytes)?;
        self.current = bytes;
        Ok(())
    }
}
