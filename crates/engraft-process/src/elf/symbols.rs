//! Dynamic symbols of a loaded module, looked up in its memory.

use std::ops::Range;

use object::elf;

use crate::elf::headers::Dynamic;
use crate::elf::modules::Module;
use crate::memory::access::{Memory, MemoryError};
use crate::memory::fields::{half, quarter, word};
use crate::process::limits::{HASH_CHAIN, RELOCATIONS};
use crate::sys::address::TargetAddress;

const SYMBOL_SIZE: u64 = 24;
const RELOCATION_SIZE: u64 = 24;

/// The dynamic symbol table of one module.
pub(crate) struct DynamicSymbols<'p, 'm> {
    memory: Memory<'p>,
    module: &'m Module,
    dynamic: &'m Dynamic,
    symbols: TargetAddress,
    strings: TargetAddress,
}

/// The GNU hash function (`djb2` with 32-bit wrapping).
fn gnu_hash(name: &[u8]) -> u32 {
    let step = |hash: u32, byte: &u8| hash.wrapping_mul(33).wrapping_add(u32::from(*byte));
    name.iter().fold(5381, step)
}

/// The System V hash function of the gABI.
fn sysv_hash(name: &[u8]) -> u32 {
    name.iter().fold(0u32, |hash, byte| {
        let hash = hash.wrapping_shl(4).wrapping_add(u32::from(*byte));
        let high = hash & 0xf000_0000;
        (hash ^ (high >> 24)) & !high
    })
}

impl<'p, 'm> DynamicSymbols<'p, 'm> {
    /// The table of a module; `None` if it has none.
    pub(crate) fn new(
        memory: Memory<'p>,
        module: &'m Module,
        dynamic: &'m Dynamic,
    ) -> Option<Self> {
        Some(Self {
            memory,
            module,
            dynamic,
            symbols: module.dynamic_pointer(dynamic.get(elf::DT_SYMTAB)?),
            strings: module.dynamic_pointer(dynamic.get(elf::DT_STRTAB)?),
        })
    }

    fn pointer(&self, tag: u32) -> Option<TargetAddress> {
        Some(self.module.dynamic_pointer(self.dynamic.get(tag)?))
    }

    fn symbol(&self, index: u64) -> Result<[u8; SYMBOL_SIZE as usize], MemoryError> {
        self.memory
            .read_array(self.symbols + index.wrapping_mul(SYMBOL_SIZE))
    }

    fn has_name(&self, symbol: &[u8], name: &[u8]) -> Result<bool, MemoryError> {
        let at = self.strings + u64::from(half(symbol, 0));
        Ok(self.memory.read_string(at, name.len() + 1)? == name)
    }

    /// The place of a symbol that this module defines.
    pub(crate) fn find(&self, name: &[u8]) -> Result<Option<Range<TargetAddress>>, MemoryError> {
        if let Some(table) = self.pointer(elf::DT_GNU_HASH) {
            return self.find_by_gnu_hash(table, name);
        }
        match self.pointer(elf::DT_HASH) {
            Some(table) => self.find_by_sysv_hash(table, name),
            None => Ok(None),
        }
    }

    /// The symbol's place, if it has this name and is defined here.
    fn matching(
        &self,
        index: u64,
        name: &[u8],
    ) -> Result<Option<Range<TargetAddress>>, MemoryError> {
        let symbol = self.symbol(index)?;
        let defined = quarter(&symbol, 6) != elf::SHN_UNDEF;
        if !defined || !self.has_name(&symbol, name)? {
            return Ok(None);
        }
        let start = self.module.address(word(&symbol, 8));
        Ok(Some(start..start + word(&symbol, 16)))
    }

    fn find_by_gnu_hash(
        &self,
        table: TargetAddress,
        name: &[u8],
    ) -> Result<Option<Range<TargetAddress>>, MemoryError> {
        // nbuckets, symoffset, bloom_size, bloom_shift; bloom words; buckets; chains.
        let header: [u8; 16] = self.memory.read_array(table)?;
        let (buckets, first, bloom) = (half(&header, 0), half(&header, 4), half(&header, 8));
        let hash = gnu_hash(name);
        let Some(bucket) = hash.checked_rem(buckets) else {
            return Ok(None);
        };
        let bucket_table = table + 16 + u64::from(bloom) * 8;
        let chain_table = bucket_table + u64::from(buckets) * 4;
        let at = bucket_table + u64::from(bucket) * 4;
        let mut index = u32::from_le_bytes(self.memory.read_array(at)?);
        if index < first {
            return Ok(None);
        }
        for _ in 0..HASH_CHAIN {
            let at = chain_table + u64::from(index - first) * 4;
            let entry = u32::from_le_bytes(self.memory.read_array(at)?);
            // The lowest bit marks the end of the chain and does not take part in the hash.
            if entry | 1 == hash | 1
                && let Some(range) = self.matching(index.into(), name)?
            {
                return Ok(Some(range));
            }
            let Some(next) = index.checked_add(1).filter(|_| entry & 1 == 0) else {
                break;
            };
            index = next;
        }
        Ok(None)
    }

    fn find_by_sysv_hash(
        &self,
        table: TargetAddress,
        name: &[u8],
    ) -> Result<Option<Range<TargetAddress>>, MemoryError> {
        // nbucket, nchain; buckets; chains.
        let header: [u8; 8] = self.memory.read_array(table)?;
        let buckets = half(&header, 0);
        let Some(bucket) = sysv_hash(name).checked_rem(buckets) else {
            return Ok(None);
        };
        let entry = |index: u64| -> Result<u64, MemoryError> {
            let at = table + 8 + index * 4;
            Ok(u32::from_le_bytes(self.memory.read_array(at)?).into())
        };
        let mut index = entry(bucket.into())?;
        for _ in 0..HASH_CHAIN {
            if index == 0 {
                break;
            }
            if let Some(range) = self.matching(index, name)? {
                return Ok(Some(range));
            }
            index = entry(u64::from(buckets) + index)?;
        }
        Ok(None)
    }

    /// What the GOT slot of a PLT entry for this symbol holds now.
    pub(crate) fn jump_slot(&self, name: &[u8]) -> Result<Option<TargetAddress>, MemoryError> {
        let size = self.dynamic.get(elf::DT_PLTRELSZ).unwrap_or(0);
        let Some(table) = self.pointer(elf::DT_JMPREL) else {
            return Ok(None);
        };
        let bytes = self
            .memory
            .read_bytes(table, size, RELOCATIONS * RELOCATION_SIZE)?;
        for relocation in bytes.chunks_exact(RELOCATION_SIZE as usize) {
            let info = word(relocation, 8);
            if info as u32 != elf::R_X86_64_JUMP_SLOT
                || !self.has_name(&self.symbol(info >> 32)?, name)?
            {
                continue;
            }
            let slot = TargetAddress::new(word(relocation, 0)) + self.module.load_bias;
            let target = TargetAddress::new(self.memory.read_u64(slot)?);
            return Ok((!target.is_null()).then_some(target));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_agree_with_the_published_values() {
        assert_eq!(gnu_hash(b"printf"), 0x156b_2bb8);
        assert_eq!(sysv_hash(b"printf"), 0x077905a6);
    }
}
