//! Source packages of Debian 12, as real input for tests.
//!
//! They come from the mirrors that the machine is configured with, through a configuration of their
//! own: nothing in `/etc` and nothing in apt's state is changed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{TIME_LIMIT, exit, run};

const SUITES: [&str; 3] = ["bookworm", "bookworm-updates", "bookworm-security"];

/// An unpacked source package, with Debian's patches applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePackage {
    /// Its version, which is another than the wanted one if that is not served any more.
    pub version: String,
    /// The directory with the sources.
    pub tree: PathBuf,
}

impl SourcePackage {
    /// Takes a package from `cache`, or fetches it into there: this version, or the one that is
    /// served now.
    pub fn fetch(name: &str, version: &str, cache: &Path) -> Result<Self> {
        let home = cache.join(name);
        if let Ok(package) = Self::find(&home) {
            return Ok(package);
        }
        // Unpacked elsewhere and then renamed, so that an interrupted run leaves no half of it.
        fs::create_dir_all(cache)?;
        let work = tempfile::tempdir_in(cache)?;
        let apt = Apt::new(work.path(), &configured_sources()?)?;
        let unpacked = work.path().join("unpacked");
        fs::create_dir(&unpacked)?;
        apt.run(&["update"], work.path())?;
        let exact = apt.run(&["source", &format!("{name}={version}")], &unpacked);
        if exact.is_err() {
            apt.run(&["source", name], &unpacked)?;
        }
        Self::find(&unpacked)?;
        match fs::rename(&unpacked, &home) {
            // Another test run was faster.
            Err(_) if home.exists() => {}
            renamed => renamed?,
        }
        Self::find(&home)
    }

    fn find(directory: &Path) -> Result<Self> {
        for entry in fs::read_dir(directory)? {
            let tree = entry?.path();
            if let Ok(changelog) = fs::read_to_string(tree.join("debian/changelog")) {
                return Ok(Self {
                    version: newest_version(&changelog)?,
                    tree,
                });
            }
        }
        anyhow::bail!("no source package in {}", directory.display())
    }
}

/// The version in a changelog's first line: `expat (2.5.0-1+deb12u2) bookworm; urgency=medium`.
fn newest_version(changelog: &str) -> Result<String> {
    let version = changelog
        .split_once('(')
        .and_then(|(_, rest)| rest.split_once(')'));
    let (version, _) = version.context("the changelog names no version")?;
    Ok(version.to_owned())
}

/// apt-get with lists and caches of its own.
struct Apt {
    options: Vec<OsString>,
}

impl Apt {
    fn new(directory: &Path, sources: &[String]) -> Result<Self> {
        let parts = directory.join("sources.list.d");
        for path in [
            &parts,
            &directory.join("lists/partial"),
            &directory.join("cache"),
        ] {
            fs::create_dir_all(path)?;
        }
        fs::write(parts.join("debian.sources"), sources.join("\n"))?;
        let mut options: Vec<OsString> = Vec::new();
        for (option, value) in [
            ("Dir::Etc::SourceList", Path::new("/dev/null")),
            ("Dir::Etc::SourceParts", &parts),
            ("Dir::State::Lists", &directory.join("lists")),
            ("Dir::Cache", &directory.join("cache")),
            // The directory is ours, and closed to the user that apt would become.
            ("APT::Sandbox::User", Path::new("root")),
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

    fn run(&self, arguments: &[&str], directory: &Path) -> Result<()> {
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

/// What the machine is configured to install Debian 12 from, as deb822 stanzas for its sources.
fn configured_sources() -> Result<Vec<String>> {
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
fn source_of_line(line: &str) -> Option<String> {
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
fn source_of_stanza(stanza: &str) -> Option<String> {
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
) -> Option<String> {
    let suites: Vec<_> = suites
        .iter()
        .filter(|suite| SUITES.contains(suite))
        .copied()
        .collect();
    if suites.is_empty() || !components.contains(&"main") {
        return None;
    }
    let mut stanza = format!(
        "Types: deb-src\nURIs: {uris}\nSuites: {}\nComponents: main\n",
        suites.join(" ")
    );
    if let Some(path) = signed_by {
        stanza.push_str(&format!("Signed-By: {path}\n"));
    }
    Some(stanza)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_in_one_line_is_read() {
        let line = "deb [arch=amd64 signed-by=/key.gpg] http://mirror/debian bookworm main contrib";
        let stanza =
            "Types: deb-src\nURIs: http://mirror/debian\nSuites: bookworm\nComponents: main\n";
        assert_eq!(
            source_of_line(line).unwrap(),
            format!("{stanza}Signed-By: /key.gpg\n")
        );
        assert_eq!(
            source_of_line("deb http://mirror/debian bookworm main").unwrap(),
            stanza
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
        let source = source_of_stanza(stanza).unwrap();
        assert!(
            source.contains("Suites: bookworm bookworm-updates\n"),
            "{source}"
        );
        assert!(source.contains("Signed-By: /key.gpg\n"), "{source}");
        assert_eq!(source_of_stanza(&format!("Enabled: no\n{stanza}")), None);
    }

    #[test]
    fn sources_of_others_are_left_out() {
        assert_eq!(source_of_line("deb http://other/apt bookworm stable"), None);
        assert_eq!(source_of_line("deb http://other/debian trixie main"), None);
    }

    #[test]
    fn the_version_is_that_of_the_newest_entry() {
        let changelog = "expat (2.5.0-1+deb12u2) bookworm; urgency=medium\n\n  * x (y)\n";
        assert_eq!(newest_version(changelog).unwrap(), "2.5.0-1+deb12u2");
    }
}
