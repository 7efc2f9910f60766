//! A process that lies, an honest one beside it, and the patch for what both have loaded.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::mem::offset_of;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use engraft_abi::{
    Control, MAGIC, Response, SnapshotHeader, SnapshotInstance, SnapshotObject, SnapshotPatch,
    SnapshotTransition, VERSION,
};
use engraft_testkit::{Engraft, Program, Snapshot, Victim};

use crate::canary::Canary;
use crate::measured::{self, Measured};

/// Its user: nobody.
const NOBODY: u32 = 65534;

/// What a command may need beyond what its `--timeout` allows, on a machine on which hundreds of
/// other processes run and are looked at: it only turns a hang into a failure.
const MARGIN: Duration = Duration::from_secs(30);

pub(crate) const PATCH: &str = "honest-fix";

pub(crate) struct Scene {
    pub(crate) engraft: Engraft,
    pub(crate) patch: PathBuf,
    pub(crate) canary: Canary,
    pub(crate) honest: Program,
    victim: Victim,
    before: Snapshot,
}

impl Scene {
    pub(crate) fn new() -> Result<Self> {
        let sources = tempfile::tempdir()?;
        let victims = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/victims/liar"));
        for entry in fs::read_dir(victims)? {
            let entry = entry?;
            fs::copy(entry.path(), sources.path().join(entry.file_name()))?;
        }
        fs::write(sources.path().join("abi.h"), agent_interface()?)?;
        let victim = Victim::build(sources.path())?;
        let engraft = Engraft::new(env!("CARGO_BIN_EXE_engraft"));
        let patch = victim.patch(&engraft, "fix.patch", PATCH, &["libanswer.so"])?;
        let honest = victim.start("honest", &[])?;
        Ok(Self {
            before: Snapshot::take(honest.pid())?,
            canary: Canary::new(&victim.built())?,
            engraft,
            patch,
            honest,
            victim,
        })
    }

    /// Starts a process that tells lies.
    pub(crate) fn hostile(&self, seed: u64, lies: Option<u64>) -> Result<Hostile> {
        let lies = lies.map_or("-".to_owned(), |lies| lies.to_string());
        let mut command = Command::new(self.victim.file("liar"));
        command
            .arg(seed.to_string())
            .arg(lies)
            .arg(self.canary.path());
        Hostile::start(command.uid(NOBODY).gid(NOBODY))
    }

    /// Runs a command line, which may take `timeout` for each of `processes`.
    pub(crate) fn run(&self, arguments: &[&str], timeout: u64, processes: u32) -> Result<Measured> {
        let mut command = self.engraft.command(arguments);
        command.args(["--timeout", &timeout.to_string()]);
        let limit = Duration::from_secs(timeout + 1) * processes + MARGIN;
        measured::run(&mut command, limit)
    }

    /// Has the honest process answer.
    pub(crate) fn expect(&mut self, patched: bool) -> Result<()> {
        self.honest
            .expect("5", if patched { "2005" } else { "1005" })
    }

    /// That the honest process is what it was, and so are files.
    pub(crate) fn check_untouched(&mut self) -> Result<()> {
        self.expect(false)?;
        self.before.expect_untouched()?;
        self.canary.check()
    }
}

/// A process that lies; it is killed when dropped.
pub(crate) struct Hostile {
    child: Child,
}

impl Hostile {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut hostile = Self { child };
        let stdout = hostile.child.stdout.take().context("no stdout")?;
        // One that dies of its own lies is ready, too.
        BufReader::new(stdout).read_line(&mut String::new())?;
        Ok(hostile)
    }

    pub(crate) fn pid(&self) -> String {
        self.child.id().to_string()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The agent's structures for the program in C.
fn agent_interface() -> Result<String> {
    let mut text = String::from("#include <stdint.h>\n");
    let magic = MAGIC.map(|byte| format!("\\x{byte:02x}")).join("\"\"");
    writeln!(
        text,
        "#define MAGIC \"{magic}\"\n#define AGENT_VERSION {VERSION}"
    )?;
    let response = offset_of!(Control, response);
    for (name, offset) in [
        ("VERSION", offset_of!(Control, version)),
        ("MAPPING_LENGTH", offset_of!(Control, mapping_length)),
        ("ENTER", offset_of!(Control, enter)),
        ("RESTORER", offset_of!(Control, restorer)),
        ("HOOK", offset_of!(Control, hook)),
        ("STACK_TOP", offset_of!(Control, stack_top)),
        ("ATTACHED", offset_of!(Control, attached)),
        ("VALUE", response + offset_of!(Response, value)),
        ("TEXT_LENGTH", response + offset_of!(Response, text_length)),
        ("TEXT", response + offset_of!(Response, text)),
        ("SNAPSHOT", offset_of!(Control, snapshot)),
        (
            "SNAPSHOT_GENERATION",
            offset_of!(Control, snapshot_generation),
        ),
        ("SNAPSHOT_LENGTH", offset_of!(Control, snapshot_length)),
        ("GENERATION", offset_of!(Control, generation)),
        ("CONTROLLED", offset_of!(Control, controlled)),
        ("HOLDER", offset_of!(Control, holder)),
        ("RANGES", offset_of!(Control, ranges)),
        ("RANGE_COUNT", offset_of!(Control, range_count)),
        ("SITES", offset_of!(Control, sites)),
        ("SITE_COUNT", offset_of!(Control, site_count)),
    ] {
        writeln!(text, "#define CONTROL_{name} {offset}")?;
    }
    let header = offset_of!(SnapshotHeader, transition);
    text += &structure(
        "header",
        size_of::<SnapshotHeader>(),
        &[
            ("length", offset_of!(SnapshotHeader, length)),
            ("patches", offset_of!(SnapshotHeader, patches)),
            (
                "transition_patch",
                header + offset_of!(SnapshotTransition, patch),
            ),
            (
                "to_patched",
                header + offset_of!(SnapshotTransition, to_patched),
            ),
            ("started", header + offset_of!(SnapshotTransition, started)),
            ("waiting", header + offset_of!(SnapshotTransition, waiting)),
            ("unwinders", offset_of!(SnapshotHeader, unwinders)),
        ],
    )?;
    text += &structure(
        "patch",
        size_of::<SnapshotPatch>(),
        &[
            ("number", offset_of!(SnapshotPatch, number)),
            ("name", offset_of!(SnapshotPatch, name)),
            ("state", offset_of!(SnapshotPatch, state)),
            ("objects", offset_of!(SnapshotPatch, objects)),
        ],
    )?;
    text += &structure(
        "object",
        size_of::<SnapshotObject>(),
        &[
            ("file_name", offset_of!(SnapshotObject, file_name)),
            ("functions", offset_of!(SnapshotObject, functions)),
            ("instances", offset_of!(SnapshotObject, instances)),
        ],
    )?;
    text += &structure(
        "instance",
        size_of::<SnapshotInstance>(),
        &[
            ("path", offset_of!(SnapshotInstance, path)),
            ("image", offset_of!(SnapshotInstance, image)),
            ("image_length", offset_of!(SnapshotInstance, image_length)),
        ],
    )?;
    Ok(text)
}

/// A structure of words at these offsets; tables and texts are words, too.
fn structure(name: &str, size: usize, fields: &[(&str, usize)]) -> Result<String> {
    let mut text = format!("struct {name} {{\n");
    let (mut at, mut fields) = (0, fields.to_vec());
    fields.sort_by_key(|(_, offset)| *offset);
    for (field, offset) in fields.into_iter().chain([("", size)]) {
        ensure!(offset >= at && offset % 8 == 0, "{name}.{field}");
        if offset > at {
            writeln!(text, "    uint64_t gap_{at}[{}];", (offset - at) / 8)?;
        }
        if !field.is_empty() {
            writeln!(text, "    uint64_t {field};")?;
        }
        at = offset + 8;
    }
    text += "};\n";
    Ok(text)
}
