//! Hash tables of symbols: that of GNU, and that of the gABI.

use object::LittleEndian;
use object::elf::{GnuHashHeader, HashHeader, gnu_hash, hash};

use crate::error::Error;
use crate::limits::HASH_CHAIN;
use crate::memory::{ENDIAN, ReadMemory, record, word};

/// A hash table of symbols.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HashTable {
    /// `DT_GNU_HASH`.
    Gnu(u64),
    /// `DT_HASH`.
    SystemV(u64),
}

/// Whether the symbol of this number is the wanted one.
pub(crate) type IsWanted<'f, E> = dyn FnMut(u32) -> Result<bool, Error<E>> + 'f;

impl HashTable {
    /// The number of the symbol with this name that `is_wanted`. A chain that is longer than those
    /// of real files is damaged, and what it hides is not found.
    pub(crate) fn find<M>(
        self,
        memory: &M,
        name: &[u8],
        is_wanted: &mut IsWanted<'_, M::Error>,
    ) -> Result<Option<u32>, Error<M::Error>>
    where
        M: ReadMemory + ?Sized,
    {
        match self {
            Self::Gnu(table) => find_by_gnu_hash(memory, table, name, is_wanted),
            Self::SystemV(table) => find_by_system_v_hash(memory, table, name, is_wanted),
        }
    }

    /// The number of symbols among which those are that the file imports. The table of GNU does not
    /// contain them and says where the others begin; that of the gABI says how many symbols there
    /// are.
    pub(crate) fn imported<M>(self, memory: &M) -> Result<u32, Error<M::Error>>
    where
        M: ReadMemory + ?Sized,
    {
        match self {
            Self::Gnu(table) => {
                let header: GnuHashHeader<LittleEndian> = record(memory, table)?;
                Ok(header.symbol_base.get(ENDIAN))
            }
            Self::SystemV(table) => {
                let header: HashHeader<LittleEndian> = record(memory, table)?;
                Ok(header.chain_count.get(ENDIAN))
            }
        }
    }
}

/// The address of a word of an array of words.
fn place(array: u64, index: u32) -> u64 {
    array.wrapping_add(u64::from(index) * 4)
}

fn find_by_gnu_hash<M>(
    memory: &M,
    table: u64,
    name: &[u8],
    is_wanted: &mut IsWanted<'_, M::Error>,
) -> Result<Option<u32>, Error<M::Error>>
where
    M: ReadMemory + ?Sized,
{
    // The header; words of a Bloom filter, of eight bytes; buckets; chains.
    let header: GnuHashHeader<LittleEndian> = record(memory, table)?;
    let filter = table.wrapping_add(size_of_val(&header) as u64);
    let buckets = filter.wrapping_add(u64::from(header.bloom_count.get(ENDIAN)) * 8);
    let bucket_count = header.bucket_count.get(ENDIAN);
    let chains = place(buckets, bucket_count);
    let hash = gnu_hash(name);
    let Some(bucket) = hash.checked_rem(bucket_count) else {
        return Ok(None);
    };
    let mut index = word(memory, place(buckets, bucket))?;
    for _ in 0..HASH_CHAIN {
        let Some(link) = index.checked_sub(header.symbol_base.get(ENDIAN)) else {
            return Ok(None);
        };
        // The lowest bit is set in the last word of a chain; the others are those of the hash.
        let value = word(memory, place(chains, link))?;
        if value | 1 == hash | 1 && is_wanted(index)? {
            return Ok(Some(index));
        }
        if value & 1 == 1 {
            return Ok(None);
        }
        index = index.wrapping_add(1);
    }
    Ok(None)
}

fn find_by_system_v_hash<M>(
    memory: &M,
    table: u64,
    name: &[u8],
    is_wanted: &mut IsWanted<'_, M::Error>,
) -> Result<Option<u32>, Error<M::Error>>
where
    M: ReadMemory + ?Sized,
{
    // The header; buckets; chains, each word of which is the number of the next symbol.
    let header: HashHeader<LittleEndian> = record(memory, table)?;
    let buckets = table.wrapping_add(size_of_val(&header) as u64);
    let bucket_count = header.bucket_count.get(ENDIAN);
    let chains = place(buckets, bucket_count);
    let Some(bucket) = hash(name).checked_rem(bucket_count) else {
        return Ok(None);
    };
    let mut index = word(memory, place(buckets, bucket))?;
    for _ in 0..HASH_CHAIN {
        if index == 0 {
            return Ok(None);
        }
        if is_wanted(index)? {
            return Ok(Some(index));
        }
        index = word(memory, place(chains, index))?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_agree_with_the_published_values() {
        assert_eq!(gnu_hash(b"printf"), 0x156b_2bb8);
        assert_eq!(hash(b"printf"), 0x0779_05a6);
    }

    /// Words from address 0 on, the last of them again and again.
    fn words(words: &[u32]) -> impl ReadMemory<Error = ()> {
        move |address: u64, buffer: &mut [u8]| {
            for (index, place) in buffer.chunks_mut(4).enumerate() {
                let word = words.get(address as usize / 4 + index);
                let word = word.or(words.last()).ok_or(())?;
                place.copy_from_slice(&word.to_le_bytes());
            }
            Ok(())
        }
    }

    /// How many symbols are looked at, and what is found if none of them is the wanted one.
    fn follow(table: HashTable, content: &[u32]) -> (u32, Result<Option<u32>, Error<()>>) {
        let mut visited = 0;
        let found = table.find(&words(content), b"name", &mut |_| {
            visited += 1;
            Ok(false)
        });
        (visited, found)
    }

    #[test]
    fn a_chain_that_leads_back_to_itself_ends() {
        // One bucket, which holds symbol 1; symbol 1 is followed by symbol 1.
        let circle = [1, u32::MAX, 1];
        let found = follow(HashTable::SystemV(0), &circle);
        assert_eq!(found, (HASH_CHAIN, Ok(None)));
        // One bucket, which holds symbol 0; no chain word says that it is the last.
        let endless = [1, 0, 0, 0, 0, gnu_hash(b"name") & !1];
        let found = follow(HashTable::Gnu(0), &endless);
        assert_eq!(found, (HASH_CHAIN, Ok(None)));
    }

    #[test]
    fn a_table_without_buckets_has_no_symbols() {
        assert_eq!(follow(HashTable::SystemV(0), &[0]), (0, Ok(None)));
        assert_eq!(follow(HashTable::Gnu(0), &[0]), (0, Ok(None)));
    }

    #[test]
    fn a_symbol_before_the_hashed_ones_ends_the_search() {
        // One bucket, which holds symbol 6; symbols are hashed from 7 on.
        assert_eq!(follow(HashTable::Gnu(0), &[1, 7, 0, 0, 6]), (0, Ok(None)));
    }
}
