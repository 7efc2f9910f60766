//! Programs that are in use everywhere, under load: until every thread of theirs has switched.

mod case;
mod clients;
mod libc;
mod memcached;
mod nginx;
mod redis;
mod runtimes;
mod server;
mod workshop;

use std::cell::LazyCell;

use anyhow::{Result, bail, ensure};
use engraft_testkit::Engraft;

use super::report::Section;
use super::scene::in_each;
use crate::tools;
use case::{Case, Outcome};
use libc::Libc;
use workshop::Workshop;

pub(super) use workshop::is_filled;

const MEANING: &str = "\
Servers of Debian 12, built from its source, and its C library as it is installed, patched in programs of C, python, node
and java. 16 clients ask without a pause, each on a connection of its own, while two patches are applied one after the other, disabled, and
enabled by two commands at the same time. Wall time of each command, from the start of its process to its end, at which every thread has
switched; only those that succeeded. The first patch is for a function in which the threads nearly always are: their
event loop, or what they sleep in. *Meanwhile* is from the first command to the last.";

/// Builds what is missing, leaves out what cannot be had, and measures the rest. `wanted`: how the
/// names of the programs begin; empty for all.
pub(super) fn measure(engraft: &Engraft, processes: usize, wanted: &[String]) -> Result<Section> {
    tools::require(tools::COMPILER)?;
    tools::require(tools::SOURCE_PACKAGES)?;
    let workshop = Workshop::new(engraft)?;
    let cases = cases(&workshop, wanted)?;
    let rounds = in_each("programs", processes, || {
        let outcomes = cases.iter().map(|case| case.measure(engraft));
        outcomes.collect::<Result<Vec<_>>>()
    })?;
    let mut outcomes: Vec<Vec<Outcome>> = cases.iter().map(|_| Vec::new()).collect();
    for round in rounds {
        let each = outcomes.iter_mut().zip(round);
        each.for_each(|(of_case, outcome)| of_case.push(outcome));
    }
    let rows = cases.iter().zip(&outcomes);
    Ok(Section {
        title: "Programs in use, under load",
        meaning: MEANING,
        rows: rows
            .flat_map(|(case, of_case)| case.rows(of_case))
            .collect(),
    })
}

fn cases(workshop: &Workshop<'_>, wanted: &[String]) -> Result<Vec<Case>> {
    let is_wanted = |name: &str| {
        wanted.is_empty()
            || wanted
                .iter()
                .any(|wanted| name.starts_with(wanted.as_str()))
    };
    let mut cases = Vec::new();
    let mut complete = wanted.is_empty();
    let mut add = |name: &str, make: &dyn Fn() -> Result<Case>| {
        if !is_wanted(name) {
            return;
        }
        match make() {
            Ok(case) => cases.push(case),
            Err(error) => {
                complete = false;
                eprintln!("left out: {name}: {error:#}");
            }
        }
    };
    add("redis", &|| redis::case(workshop));
    add("nginx", &|| nginx::case(workshop));
    add("memcached", &|| memcached::case(workshop));
    let libc = LazyCell::new(|| Libc::patched(workshop));
    for (name, make) in runtimes::ALL {
        add(name, &|| match &*libc {
            Ok(libc) => make(workshop, libc),
            Err(error) => bail!("the C library: {error:#}"),
        });
    }
    ensure!(!cases.is_empty(), "none of the programs can be measured");
    if complete {
        workshop.mark_filled()?;
    }
    Ok(cases)
}
