//! Sites: the jump at an old function's entry, and where it leads.

use alloc::vec::Vec;

use engraft_core::{LinkAddress, ModuleId, ObjectId};
use engraft_machine::jump;

use crate::system::code;
use crate::system::code_writer::CodeWriter;
use crate::system::failure::Failure;

/// The entry of an old function.
pub(crate) struct Site {
    pub module: ModuleId,
    pub function: LinkAddress,
    /// Where the jump goes.
    pub address: u64,
    /// The function's own bytes there.
    pub original: [u8; jump::LENGTH],
    /// The bytes that are there now.
    pub current: [u8; jump::LENGTH],
    /// The object whose stub it leads to, or has led to last. A thread may still be inside that
    /// stub, however long ago it entered it.
    pub stub: Option<ObjectId>,
}

impl Site {
    /// Whether the function has its own bytes.
    pub(crate) fn is_original(&self) -> bool {
        self.current == self.original
    }
}

/// All sites that hold a jump, or are about to.
pub(crate) struct Sites {
    list: Vec<Site>,
}

impl Sites {
    /// No sites.
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

    /// Adds a site.
    pub(crate) fn add(&mut self, site: Site) -> Result<(), Failure> {
        self.list
            .try_reserve(1)
            .map_err(|_| Failure::out_of_memory())?;
        self.list.push(site);
        Ok(())
    }

    /// Forgets the sites whose functions have their own bytes.
    pub(crate) fn forget_original(&mut self) {
        self.list.retain(|site| !site.is_original());
    }

    /// Forgets the sites of a module.
    pub(crate) fn forget_module(&mut self, module: ModuleId) {
        self.list.retain(|site| site.module != module);
    }
}

impl Site {
    /// Redirects the site to `to`, or restores the function's own bytes.
    pub(crate) fn redirect(&mut self, writer: CodeWriter, to: Option<u64>) -> Result<(), Failure> {
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
