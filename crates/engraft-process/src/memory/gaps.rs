//! Free ranges near a module.

use std::ops::Range;

use engraft_machine::{PAGE_SIZE, REACH};

use crate::memory::maps::{Mapping, Maps};
use crate::sys::address::TargetAddress;

/// An ordinary user may not map anything at the lowest addresses (`vm.mmap_min_addr`); this is well
/// above them.
const LOWEST: u64 = 1 << 20;
/// The upper end of what mmap gives without a hint: one page less than 47 bits.
const HIGHEST: u64 = (1 << 47) - PAGE_SIZE;
/// Room for growth: the heap grows upwards from `[heap]`, the stack downwards from `[stack]` up to
/// its limit (8 MiB usually). A program without a limit gets this much.
const HEAP_ROOM: u64 = 1 << 30;
const STACK_ROOM: u64 = 256 << 20;
/// The kernel keeps this many pages below a growing stack free (`stack_guard_gap`).
const GUARD: u64 = 256 * PAGE_SIZE;

/// The range that must stay free because of a mapping, which includes the mapping.
fn reserved(mapping: &Mapping) -> Range<u64> {
    let (start, end) = (mapping.range.start.get(), mapping.range.end.get());
    if mapping.name == "[heap]" {
        return start..end.saturating_add(HEAP_ROOM);
    }
    if mapping.name == "[stack]" {
        return start.saturating_sub(STACK_ROOM)..end;
    }
    // One page of distance, so that overruns on either side meet a hole and mappings never merge.
    start.saturating_sub(PAGE_SIZE)..end.saturating_add(PAGE_SIZE)
}

/// The range where a program without a `[heap]` will start one: above its last data segment, at a
/// random distance of up to 32 MiB, or 1 GiB for static-pie.
fn future_heap(maps: &Maps, around: &Range<TargetAddress>) -> Option<Range<u64>> {
    if maps.iter().any(|mapping| mapping.name == "[heap]") {
        return None;
    }
    let end = around.end.get();
    Some(end..end.saturating_add(HEAP_ROOM))
}

/// The free spaces between reserved ranges, lowest first.
fn holes(mut taken: Vec<Range<u64>>) -> Vec<Range<u64>> {
    taken.sort_by_key(|range| range.start);
    let mut holes = Vec::new();
    let mut at = LOWEST;
    for range in taken {
        if range.start > at {
            holes.push(at..range.start);
        }
        at = at.max(range.end);
    }
    if at < HIGHEST {
        holes.push(at..HIGHEST);
    }
    holes
}

/// What a gap must be like.
#[derive(Clone, Copy, Debug)]
pub struct GapRequest<'r> {
    /// Every byte of the gap reaches every byte of this by a 32-bit displacement.
    pub around: &'r Range<TargetAddress>,
    /// The size in bytes.
    pub size: u64,
    /// The alignment, a power of two.
    pub alignment: u64,
}

/// Finds `size` free bytes such that every byte of them reaches every byte of `around` by a 32-bit
/// displacement. The nearest such place is taken, aligned to `alignment` (a power of two).
///
/// The answer is a proposal: the process may map something there at any moment. So map it with
/// `MAP_FIXED_NOREPLACE`, and look again if that is refused.
pub fn find_gap(
    maps: &Maps,
    around: &Range<TargetAddress>,
    size: u64,
    alignment: u64,
) -> Option<TargetAddress> {
    let request = GapRequest {
        around,
        size,
        alignment,
    };
    let near = around.start.get();
    let nearest = |places: Vec<Range<u64>>| {
        let best = places
            .into_iter()
            .map(|place| near.clamp(place.start, place.end));
        let aligned = best.map(|at| at & !(alignment - 1));
        aligned.min_by_key(|at| at.abs_diff(near))
    };
    request.choose(maps, nearest)
}

impl GapRequest<'_> {
    /// One of all the places that [`find_gap`] could take, chosen by a random number, so that
    /// knowledge of the other mappings does not tell where this one is.
    pub fn find_at_random(&self, maps: &Maps, random: u64) -> Option<TargetAddress> {
        let choose = |places: Vec<Range<u64>>| {
            let count = |place: &Range<u64>| (place.end - place.start) / self.alignment + 1;
            let total: u64 = places.iter().map(count).sum();
            let mut index = random.checked_rem(total)?;
            let mut places = places.iter();
            places.find_map(|place| match index.checked_sub(count(place)) {
                Some(rest) => {
                    index = rest;
                    None
                }
                None => Some(place.start + index * self.alignment),
            })
        };
        self.choose(maps, choose)
    }

    /// Lets `pick` choose from the addresses (both ends included) at which the gap may begin.
    fn choose(
        &self,
        maps: &Maps,
        pick: impl Fn(Vec<Range<u64>>) -> Option<u64>,
    ) -> Option<TargetAddress> {
        let (near, far) = (self.around.start.get(), self.around.end.get());
        let lowest = far.saturating_sub(REACH).max(LOWEST);
        let highest = near.saturating_add(REACH).min(HIGHEST);
        let mut taken: Vec<_> = maps.iter().map(reserved).collect();
        let growing = future_heap(maps, self.around);
        let strict: Vec<_> = taken.iter().cloned().chain(growing).collect();
        let places = |taken| {
            let holes = holes(taken).into_iter();
            holes
                .filter_map(|hole| self.places(&hole, lowest..highest))
                .collect()
        };
        if let Some(at) = pick(places(strict)) {
            return Some(at.into());
        }
        // Room for a heap that does not exist yet is not required: only the guard is kept.
        taken.push(far..far.saturating_add(GUARD));
        pick(places(taken)).map(TargetAddress::new)
    }

    /// The first and the last address in the hole at which the gap may begin.
    fn places(&self, hole: &Range<u64>, window: Range<u64>) -> Option<Range<u64>> {
        let low = hole
            .start
            .max(window.start)
            .checked_next_multiple_of(self.alignment)?;
        let high = hole.end.min(window.end).checked_sub(self.size)? & !(self.alignment - 1);
        (low <= high).then_some(low..high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps(text: &str) -> Maps {
        Maps::parse(text.as_bytes()).unwrap()
    }

    const PROGRAM: &str = "\
555555554000-555555558000 r-xp 00000000 08:01 1 /bin/program
555555578000-555555599000 rw-p 00000000 00:00 0 [heap]
7ffff7c00000-7ffff7e00000 r-xp 00000000 08:01 2 /lib/libc.so.6
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0 [stack]
";

    #[test]
    fn a_gap_keeps_clear_of_a_heap_that_grows() {
        let maps = maps(PROGRAM);
        let around = TargetAddress::new(0x5555_5555_4000)..TargetAddress::new(0x5555_5555_8000);
        let gap = find_gap(&maps, &around, 0x10000, 0x1000).unwrap();
        assert_eq!(gap.get(), 0x5555_5555_8000 + 0x1000);
        let gap = find_gap(&maps, &around, 0x100_0000, 0x1000).unwrap();
        assert_eq!(gap.get(), 0x5555_5555_4000 - 0x1000 - 0x100_0000);
    }

    #[test]
    fn a_gap_never_touches_a_mapping_and_is_always_in_reach() {
        let maps = maps(PROGRAM);
        let libc = TargetAddress::new(0x7fff_f7c0_0000)..TargetAddress::new(0x7fff_f7e0_0000);
        for size in [0x1000, 0x10_0000, 0x4000_0000] {
            let gap = find_gap(&maps, &libc, size, 0x1000).unwrap();
            let range = gap.range(size);
            assert!(
                maps.iter()
                    .all(|m| range.end < m.range.start || m.range.end < range.start)
            );
            assert!(libc.end.get().abs_diff(gap.get()) < 1 << 31);
            assert!(range.end.get().abs_diff(libc.start.get()) < 1 << 31);
        }
    }

    #[test]
    fn a_non_pie_program_at_the_bottom_has_its_gap_beyond_the_heap_it_may_get() {
        let maps = maps("400000-402000 r-xp 00000000 08:01 1 /bin/program\n");
        let around = TargetAddress::new(0x40_0000)..TargetAddress::new(0x40_2000);
        let gap = find_gap(&maps, &around, 0x8_0000, 0x1000).unwrap();
        assert_eq!(gap.get(), 0x40_0000 - 0x1000 - 0x8_0000);
        let gap = find_gap(&maps, &around, 0x100_0000, 0x1000).unwrap();
        assert_eq!(gap.get(), 0x40_2000 + HEAP_ROOM);
    }

    #[test]
    fn a_random_gap_is_anywhere_that_is_free_and_in_reach() {
        let maps = maps(PROGRAM);
        let libc = TargetAddress::new(0x7fff_f7c0_0000)..TargetAddress::new(0x7fff_f7e0_0000);
        let request = GapRequest {
            around: &libc,
            size: 0x10_0000,
            alignment: 0x1000,
        };
        let step = u64::MAX / 1000;
        let gaps: Vec<_> = (0..1000)
            .map(|index| request.find_at_random(&maps, index * step).unwrap())
            .collect();
        for gap in &gaps {
            let range = gap.range(request.size);
            assert!(
                maps.iter()
                    .all(|m| range.end < m.range.start || m.range.end < range.start)
            );
            assert!(libc.end.get().abs_diff(gap.get()) < 1 << 31);
            assert!(range.end.get().abs_diff(libc.start.get()) < 1 << 31);
        }
        let below = gaps.iter().filter(|gap| **gap < libc.start).count();
        let distinct: std::collections::BTreeSet<_> = gaps.iter().collect();
        assert!(
            below > 900 && distinct.len() > 990,
            "{below} {}",
            distinct.len()
        );
    }

    #[test]
    fn no_gap_in_reach_is_no_gap() {
        let maps = maps("1000-f00000000 r-xp 00000000 08:01 1 /bin/program\n");
        let around = TargetAddress::new(0x4_0000_0000)..TargetAddress::new(0x4_0000_2000);
        assert_eq!(find_gap(&maps, &around, 0x1000, 0x1000), None);
    }
}
