//! Breadth-first search over all states of a model.
//!
//! Not stateright: this is all that is needed, a hundred lines that a reader can check. It keeps
//! only the frontier as full states and a 128-bit fingerprint of each visited state, so millions of
//! states fit in memory; and breadth-first means that the first trace to a violation is a shortest
//! one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// Something that has states.
pub trait Model {
    type State: Hash + Clone;
    type Step: Clone + Debug;

    fn initial(&self) -> Self::State;

    /// What has to hold in every state.
    fn check(&self, state: &Self::State) -> Result<(), Violation>;

    /// Calls `visit` with every step that can be taken and the state after it; or with what was
    /// wrong with the step.
    fn successors(
        &self,
        state: &Self::State,
        visit: &mut dyn FnMut(Self::Step, Result<Self::State, Violation>),
    );
}

/// The property that does not hold, in words.
pub type Violation = String;

/// What was found.
pub struct Report<S> {
    /// Distinct states.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// The longest of the shortest ways to a state.
    pub depth: usize,
    /// A shortest way to a violation.
    pub violation: Option<(Vec<S>, Violation)>,
}

type Fingerprint = u128;

/// Explores everything, or up to the first violation, or up to `limit` states.
pub fn explore<M: Model>(model: &M, limit: usize) -> Report<M::Step> {
    let initial = model.initial();
    let root = fingerprint(&initial);
    // How each state was first reached. Fingerprints are uniform already.
    let mut reached: HashMap<Fingerprint, Option<(Fingerprint, M::Step)>, Identity> =
        HashMap::default();
    reached.insert(root, None);
    let mut frontier = vec![(root, initial)];
    let (mut steps, mut depth) = (0, 0);
    let mut violation = None;
    while !frontier.is_empty() && violation.is_none() && reached.len() < limit {
        let mut next = Vec::new();
        for (from, state) in frontier.drain(..) {
            model.successors(&state, &mut |step, result| {
                steps += 1;
                match result {
                    Ok(state) => {
                        let to = fingerprint(&state);
                        if let Entry::Vacant(entry) = reached.entry(to) {
                            entry.insert(Some((from, step.clone())));
                            match model.check(&state) {
                                Err(what) if violation.is_none() => {
                                    violation = Some((from, step, what));
                                }
                                Err(_) => {}
                                Ok(()) => next.push((to, state)),
                            }
                        }
                    }
                    Err(what) if violation.is_none() => violation = Some((from, step, what)),
                    Err(_) => {}
                }
            });
            if violation.is_some() {
                break;
            }
        }
        frontier = next;
        depth += 1;
    }
    let violation = violation.map(|(mut at, step, what)| {
        let mut trace = vec![step];
        while let Some(Some((from, step))) = reached.get(&at) {
            trace.push(step.clone());
            at = *from;
        }
        trace.reverse();
        (trace, what)
    });
    Report {
        states: reached.len(),
        steps,
        depth,
        violation,
    }
}

fn fingerprint(state: &impl Hash) -> Fingerprint {
    let mut hasher = Mixer(0x243f_6a88_85a3_08d3_1319_8a2e_0370_7344);
    state.hash(&mut hasher);
    hasher.0 ^ (hasher.0 >> 61)
}

/// Multiplies and folds 128 bits for each word: fast, and good enough for honest input.
struct Mixer(u128);

impl Mixer {
    fn mix(&mut self, word: u128) {
        let mixed = (self.0 ^ word).wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645);
        self.0 = mixed ^ (mixed >> 67);
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(16) {
            let mut word = [0; 16];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u128::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.mix(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value.into());
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(value as u128);
    }

    fn finish(&self) -> u64 {
        self.0 as u64
    }
}

#[derive(Default)]
struct Low(u64);

impl Hasher for Low {
    fn write(&mut self, _: &[u8]) {}

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Identity = BuildHasherDefault<Low>;
