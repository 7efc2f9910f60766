//! Recording the compiles of a build.
//!
//! A directory of links, named as compilers are and all leading to our own executable, stands first
//! in `PATH` of the build. Called through one, the executable writes down what it was asked to do
//! and becomes the real compiler. The build system needs not be known, and nothing in it is
//! changed.
//!
//! Must not know what is done with the records.

mod inputs;
mod recorder;
mod response_files;
mod start;
mod work_directory;
mod wrapper;

pub(crate) use inputs::{ASSEMBLY, Inputs, WITH_ARGUMENT};
pub(crate) use recorder::Recorder;
pub(crate) use start::{Record, read_records};
pub(crate) use work_directory::WorkDirectory;
pub use wrapper::wrapper_main;
