//! The addresses that matter to a transition: code that threads have to leave, and bytes that will
//! be overwritten.

use alloc::vec::Vec;
use core::ops::Range;

use engraft_abi::{CodeRange, PayloadPart, range_kind};
use engraft_core::{Code, FuncId, Leaving, LinkAddress, ModuleId, ObjectId, PatchId};
use engraft_machine::jump;

use crate::model::host::{Host, PlacedImage};
use crate::patch::dispatch;
use crate::system::failure::Failure;

impl Host {
    /// Adds the code of a body that threads have to leave, and of the stubs and trampolines on the
    /// way to it.
    pub(crate) fn push_ranges(
        &self,
        ranges: &mut Vec<CodeRange>,
        leaving: Leaving,
    ) -> Result<(), Failure> {
        let module = self.module(leaving.module)?;
        let (view, old) = self.old_function(module, leaving.function)?;
        let name = view.name(old);
        match leaving.code {
            // All of the image: the new code of a function may have several parts, and the
            // functions that only the image has are unmapped with it.
            Code::Func(FuncId { patch, object, .. }) => {
                let image = self.image(ObjectId { patch, object }, module.id);
                let code = image.ok_or_else(Failure::bad_payload)?.code();
                push_inside(ranges, code, name)?;
            }
            Code::Original => {
                let parts = old.parts.of::<PayloadPart>(view.buffer).unwrap_or_default();
                let first = ranges.len();
                parts.iter().try_for_each(|part| {
                    let start = module.elf.load_bias.wrapping_add(part.address);
                    push_range(ranges, start..start + u64::from(part.code.length), name)
                })?;
                if let Some(entry) = ranges.get_mut(first) {
                    entry.kind = range_kind::ENTRY;
                    entry.site = old.site_offset;
                    let code = view.old_code(old).unwrap_or_default();
                    let site = code.get(old.site_offset as usize..).unwrap_or_default();
                    let site = site.get(..jump::LENGTH).unwrap_or_default();
                    let original = entry.original.iter_mut();
                    original.zip(site).for_each(|(to, from)| *to = *from);
                }
            }
        }
        // A thread in a stub has not chosen a body, or has not entered it yet. A thread in a
        // trampoline is in the old function.
        for placed in self.images.iter().filter(|it| it.module == module.id) {
            let Some(function) = self.function(placed.object, leaving.function) else {
                continue;
            };
            let at = |offset, size| {
                let start = placed.image.base + offset;
                start..start + size
            };
            let trampoline = at(function.trampoline_offset, function.trampoline_size);
            push_inside(ranges, trampoline, name)?;
            let stub = at(function.stub_offset, dispatch::STUB_LENGTH as u64);
            push_deciding(ranges, stub, name)?;
        }
        Ok(())
    }

    /// Adds the agent's own code, where a thread may be on its way from a stub to a body.
    pub(crate) fn push_own_range(&self, ranges: &mut Vec<CodeRange>) -> Result<(), Failure> {
        push_deciding(ranges, self.text.clone(), b"engraft's own code")
    }

    /// Adds the bytes of the site of a function that has none yet: no thread may be about to
    /// execute the middle of them. `patch` has the trampoline that such a thread is moved to.
    pub(crate) fn push_site(
        &self,
        sites: &mut Vec<CodeRange>,
        leaving: Leaving,
        patch: PatchId,
    ) -> Result<(), Failure> {
        let known = self.sites.get(leaving.module, leaving.function);
        if leaving.code != Code::Original || known.is_some_and(|site| !site.is_original()) {
            return Ok(());
        }
        let module = self.module(leaving.module)?;
        let (view, old) = self.old_function(module, leaving.function)?;
        let start = module.elf.load_bias.wrapping_add(leaving.function.0) + old.site_offset;
        let range = start..start + jump::LENGTH as u64;
        let moved = self.trampoline(patch, leaving.module, leaving.function);
        push(sites, range, moved.unwrap_or(0), view.name(old))
    }

    /// Address of the trampoline of an old function in an image of this patch.
    fn trampoline(&self, patch: PatchId, module: ModuleId, function: LinkAddress) -> Option<u64> {
        let of_patch = |it: &&PlacedImage| it.module == module && it.object.patch == patch;
        let mut placed = self.images.iter().filter(of_patch);
        placed.find_map(|placed| {
            let known = self.function(placed.object, function)?;
            Some(placed.image.base + known.trampoline_offset)
        })
    }

    /// Adds the bytes of unwinders that will be overwritten before a patch takes effect.
    pub(crate) fn push_unwinder_sites(&self, sites: &mut Vec<CodeRange>) -> Result<(), Failure> {
        let mut ranges = self.unwinders.sites();
        ranges.try_for_each(|(range, moved)| push(sites, range, moved, b"_Unwind_Find_FDE"))
    }
}

/// Adds code whose very start counts as inside, by starting the range one byte earlier. (A thread
/// at the start of a range counts as clear: it has executed nothing there and will go through the
/// site. Here it is past the site.)
pub(crate) fn push_inside(
    ranges: &mut Vec<CodeRange>,
    range: Range<u64>,
    name: &[u8],
) -> Result<(), Failure> {
    push_range(ranges, range.start - 1..range.end, name)
}

/// Adds code that decides where a call goes.
fn push_deciding(
    ranges: &mut Vec<CodeRange>,
    range: Range<u64>,
    name: &[u8],
) -> Result<(), Failure> {
    push_inside(ranges, range, name)?;
    if let Some(last) = ranges.last_mut() {
        last.kind = range_kind::DECIDES;
    }
    Ok(())
}

fn push_range(ranges: &mut Vec<CodeRange>, range: Range<u64>, name: &[u8]) -> Result<(), Failure> {
    push(ranges, range, 0, name)
}

fn push(
    ranges: &mut Vec<CodeRange>,
    range: Range<u64>,
    moved: u64,
    name: &[u8],
) -> Result<(), Failure> {
    let mut padded = [0; 64];
    for (to, from) in padded.iter_mut().zip(name) {
        *to = *from;
    }
    ranges
        .try_reserve(1)
        .map_err(|_| Failure::out_of_memory())?;
    ranges.push(CodeRange {
        start: range.start,
        end: range.end,
        moved,
        kind: range_kind::CODE,
        site: 0,
        original: [0; 8],
        name: padded,
    });
    Ok(())
}
