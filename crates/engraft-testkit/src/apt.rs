//! Debian's packages, for tests that need more than the machine has.
//!
//! They come from the mirrors that the machine is configured with, through a configuration of their
//! own: nothing in `/etc` and nothing in apt's state is changed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::{TIME_LIMIT, exit, run};

const RELEASE: &str = "bookworm";
const SUITES: [&str; 3] = [RELEASE, "bookworm-updates", "bookworm-security"];

/// apt-get with lists and caches of its own.
pub(crate) struct Apt {
    options: Vec<OsString>,
}

impl Apt {
    /// For the source packages of Debian 12.
    pub(crate) fn for_sources(directory: &Path) -> Result<Self> {
        let sources = configured_sources()?;
        let stanza = |source: &Source| source.stanza("deb-src", &source.suites);
        Self::new(directory, sources.iter().map(stanza))
    }

    /// For the packages of another release, from the same mirrors.
    pub(crate) fn for_release(directory: &Path, suite: &str) -> Result<Self> {
        let sources = configured_sources()?;
        // Mirrors of security updates name their suites differently, and are not needed.
        let mirrors = sources
            .iter()
            .filter(|source| source.suites.iter().any(|suite| suite == RELEASE));
        let stanza = |source: &Source| source.stanza("deb", &[suite.to_owned()]);
        Self::new(directory, mirrors.map(stanza))
    }

    fn new(directory: &Path, stanzas: impl Iterator<Item = String>) -> Result<Self> {
        let parts = directory.join("sources.list.d");
        for path in [
            &parts,
            &directory.join("lists/partial"),
            &directory.join("cache"),
        ] {
            fs::create_dir_all(path)?;
        }
        let stanzas: Vec<_> = stanzas.collect();
        fs::write(parts.join("debian.sources"), stanzas.join("\n"))?;
        let mut options: Vec<OsString> = Vec::new();
        for (option, value) in [
            ("Dir::Etc::SourceList", Path::new("/dev/null")),
            ("Dir::Etc::SourceParts", &parts),
            ("Dir::State::Lists", &directory.join("lists")),
            ("Dir::Cache", &directory.join("cache")),
            // apt would drop its rights and become a user who cannot open our directory.
            ("APT::Sandbox::User", Path::new("root")),
            // Only the list of packages; there are also lists of files, translations and icons.
            ("Acquire::Languages", Path::new("none")),
            (
                "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled",
                Path::new("false"),
            ),
            ("Acquire::Retries", Path::new("2")),
            ("Acquire::http::Timeout", Path::new("30")),
            ("Acquire::https::Timeout", Path::new("30")),
        ] {
            let mut assignment = OsString::from(format!("{option}="));
            assignment.push(value);
            options.extend(["-o".into(), assignment]);
        }
        Ok(Self { options })
    }

    /// Runs it in `directory`.
    pub(crate) fn run(&self, arguments: &[&str], directory: &Path) -> Result<()> {
        let mut command = Command::new("apt-get");
        command
            .args(["--quiet", "--quiet"])
            .args(&self.options)
            .args(arguments);
        command.current_dir(directory);
        let outcome = run(&mut command, TIME_LIMIT)?;
        let what = arguments.join(" ");
        ensure!(
            outcome.code == Some(exit::OK),
            "apt-get {what}: {}",
            outcome.stderr.trim()
        );
        Ok(())
    }
}

/// A mirror of Debian 12.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uris: String,
    suites: Vec<String>,
    signed_by: Option<String>,
}

impl Source {
    /// In the form of deb822, for packages of this type in these suites.
    fn stanza(&self, kind: &str, suites: &[String]) -> String {
        let (uris, suites) = (&self.uris, suites.join(" "));
        let stanza = format!("Types: {kind}\nURIs: {uris}\nSuites: {suites}\nComponents: main\n");
        match &self.signed_by {
            Some(path) => stanza + &format!("Signed-By: {path}\n"),
            None => stanza,
        }
    }
}

/// The mirrors that the machine is configured to install Debian 12 from.
fn configured_sources() -> Result<Vec<Source>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    let mut sources = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(source_of_line)),
            Some("sources") => sources.extend(text.split("\n\n").filter_map(source_of_stanza)),
            _ => {}
        }
    }
    ensure!(
        !sources.is_empty(),
        "apt is not configured for Debian 12 (bookworm, main)"
    );
    Ok(sources)
}

/// `deb [option=value ...] URI SUITE COMPONENT ...`
fn source_of_line(line: &str) -> Option<Source> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let signed_by = options
        .split_whitespace()
        .find_map(|option| option.strip_prefix("signed-by="));
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let components: Vec<_> = words.collect();
    source(uri, &[suite], &components, signed_by)
}

/// Fields of the form `Name: values`, comments, and continued lines, which begin with a blank.
fn source_of_stanza(stanza: &str) -> Option<Source> {
    let field = |name: &str| {
        let mut fields = stanza.lines().filter_map(|line| line.split_once(':'));
        fields
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    };
    let words = |name| {
        field(name)
            .unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    if !words("Types").contains(&"deb") || field("Enabled") == Some("no") {
        return None;
    }
    // A key that is written into the file itself, over several lines, is not carried over.
    let signed_by = field("Signed-By").filter(|path| path.starts_with('/'));
    source(
        field("URIs")?,
        &words("Suites"),
        &words("Components"),
        signed_by,
    )
}

fn source(
    uris: &str,
    suites: &[&str],
    components: &[&str],
    signed_by: Option<&str>,
) -> Option<Source> {
    let suites = suites.iter().filter(|suite| SUITES.contains(suite));
    let suites: Vec<_> = suites.map(ToString::to_string).collect();
    (!suites.is_empty() && components.contains(&"main")).then(|| Source {
        uris: uris.to_owned(),
        suites,
        signed_by: signed_by.map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian(suites: &[&str], signed_by: Option<&str>) -> Option<Source> {
        source("http://mirror/debian", suites, &["main"], signed_by)
    }

    #[test]
    fn a_source_in_one_line_is_read() {
        let line = "deb [arch=amd64 signed-by=/key.gpg] http://mirror/debian bookworm main contrib";
        let signed = debian(&[RELEASE], Some("/key.gpg"));
        assert!(signed.is_some());
        assert_eq!(source_of_line(line), signed);
        assert_eq!(
            source_of_line("deb http://mirror/debian bookworm main"),
            debian(&[RELEASE], None)
        );
        assert_eq!(
            source_of_line("# deb http://mirror/debian bookworm main"),
            None
        );
        assert_eq!(
            source_of_line("deb-src http://mirror/debian bookworm main"),
            None
        );
    }

    #[test]
    fn a_source_in_a_stanza_is_read() {
        let stanza = "Types: deb\n# a comment\nURIs: http://mirror/debian\n\
            Suites: bookworm bookworm-updates other\nComponents: main\nSigned-By: /key.gpg";
        let suites = [RELEASE, "bookworm-updates"];
        assert_eq!(source_of_stanza(stanza), debian(&suites, Some("/key.gpg")));
        assert_eq!(source_of_stanza(&format!("Enabled: no\n{stanza}")), None);
    }

    #[test]
    fn sources_of_others_are_left_out() {
        assert_eq!(source_of_line("deb http://other/apt bookworm stable"), None);
        assert_eq!(source_of_line("deb http://other/debian trixie main"), None);
    }

    #[test]
    fn a_source_is_written_for_another_type_and_release() {
        let source = debian(&[RELEASE], Some("/key.gpg")).unwrap();
        assert_eq!(
            source.stanza("deb", &["trixie".to_owned()]),
            "Types: deb\nURIs: http://mirror/debian\nSuites: trixie\nComponents: main\n\
            Signed-By: /key.gpg\n"
        );
    }
}
