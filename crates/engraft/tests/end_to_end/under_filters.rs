//! A thread that sleeps under a seccomp filter outlives every command, and its call returns what it
//! should, when it should: whatever the call, whatever the filter does to calls that it does not
//! allow, and wherever the command is killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use engraft_testkit::{
    Engraft, Outcome, Program, Snapshot, TIME_LIMIT, Victim, exit, is_root, run, skip,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{engraft, victim};

/// The calls that the kernel resumes where they were, by `restart_syscall`, after a stop.
const RESUMED: [&str; 4] = ["nanosleep", "clock_nanosleep", "poll", "futex"];
/// Those that it makes again from the start.
const REPEATED: [&str; 3] = ["select", "epoll_wait", "read"];
/// The numbers by which C libraries make each of them.
const NUMBERS: [(&str, &[i64]); 7] = [
    ("nanosleep", &[35]),
    ("clock_nanosleep", &[230]),
    ("poll", &[7]),
    ("futex", &[202]),
    ("select", &[23, 270]),
    ("epoll_wait", &[232]),
    ("read", &[0]),
];
/// What a filter does to a call that it does not allow.
const FILTERS: [&str; 3] = ["kill", "errno", "trap"];
const RESTART_SYSCALL: i64 = 219;
/// Longer than any test.
const FOR_EVER: &str = "100000";
/// Every so many effects in the short form.
const STRIDE: usize = 11;

/// A patch of what the thread calls, and one of the function that it sleeps in.
struct Place {
    engraft: Engraft,
    victim: Victim,
    fix: PathBuf,
    inside: PathBuf,
}

impl Place {
    fn new() -> Result<Self> {
        let (engraft, victim) = (engraft(), victim("filtered")?);
        let fix = victim.patch(&engraft, "fix.patch", "fix", &["filtered"])?;
        let inside = victim.patch(&engraft, "inside.patch", "inside", &["filtered"])?;
        Ok(Self {
            engraft,
            victim,
            fix,
            inside,
        })
    }

    fn start(&self, call: &'static str, filter: &str, seconds: &str) -> Result<Sleeper<'_>> {
        let program = self.victim.start("filtered", &[call, filter, seconds])?;
        Ok(Sleeper {
            place: self,
            call,
            program,
        })
    }
}

/// The program, and the call that its only thread sleeps in.
struct Sleeper<'p> {
    place: &'p Place,
    call: &'static str,
    program: Program,
}

impl Sleeper<'_> {
    /// Waits until the thread sleeps; the number of its call. A call that a killed command has
    /// begun in the thread is none: a signal that comes meanwhile is felt before the sleep goes on.
    fn await_sleep(&mut self) -> Result<i64> {
        let path = format!("/proc/{}/syscall", self.program.pid());
        loop {
            let Ok(text) = fs::read_to_string(&path) else {
                return Err(self.ended());
            };
            // In no call, and on no processor: it has ended, and nobody has waited for it.
            if text.starts_with("-1 ") {
                return Err(self.ended());
            }
            match text.split(' ').next().and_then(|word| word.parse().ok()) {
                Some(number) if self.is_asleep_in(number) => return Ok(number),
                _ => thread::yield_now(),
            }
        }
    }

    fn is_asleep_in(&self, number: i64) -> bool {
        let mut own = NUMBERS.iter().filter(|(call, _)| *call == self.call);
        number == RESTART_SYSCALL || own.any(|(_, numbers)| numbers.contains(&number))
    }

    /// It says how it has ended.
    fn ended(&mut self) -> anyhow::Error {
        anyhow!("{}: {:?}", self.call, self.program.next_line())
    }

    /// Fails unless the call was interrupted by this signal, and by nothing before; what a() says.
    fn ask(&mut self) -> Result<String> {
        self.interrupt()?;
        self.answer()
    }

    /// The same after a command was killed. Maybe nobody has answered the stop that it had asked
    /// for: the kernel restarts no `epoll_wait` then.
    fn ask_after_a_death(&mut self) -> Result<String> {
        self.interrupt()?;
        match self.answer() {
            Err(error) if self.call == "epoll_wait" && is_unanswered(&error) => self.answer(),
            answer => answer,
        }
    }

    fn interrupt(&mut self) -> Result<()> {
        self.await_sleep()?;
        let pid = i32::try_from(self.program.pid())?;
        kill_process(Pid::from_raw(pid).context("no process")?, Signal::USR1)?;
        Ok(())
    }

    fn answer(&mut self) -> Result<String> {
        let said = self.program.next_line().context(self.call)?;
        let answer = said.strip_suffix(" EINTR");
        Ok(answer.with_context(|| said.clone())?.to_owned())
    }

    fn expect(&mut self, answer: &str) -> Result<()> {
        let said = self.ask()?;
        ensure!(said == answer, "{}: {said}, not {answer}", self.call);
        Ok(())
    }

    fn command(&self, words: &[&str], more: &[(&str, usize)]) -> Result<Outcome> {
        let mut command = self.place.engraft.command(words);
        command.args(["--pid", &self.program.pid().to_string()]);
        for (name, value) in more {
            command.env(name, value.to_string());
        }
        run(&mut command, TIME_LIMIT)
    }

    fn patch(&self, words: &[&str], patch: &Path) -> Result<Outcome> {
        let patch = patch.to_str().context("a path that is no text")?;
        let (command, rest) = words.split_first().context("no command")?;
        self.command(&[&[*command, patch], rest].concat(), &[])
    }

    /// After a command that has stopped the thread: the kernel still knows how long it has yet to
    /// sleep.
    fn sleeps_on(&mut self) -> Result<()> {
        let number = self.await_sleep()?;
        let expected = RESUMED.contains(&self.call);
        ensure!(
            (number == RESTART_SYSCALL) == expected,
            "{} was resumed as call {number}",
            self.call
        );
        Ok(())
    }

    /// All commands for a patch of what the thread calls.
    fn all_commands(&mut self) -> Result<()> {
        let fix = self.place.fix.clone();
        for _ in 0..2 {
            self.patch(&["check"], &fix)?.exits(exit::OK)?;
            self.patch(&["apply"], &fix)?.exits(exit::OK)?;
            self.sleeps_on()?;
            self.command(&["status"], &[])?.exits(exit::OK)?;
            self.patch(&["apply"], &fix)?.exits(exit::OK)?;
            self.command(&["force", "fix"], &[])?
                .exits(exit::WRONG_STATE)?;
            self.sleeps_on()?;
            self.expect("a=101")?;
            self.step(&["disable", "fix"], "a=100")?;
            self.step(&["enable", "fix"], "a=101")?;
            self.step(&["disable", "fix"], "a=100")?;
            self.step(&["remove", "fix"], "a=100")?;
            self.step(&["remove", "--agent"], "a=100")?;
        }
        Ok(())
    }

    fn step(&mut self, words: &[&str], answer: &str) -> Result<()> {
        self.command(words, &[])?.exits(exit::OK)?;
        self.sleeps_on()?;
        self.expect(answer)
    }

    /// All commands for a patch of the function that the thread does not leave.
    fn all_commands_inside(&mut self) -> Result<()> {
        let inside = self.place.inside.clone();
        let briefly = ["--timeout", "0"];
        self.patch(&["apply", "--timeout", "0"], &inside)?
            .exits(exit::TARGET_BUSY)?;
        self.sleeps_on()?;
        self.command(&["status"], &[])?.exits(exit::OK)?;
        self.command(&[&["wait", "inside"][..], &briefly].concat(), &[])?
            .exits(exit::TARGET_BUSY)?;
        self.sleeps_on()?;
        self.command(&["force", "inside"], &[])?.exits(exit::OK)?;
        self.sleeps_on()?;
        self.expect("a=100")
    }

    /// The commands that end what one that was killed has begun, and take everything away.
    fn clean_up(&mut self) -> Result<()> {
        let fix = self.place.fix.clone();
        self.patch(&["apply"], &fix)?.exits(exit::OK)?;
        self.expect("a=101")?;
        for words in [&["disable", "fix"][..], &["remove", "fix"]] {
            self.command(words, &[])?.exits(exit::OK)?;
        }
        self.command(&["remove", "--agent"], &[])?.exits(exit::OK)?;
        self.expect("a=100")?;
        let changed = Snapshot::take(self.program.pid())?.text_bytes_unlike_files()?;
        ensure!(changed == 0, "{changed} bytes of code have changed");
        Ok(())
    }
}

fn is_unanswered(error: &anyhow::Error) -> bool {
    error
        .to_string()
        .ends_with("too early -1 Interrupted system call")
}

fn long_form() -> bool {
    std::env::var_os("ENGRAFT_LONG_TESTS").is_some()
}

fn as_root(test: &str) -> Result<Option<Place>> {
    if !is_root()? {
        skip(test, "only root can suspend filters");
        return Ok(None);
    }
    Place::new().map(Some)
}

fn calls() -> impl Iterator<Item = &'static str> {
    RESUMED.into_iter().chain(REPEATED)
}

/// Each call under each filter; in the short form each under one of them.
#[test]
fn all_commands() -> Result<()> {
    let Some(place) = as_root("under_filters::all_commands")? else {
        return Ok(());
    };
    for (index, call) in calls().enumerate() {
        for (number, filter) in FILTERS.into_iter().enumerate() {
            if long_form() || number == index % FILTERS.len() {
                let mut sleeper = place.start(call, filter, FOR_EVER)?;
                let all = sleeper.all_commands();
                all.and_then(|()| sleeper.all_commands_inside())
                    .with_context(|| format!("{call} under {filter}"))?;
            }
        }
    }
    Ok(())
}

/// A call whose time is up while the patch is there, or while it comes, says so, and not too early.
#[test]
fn a_call_whose_time_is_up() -> Result<()> {
    let Some(place) = as_root("under_filters::a_call_whose_time_is_up")? else {
        return Ok(());
    };
    for call in calls().filter(|call| *call != "read") {
        let mut sleeper = place.start(call, "kill", "2")?;
        sleeper.await_sleep()?;
        let fix = place.fix.clone();
        sleeper.patch(&["apply"], &fix)?.exits(exit::OK)?;
        sleeper.command(&["disable", "fix"], &[])?.exits(exit::OK)?;
        sleeper.command(&["remove", "fix"], &[])?.exits(exit::OK)?;
        let said = sleeper.program.next_line()?;
        let timed_out = match call {
            "futex" => "returned -1 Connection timed out",
            _ => "returned 0 -",
        };
        ensure!(said.ends_with(timed_out), "{call}: {said}");
    }
    Ok(())
}

/// The command is killed after each of its effects, under a filter that allows every call that
/// there is: the thread goes on by itself, and the next command brings everything to an end.
#[test]
fn the_command_is_killed() -> Result<()> {
    let Some(place) = as_root("under_filters::the_command_is_killed")? else {
        return Ok(());
    };
    let calls = match long_form() {
        true => &[
            "nanosleep",
            "clock_nanosleep",
            "poll",
            "futex",
            "select",
            "epoll_wait",
            "read",
        ][..],
        false => &["nanosleep", "poll", "read"],
    };
    for call in calls {
        let mut sleeper = place.start(call, "broad", FOR_EVER)?;
        let mut steps = 0;
        for command in ["apply", "disable", "remove", "remove --agent"] {
            let tried = each_effect(&mut sleeper, command);
            steps += tried.with_context(|| format!("{call}, {command}"))?;
        }
        println!("{call}: {steps} effects tried");
        ensure!(steps > 4, "there were only {steps} effects");
    }
    Ok(())
}

/// How many effects were tried.
fn each_effect(sleeper: &mut Sleeper<'_>, command: &str) -> Result<usize> {
    let stride = if long_form() { 1 } else { STRIDE };
    let fix = sleeper.place.fix.clone();
    let fix = fix.to_str().context("a path that is no text")?;
    let before: &[&[&str]] = &[&["apply", fix], &["disable", "fix"], &["remove", "fix"]];
    let (before, words) = match command {
        "apply" => (&before[..0], before[0]),
        "disable" => (&before[..1], before[1]),
        "remove" => (&before[..2], before[2]),
        _ => (before, &["remove", "--agent"][..]),
    };
    let mut steps = 0;
    for step in (1..).step_by(stride) {
        for words in before {
            sleeper.command(words, &[])?.exits(exit::OK)?;
        }
        // A call that no other command has interrupted: not everywhere can its number be found
        // again.
        sleeper.ask()?;
        let killed = sleeper.command(words, &[("ENGRAFT_PROCESS_DIE_AT", step)])?;
        (|| {
            let said = sleeper.ask_after_a_death()?;
            ensure!(said == "a=100" || said == "a=101", "{said}");
            sleeper.clean_up()
        })()
        .with_context(|| format!("effect {step}"))?;
        if killed.code.is_some() {
            killed.exits(exit::OK)?;
            break;
        }
        steps += 1;
    }
    Ok(steps)
}
