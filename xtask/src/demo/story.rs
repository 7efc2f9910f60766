//! The story of the demo, step by step.
//!
//! Each step does something, looks at what the server does, says it in words, and fails if the
//! server did something else. So what is printed was seen, and the story cannot drift from the
//! truth; [`Observed`] is the same for a test.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use engraft_testkit::{Engraft, Program, Snapshot, Victim, elf, exit};

use super::clients::{Answers, Client, Question, crowd};
use crate::cargo;

const THREADS: usize = 8;
const CROWD: usize = 3;
const PATCH: &str = "honest-length";
const HONEST: &str = "echo 5 hello";
const GREEDY: &str = "echo 60 hello";
const SECRET: &str = "password=";

/// What the server was seen to do.
#[derive(Debug)]
pub struct Observed {
    /// The answer to a client that asks for more than it sent, before the patch.
    pub before: String,
    /// The same with the patch.
    pub patched: String,
    /// The answers to the clients that asked while the patch was applied.
    pub crowd: Answers,
    /// How many engraft processes there were when the plugin was loaded.
    pub controllers: usize,
    /// The answer that the plugin's constructor received from the plugin's copy of the bug.
    pub constructor: String,
    /// The loader's words about a plugin that does not fit the patch.
    pub refusal: String,
    /// How many bytes of the server's and its libraries' code were changed while patched.
    pub changed_bytes: usize,
    /// The same after the patch was disabled, compared with the code before the patch and with the
    /// files.
    pub changed_bytes_after: (usize, usize),
    /// The answer to the greedy client after the patch was disabled.
    pub after: String,
}

/// Tells the story with this engraft.
pub fn tell(engraft: &Engraft, out: &mut dyn Write) -> Result<Observed> {
    let place = Victim::build(&cargo::workspace().join("demo"))?;
    let mut stage = Stage::open(engraft, &place, out)?;
    let before = stage.show_the_bug()?;
    let patch = stage.make_the_patch()?;
    let untouched = Snapshot::take(stage.server.pid())?;
    let (patched, crowd) = stage.patch_under_load(&patch, &before)?;
    let controllers = count_processes(engraft.program())?;
    let constructor = stage.load_a_plugin(controllers)?;
    let refusal = stage.load_a_plugin_that_does_not_fit()?;
    stage.ask_for_the_status()?;
    let changed_bytes = untouched.text_bytes_changed(&Snapshot::take(stage.server.pid())?);
    let (after, changed_bytes_after) = stage.take_it_back(&untouched, changed_bytes)?;
    stage.server.finish()?;
    Ok(Observed {
        before,
        patched,
        crowd,
        controllers,
        constructor,
        refusal,
        changed_bytes,
        changed_bytes_after,
        after,
    })
}

/// All that the steps share: the running server, and a client that stays connected all the time.
struct Stage<'a> {
    engraft: &'a Engraft,
    place: &'a Victim,
    out: &'a mut dyn Write,
    server: Program,
    socket: PathBuf,
    client: Client,
    chapter: usize,
}

impl<'a> Stage<'a> {
    fn open(engraft: &'a Engraft, place: &'a Victim, out: &'a mut dyn Write) -> Result<Self> {
        let socket = place.file("socket");
        let path = socket
            .to_str()
            .context("the temporary directory has an odd name")?;
        let server = place.start("server", &[path, &THREADS.to_string()])?;
        let client = Client::connect(&socket)?;
        Ok(Self {
            engraft,
            place,
            out,
            server,
            socket,
            client,
            chapter: 0,
        })
    }

    fn show_the_bug(&mut self) -> Result<String> {
        self.begin("A server has a bug")?;
        let (pid, threads) = (self.server.pid(), self.server.threads()?);
        self.say(&format!(
            "demo/server.c runs as process {pid} with {threads} threads."
        ))?;
        self.say("A client may ask it to send the first so many bytes of a text back:")?;
        let honest = self.ask(HONEST)?;
        ensure!(honest == "hello", "the server does not echo");
        self.say("It believes any number, though, and sends what lies behind the text in memory:")?;
        let leak = self.ask(GREEDY)?;
        ensure!(leak.contains(SECRET), "the server does not show its bug");
        Ok(leak)
    }

    fn make_the_patch(&mut self) -> Result<PathBuf> {
        self.begin("The source fix becomes a patch file")?;
        self.say("demo/fix.patch corrects the server, and a plugin that has the same mistake.")?;
        self.say("engraft build --patch fix.patch --binary server --binary plugin.so -- make")?;
        let binaries = ["server", "plugin.so"];
        let (outcome, patch) = self
            .place
            .try_patch(self.engraft, "fix.patch", PATCH, &binaries)?;
        let outcome = outcome.exits(exit::OK)?;
        self.quote(&outcome.stdout)?;
        let size = fs::metadata(&patch)?.len();
        let took = outcome.took.as_secs_f32();
        self.say(&format!("A file of {size} bytes, made in {took:.1} s."))?;
        Ok(patch)
    }

    fn patch_under_load(&mut self, patch: &Path, leak: &str) -> Result<(String, Answers)> {
        self.begin("The running server is patched while clients ask")?;
        let question = Question {
            line: GREEDY,
            old: leak.to_owned(),
            new: "hello".to_owned(),
        };
        let crowd = crowd(&self.socket, CROWD, &question)?;
        crowd.wait_until(|answers| answers.old >= 100)?;
        self.say(&format!(
            "{CROWD} clients ask {GREEDY:?} as fast as they can."
        ))?;
        let pid = self.server.pid();
        self.say(&format!("engraft apply {PATCH}.engraft --pid {pid}"))?;
        let outcome = self.engraft.apply(patch, pid)?.exits(exit::OK)?;
        self.quote(&outcome.stdout)?;
        crowd.wait_until(|answers| answers.new >= 100)?;
        let answers = crowd.stop()?;
        let Answers {
            old,
            new,
            wrong,
            dropped,
        } = answers;
        self.say(&format!(
            "They got {old} answers with the password, then {new} without;"
        ))?;
        self.say(&format!(
            "{wrong} answers were anything else, {dropped} connections broke."
        ))?;
        ensure!(
            wrong == 0 && dropped == 0,
            "the clients noticed more than the fix"
        );
        self.say(&format!(
            "The same process {pid}, on a connection from before the patch:"
        ))?;
        let answer = self.ask(GREEDY)?;
        ensure!(answer == "hello", "the bug is still there");
        Ok((answer, answers))
    }

    fn load_a_plugin(&mut self, controllers: usize) -> Result<String> {
        self.begin("A plugin that is loaded later is fixed before it runs")?;
        self.say(&format!(
            "{controllers} processes of engraft are running now."
        ))?;
        ensure!(controllers == 0, "engraft should have nothing left to do");
        let plugin = self.place.file("plugin.so");
        self.say("The server loads plugin.so, as built from the source with the mistake:")?;
        let loaded = self.ask_quietly(&format!("load {}", plugin.display()))?;
        self.dialogue("load plugin.so", &loaded)?;
        ensure!(loaded == "loaded", "the plugin was not loaded");
        self.say("Its constructor ran during the load and tried the mistake with 60 bytes:")?;
        let tried = self.ask("tried")?;
        ensure!(tried == "PLUGIN", "the constructor ran the old code");
        let shout = self.ask("shout 60 hello")?;
        ensure!(shout == "HELLO", "the plugin runs the old code");
        Ok(tried)
    }

    fn load_a_plugin_that_does_not_fit(&mut self) -> Result<String> {
        self.begin("A plugin that cannot be fixed does not get in")?;
        let damaged = self.place.file("damaged.so");
        elf::copy_with_other_code(&self.place.file("plugin.so"), &damaged, "shout", 0)?;
        self.say("damaged.so is a copy of plugin.so with one other byte in that function:")?;
        let refusal = self.ask_quietly(&format!("load {}", damaged.display()))?;
        self.dialogue("load damaged.so", &refusal)?;
        ensure!(
            refusal.contains(PATCH),
            "the refusal does not name the patch"
        );
        self.say("The server goes on with what it has:")?;
        let shout = self.ask("shout 60 hello")?;
        ensure!(shout == "HELLO", "the plugin is not as it was");
        Ok(refusal)
    }

    fn ask_for_the_status(&mut self) -> Result<()> {
        self.begin("The process itself knows what it runs")?;
        let pid = self.server.pid().to_string();
        self.say(&format!("engraft status --pid {pid}"))?;
        let mut status = self.engraft.command(["status", "--pid", &pid]);
        let outcome = engraft_testkit::run(&mut status, engraft_testkit::TIME_LIMIT)?;
        let outcome = outcome.exits(exit::OK)?.says(&[PATCH])?;
        self.quote(&outcome.stdout)
    }

    fn take_it_back(
        &mut self,
        untouched: &Snapshot,
        changed: usize,
    ) -> Result<(String, (usize, usize))> {
        self.begin("The patch is taken back")?;
        let size = untouched.text_bytes() / 1024;
        self.say(&format!(
            "The server and its libraries have {size} KiB of code in memory,"
        ))?;
        self.say(&format!(
            "of which {changed} bytes differ from before the patch."
        ))?;
        let pid = self.server.pid();
        self.say(&format!("engraft disable {PATCH} --pid {pid}"))?;
        let outcome = self.engraft.disable(PATCH, pid)?.exits(exit::OK)?;
        self.quote(&outcome.stdout)?;
        let now = Snapshot::take(pid)?;
        let left = (
            untouched.text_bytes_changed(&now),
            now.text_bytes_unlike_files()?,
        );
        self.say(&format!(
            "Now {} bytes differ from before the patch, and {} bytes",
            left.0, left.1
        ))?;
        self.say("from the files on disk, the plugin's included. So the bug is back:")?;
        ensure!(left == (0, 0), "the code is not what it was");
        let answer = self.ask(GREEDY)?;
        ensure!(answer.contains(SECRET), "the fixed code still runs");
        Ok((answer, left))
    }

    fn begin(&mut self, title: &str) -> Result<()> {
        self.chapter += 1;
        let chapter = self.chapter;
        Ok(writeln!(self.out, "\n{chapter}. {title}")?)
    }

    fn say(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.out, "   {line}")?)
    }

    /// Shows what a command printed.
    fn quote(&mut self, output: &str) -> Result<()> {
        output
            .lines()
            .try_for_each(|line| Ok(writeln!(self.out, "   | {line}")?))
    }

    fn dialogue(&mut self, question: &str, answer: &str) -> Result<()> {
        Ok(writeln!(self.out, "       {question:<18} -> {answer}")?)
    }

    /// Asks the server and shows question and answer.
    fn ask(&mut self, question: &str) -> Result<String> {
        let answer = self.ask_quietly(question)?;
        self.dialogue(question, &answer)?;
        Ok(answer)
    }

    fn ask_quietly(&mut self, question: &str) -> Result<String> {
        self.client
            .ask(question)
            .with_context(|| format!("failed to ask {question:?}"))
    }
}

/// How many processes run this program.
fn count_processes(program: &Path) -> Result<usize> {
    let program = fs::canonicalize(program)?;
    let processes = fs::read_dir("/proc")?.flatten();
    // An entry that is no process, or whose process has ended, has no such link.
    Ok(processes
        .filter(|entry| fs::read_link(entry.path().join("exe")).ok().as_ref() == Some(&program))
        .count())
}
