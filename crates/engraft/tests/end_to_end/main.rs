//! Every scenario runs the `engraft` command on real processes, as a user does.
//!
//! One file a behaviour, with a line that says it in words. The programs that get patched are in
//! `tests/victims/`; what drives them is in `engraft-testkit`.

mod apply_and_disable;
mod bad_patch_files;
mod bad_targets;
mod broken_agent;
mod busy_thread;
mod callers;
mod changed_initialiser;
mod confined;
mod coroutines;
mod crowd;
mod door;
mod door_matrix;
mod door_storm;
mod dry_run;
mod entries;
mod expat;
mod family;
mod files_gone;
mod hidden_processes;
mod hostile_files;
mod idle_loop;
mod inside_or_not;
mod interrupted_build;
mod kinds_of_programs;
mod late_library;
mod left_request;
mod libraries_take_turns;
mod library_at_start;
mod matrix;
mod new_code_uses_old_data;
mod no_memory_files;
mod no_processor;
mod nothing_to_build;
mod nothing_to_patch;
mod object_not_loaded;
mod operator;
mod other_build_later;
mod other_loaders;
mod patch_file;
mod plain_threads;
mod plain_words;
mod plugins;
mod races_with_the_loader;
mod refusals;
mod refused_library;
mod relaxed;
mod removal;
mod same_patch_twice;
mod several_processes;
mod shapes;
mod short_functions;
mod sleepers;
mod stacking;
mod storm;
mod storm_control;
mod transition;
mod two_hundred_rounds;
mod under_filters;
mod unwinding;
mod usage;

use std::path::Path;

use anyhow::Result;
use engraft_testkit::{Engraft, Victim};

/// The command under test.
fn engraft() -> Engraft {
    Engraft::new(env!("CARGO_BIN_EXE_engraft"))
}

/// Builds a victim.
fn victim(name: &str) -> Result<Victim> {
    Victim::build(&victims().join(name))
}

fn victims() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/victims"))
}
