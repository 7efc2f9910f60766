//! Libraries come, go and are refused with the loaders of other glibcs than the machine's, which do
//! things in another order.

use std::path::Path;

use anyhow::Result;
use engraft_testkit::{Glibc, Victim, skip};

use crate::plugins::{comes_and_goes, is_refused_apart, is_there_twice, resolves};
use crate::races_with_the_loader::patches_arrive;
use crate::{late_library, refused_library, victims};

/// Each scenario is a test with each loader.
macro_rules! scenarios {
    ($($name:ident: $victim:literal, $scenario:expr;)*) => {
        /// Debian 11, glibc 2.31: does not chain its namespaces; "adding" comes before anything is
        /// mapped, and "consistent" before relocation.
        mod debian_11 {
            $(#[test]
            fn $name() -> super::Result<()> {
                super::with_glibc_of("bullseye", stringify!($name), $victim, $scenario)
            })*
        }

        /// Debian 13, glibc 2.41: "consistent" comes after relocation.
        mod debian_13 {
            $(#[test]
            fn $name() -> super::Result<()> {
                super::with_glibc_of("trixie", stringify!($name), $victim, $scenario)
            })*
        }
    };
}

scenarios! {
    loaded_later: "host", super::late_library::is_patched_before_its_constructor;
    loaded_after_its_twin: "host", super::late_library::is_patched_after_its_twin_has_gone;
    refused: "host", super::refused_library::is_refused;
    races: "host", |victim| super::patches_arrive(victim, "storm", 1);
    races_in_namespaces: "host", |victim| super::patches_arrive(victim, "apart", 1);
    with_a_resolver: "plugins", super::resolves;
    in_a_namespace: "plugins", |victim| super::comes_and_goes(victim, "apart", "needing.so", "deep", "libdeep.so");
    in_two_namespaces: "plugins", super::is_there_twice;
    refused_in_a_namespace: "plugins", super::is_refused_apart;
}

fn with_glibc_of(
    release: &str,
    test: &str,
    victim: &str,
    scenario: fn(&Victim) -> Result<()>,
) -> Result<()> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian");
    let glibc = match Glibc::fetch(release, &cache) {
        Ok(glibc) => glibc,
        Err(error) => {
            let reason = format!("failed to fetch the glibc of {release}: {error:#}");
            skip(&format!("other_loaders::{test} ({release})"), &reason);
            return Ok(());
        }
    };
    println!("glibc {}", glibc.version);
    let arguments = glibc.make_arguments();
    let arguments = arguments.each_ref().map(String::as_str);
    scenario(&Victim::build_with(&victims().join(victim), &arguments)?)
}
