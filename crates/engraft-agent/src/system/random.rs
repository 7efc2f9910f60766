//! Random numbers for the places of new code. They cannot be guessed from the program's memory map.

use core::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0);

/// Mixes in a random number from the controller. It is the kernel's; a filter may forbid the agent
/// to ask for one.
pub(crate) fn stir(number: u64) {
    // ORDERING: the holder of the agent's lock is alone here.
    STATE.store(
        mix(STATE.load(Ordering::Relaxed) ^ number),
        Ordering::Relaxed,
    );
}

/// The next number.
pub(crate) fn next() -> u64 {
    // ORDERING: as in `stir`.
    let state = STATE
        .load(Ordering::Relaxed)
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    // ORDERING: as in `stir`.
    STATE.store(state, Ordering::Relaxed);
    mix(state)
}

/// A permutation in which each bit of the result depends on all bits (the finaliser of the
/// SplitMix64 generator).
fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_depend_on_what_was_stirred_in() {
        stir(1);
        let first = [next(), next()];
        stir(2);
        let second = [next(), next()];
        assert!(first[0] != first[1] && first != second);
    }
}
