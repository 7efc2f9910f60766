//! The one door to the project's tasks: `cargo xtask demo`, `test`, `model` and `bench`.
//!
//! The tasks use `engraft` as its users do, through its command line; none of the project's rooms
//! but the test kit is linked into them.

#![forbid(unsafe_code)]

pub mod bench;
pub mod cargo;
pub mod check;
mod crowd;
pub mod demo;
pub mod model;
pub mod rooms;
pub mod tools;
