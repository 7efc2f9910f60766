//! Processes that lie about everything they can, and engraft as root next to them.
//!
//! `generator` draws lies by lot from a seed and gives every command a turn; `repros` tells certain
//! lies, each of which once made root use gigabytes, hang, or print what the process wanted. Seen
//! from outside, every time: the command ends in time, within its memory, without a panic; it shows
//! no control character; files stay as they are; an honest process is patched correctly by the same
//! command and is what it was afterwards.
//!
//! `ENGRAFT_LONG_TESTS=1` makes it thirty minutes, `ENGRAFT_HOSTILE_SECONDS` any length;
//! `ENGRAFT_HOSTILE_SEED` is the first seed. A failure names the seed of the process.

mod canary;
mod generator;
mod measured;
mod names;
mod repros;
mod scene;
