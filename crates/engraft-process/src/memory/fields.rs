//! Little-endian fields of records that were read from a process.

/// The 8-byte field at an offset of a record; zero if the record is too short.
pub(crate) fn word(bytes: &[u8], at: usize) -> u64 {
    let field = bytes
        .get(at..at + 8)
        .and_then(|field| field.try_into().ok());
    field.map_or(0, u64::from_le_bytes)
}

/// The 4-byte field at an offset; zero if the record is too short.
pub(crate) fn half(bytes: &[u8], at: usize) -> u32 {
    let field = bytes
        .get(at..at + 4)
        .and_then(|field| field.try_into().ok());
    field.map_or(0, u32::from_le_bytes)
}
