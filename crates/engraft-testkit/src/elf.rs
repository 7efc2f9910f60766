//! The little that tests must know of ELF files: build-ids, and copies with other code.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol};

/// The GNU build-id of a file, in hexadecimal.
pub fn build_id(path: &Path) -> Result<String> {
    let data = fs::read(path)?;
    let file = object::File::parse(&*data)?;
    let id = file
        .build_id()?
        .with_context(|| format!("{} has no build-id", path.display()))?;
    Ok(id.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Copies a program or library and changes one byte of `function`'s code, as another build or a
/// damaged disk would; the build-id stays.
///
/// The byte is `from_end` bytes before the function's last one.
pub fn copy_with_other_code(
    original: &Path,
    copy: &Path,
    function: &str,
    from_end: u64,
) -> Result<()> {
    let mut data = fs::read(original)?;
    let offset = {
        let file = object::File::parse(&*data)?;
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok(function));
        let symbol = symbol.with_context(|| format!("no function {function} in the file"))?;
        let section = symbol
            .section_index()
            .context("the function has no section")?;
        let section = file.section_by_index(section)?;
        let (start, _) = section.file_range().context("the function has no bytes")?;
        start + (symbol.address() - section.address()) + symbol.size() - 1 - from_end
    };
    *data
        .get_mut(usize::try_from(offset)?)
        .context("the function lies outside the file")? ^= 1;
    fs::write(copy, data)?;
    fs::set_permissions(copy, fs::metadata(original)?.permissions())?;
    Ok(())
}
