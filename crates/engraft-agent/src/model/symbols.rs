//! The symbols that an image's relocations refer to.

use engraft_abi::ModuleRefusal;

use crate::model::module_registry::{ModuleRegistry, RegisteredModule};
use crate::patch::image::Symbols;
use crate::patch::payloads::PayloadView;
use crate::system::failure::Failure;

/// The symbols for an image of one module.
pub(super) struct ModuleSymbols<'a> {
    pub(super) modules: &'a ModuleRegistry,
    pub(super) module: &'a RegisteredModule,
    pub(super) view: PayloadView<'a>,
}

impl Symbols for ModuleSymbols<'_> {
    fn object(&self, link_address: u64) -> u64 {
        self.module.elf.load_bias.wrapping_add(link_address)
    }

    fn import(&self, index: u64) -> Result<u64, Failure> {
        let (import, name, version) = self.view.import(index).ok_or_else(Failure::bad_payload)?;
        match self.modules.exported_symbol(name, version) {
            Some(address) => Ok(address),
            None if import.weak != 0 => Ok(0),
            None => Err(Failure::refusal(ModuleRefusal::SymbolMissing {
                name,
                version,
            })),
        }
    }
}
