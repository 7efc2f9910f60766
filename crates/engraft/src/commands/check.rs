//! A dry run: what would keep a patch from being applied to a process, seen from outside. Nothing is stopped,
//! nothing is written, and everything that is found is told, not just the first.
//!
//! What only a try can show is not seen: threads that are in the way at the moment of the change, and memory
//! policies (`PR_SET_MDWE`, SELinux), which the kernel shows nobody.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use engraft_abi::Outcome;
use engraft_machine::{PAGE_SIZE, jump};
use engraft_patch::{Function, Object, OldPart, Patch, RelocationTarget, site};
use engraft_process::foreign::escape_name;
use engraft_process::{
    BuildId, Maps, MemoryError, Module, ModuleError, Modules, Obstacles, Process, RemoteCallError,
    StopError, find_gap, may_suspend_filters,
};

use crate::agent::inject::Injection;
use crate::agent::payload;
use crate::agent::running::RunningAgent;
use crate::agent::snapshot::{PatchPhase, PatchStatus};
use crate::backoff::Backoff;
use crate::commands::objects::{ObjectPresence, check_presence, find_objects, wrong_build_id};
use crate::commands::status::{Status, status};
use crate::contexts::stack_switchers;
use crate::error::Error;

/// How often a process is looked at, at most, until no library comes or goes around two looks.
const MOST_LOOKS: usize = 20;

/// How often however little time there is.
const FEWEST_LOOKS: usize = 3;

/// What a dry run has found.
#[derive(Debug, Default)]
pub struct Checked {
    /// What would make `apply` fail, in the order in which it would find it.
    pub problems: Vec<Error>,
    /// What may be in the way, or not: in words.
    pub doubts: Vec<String>,
    /// What is loaded, and what is not: for that the patch would wait.
    pub presence: ObjectPresence,
    /// The patch is enabled already, so that `apply` would do nothing.
    pub already: bool,
}

/// Looks at a process as `apply` would, and changes nothing. Looks again while libraries come and go, up to
/// `timeout`.
pub fn check(process: &Process, patch: &Patch, timeout: Duration) -> Result<Checked, Error> {
    let backoff = Backoff::of(process, timeout);
    let pid = process.pid();
    let mut believed = None;
    let mut looks = 0;
    loop {
        looks += 1;
        let (modules, others) = find_objects(process, patch, &backoff)?;
        let mut checked = Checked::default();
        let others = others.into_iter();
        checked
            .problems
            .extend(others.map(|(object, found)| wrong_build_id(process, object, found)));
        let looked = checked.look(process, patch, &modules);
        let is_current = modules.are_current(process);
        let words: Vec<_> = checked.problems.iter().map(ToString::to_string).collect();
        let is_certain = words.is_empty() || believed.as_ref() == Some(&words);
        let waited = backoff.wait_briefly();
        let is_over = looks >= MOST_LOOKS || looks >= FEWEST_LOOKS && waited.is_err();
        match looked {
            Ok(()) if is_current && is_certain => return Ok(checked),
            Ok(()) if is_over && words.is_empty() => {
                let doubt =
                    "libraries came and went all the while, which may have hidden something";
                checked.doubts.push(doubt.to_owned());
                return Ok(checked);
            }
            // Of what came or went meanwhile, another look has to tell; and two have to agree on a problem.
            Ok(()) if is_current && !is_over => believed = Some(words),
            Err(error) if !is_unmapped(&error) => return Err(error),
            Ok(()) | Err(_) if !is_over => {}
            Ok(()) | Err(_) => return Err(Error::LoaderBusy { pid, timeout }),
        }
    }
}

/// Whether a library went while it was looked at.
fn is_unmapped(error: &Error) -> bool {
    matches!(
        error,
        Error::Memory(MemoryError::Unmapped { .. })
            | Error::Modules(ModuleError::Memory(MemoryError::Unmapped { .. }))
    )
}

impl Checked {
    fn look(&mut self, process: &Process, patch: &Patch, modules: &Modules) -> Result<(), Error> {
        self.presence = ObjectPresence::of_patch(patch, modules);
        let maps = process.maps()?;
        let unpresenceable = check_presence(process, patch, modules).err();
        let too_large = payload::encode(patch).err().map(Error::from);
        self.problems
            .extend(unpresenceable.into_iter().chain(too_large));
        let status = self.agent(process, modules, &maps);
        self.obstacles(process)?;
        let switchers = stack_switchers(process)?;
        let switchers: Vec<String> = switchers.iter().map(ToString::to_string).collect();
        if !switchers.is_empty() {
            self.doubts.push(format!(
                "it switches stacks, by {}: no thread will switch while a context is suspended in old code",
                switchers.join(", ")
            ));
        }
        let patches = status.as_ref().map_or(&[][..], |status| &status.patches);
        let is_it = |it: &PatchStatus| it.name == patch.name && it.state != PatchPhase::Disabled;
        self.already = patches.iter().any(is_it);
        if self.already {
            return Ok(());
        }
        for object in &patch.objects {
            let id = BuildId::new(object.build_id.as_bytes());
            for module in modules.with_build_id(&id) {
                let check = ModuleCheck {
                    process,
                    modules,
                    object,
                    module,
                    status: status.as_ref(),
                };
                check.run(&maps, &mut self.problems)?;
            }
        }
        self.tell_once();
        Ok(())
    }

    /// A library that is there in several namespaces has its problems in each.
    fn tell_once(&mut self) {
        let mut told = HashSet::new();
        self.problems
            .retain(|problem| told.insert(problem.to_string()));
    }

    /// The agent that is there, or the room for one.
    fn agent(&mut self, process: &Process, modules: &Modules, maps: &Maps) -> Option<Status> {
        let pid = process.pid();
        match RunningAgent::find(process) {
            Err(error) => self.problems.push(error),
            Ok(None) => {
                let injection = Injection::plan(process, modules);
                let possible = injection.and_then(|injection| injection.has_room(pid, maps));
                self.problems.extend(possible.err());
            }
            Ok(Some(_)) => match status(process) {
                Err(error) => self.problems.push(error),
                Ok(status) => {
                    if status.agent.as_ref().is_some_and(|agent| agent.broken) {
                        let text = "the agent found its own state damaged".to_owned();
                        self.problems
                            .push(agent_would_say(pid, Outcome::Broken, text));
                    }
                    return Some(status);
                }
            },
        }
        None
    }

    /// What would keep it from being stopped and called.
    fn obstacles(&mut self, process: &Process) -> Result<(), Error> {
        let pid = process.pid();
        let system = |operation| {
            move |source: io::Error| StopError::System {
                pid,
                operation,
                source,
            }
        };
        let obstacles = process.obstacles().map_err(system("list the threads"))?;
        let Obstacles {
            tracer,
            core_dumping,
            uninterruptible,
            seccomp,
            unconfined,
        } = obstacles;
        let tracer = tracer.map(|tracer| StopError::AlreadyTraced { pid, tracer });
        self.problems.extend(tracer.map(Error::from));
        if core_dumping {
            self.problems.push(StopError::CoreDumping { pid }.into());
        }
        if let Some(group) = process.frozen_by() {
            self.problems.push(StopError::Frozen { pid, group }.into());
        } else if let Some(tid) = uninterruptible {
            self.doubts.push(format!(
                "thread {tid} is in an uninterruptible sleep: if that lasts, the process cannot be stopped"
            ));
        }
        // Calls need one thread without a filter, or a filter that may be suspended.
        if let Some((tid, _)) = seccomp.first()
            && unconfined == 0
            && !may_suspend_filters()
        {
            let error = RemoteCallError::Seccomp { tid: *tid };
            self.problems.push(error.into());
        }
        Ok(())
    }
}

/// What the agent would answer.
fn agent_would_say(pid: i32, outcome: Outcome, text: String) -> Error {
    Error::Agent { pid, outcome, text }
}

/// One module that would be patched.
struct ModuleCheck<'a> {
    process: &'a Process,
    modules: &'a Modules,
    object: &'a Object,
    module: &'a Module,
    status: Option<&'a Status>,
}

impl ModuleCheck<'_> {
    fn run(&self, maps: &Maps, problems: &mut Vec<Error>) -> Result<(), Error> {
        for function in &self.object.functions {
            problems.extend(self.check_parts(function)?);
            if function.site().is_none() {
                let text = format!("function '{}' is shorter than a jump", function.name);
                problems.push(self.problem(Outcome::NoRoom, &text));
            }
        }
        problems.extend(self.check_imports()?);
        let length = payload::image_length(self.object);
        if find_gap(maps, &self.module.range(), length, PAGE_SIZE).is_none() {
            let start = self.module.range().start;
            let text = format!("no room for the new code within 2 GiB of the module at {start}");
            problems.push(self.problem(Outcome::NoMemory, &text));
        }
        Ok(())
    }

    fn problem(&self, outcome: Outcome, text: &str) -> Error {
        let path = match self.module.name.is_empty() {
            true => "the program".into(),
            false => escape_name(&self.module.name),
        };
        agent_would_say(self.process.pid(), outcome, format!("{path}: {text}"))
    }

    /// The first difference in a function: one part that differs tells of the others.
    fn check_parts(&self, function: &Function) -> Result<Option<Error>, Error> {
        for (index, part) in function.parts.iter().enumerate() {
            let problem = self.check_part(&function.name, part, index == 0)?;
            if problem.is_some() {
                return Ok(problem);
            }
        }
        Ok(None)
    }

    /// Compares code with what the patch was built against. Where other patches change the function, the
    /// place of the jump may hold one.
    fn check_part(
        &self,
        name: &str,
        part: &OldPart,
        is_entry: bool,
    ) -> Result<Option<Error>, Error> {
        let mut found = vec![0; part.code.len()];
        let start = self.module.address(part.address.0);
        self.process.memory().read(start, &mut found)?;
        let mut expected = part.code.clone();
        if is_entry
            && self.is_patched(name)
            && let Some(site) = site::of(&part.code)
        {
            let site = as_index(site.start)..as_index(site.end);
            let (to, from) = (expected.get_mut(site.clone()), found.get(site));
            if let (Some(to), Some(from @ [jump::OPCODE, ..])) = (to, from) {
                to.copy_from_slice(from);
            }
        }
        let mut pairs = found.iter().zip(&expected);
        let difference = pairs.position(|(found, expected)| found != expected);
        Ok(difference.map(|offset| {
            let address = part.address.0 + offset as u64;
            self.problem(
                Outcome::CodeDiffers,
                &format!(
                    "the code of function '{name}' differs at link-time address {address:#x} from what the \
                     patch was built against"
                ),
            )
        }))
    }

    /// Whether an enabled patch changes the function.
    fn is_patched(&self, function: &str) -> bool {
        let build_id = self.object.build_id.to_string();
        let patches = self.status.map_or(&[][..], |status| &status.patches);
        let mut objects = patches
            .iter()
            .filter(|patch| patch.state != PatchPhase::Disabled)
            .flat_map(|patch| &patch.objects)
            .filter(|object| object.build_id == build_id);
        objects.any(|object| object.functions.iter().any(|name| name == function))
    }

    /// The symbols that no module defines. Versions are not compared, so a symbol that is there in other
    /// versions only is not found out.
    fn check_imports(&self) -> Result<Vec<Error>, Error> {
        let mut names = Vec::new();
        for relocation in &self.object.image.relocations {
            if let RelocationTarget::Import(import) = &relocation.target
                && !import.weak
                && !names.contains(&import.name.as_str())
            {
                names.push(import.name.as_str());
            }
        }
        let mut problems = Vec::new();
        for name in names {
            let mut defined = false;
            for module in self.modules {
                let symbol = module.symbol(self.process.memory(), name.as_bytes())?;
                defined |= symbol.is_some();
            }
            if !defined {
                let text = format!("no loaded module defines the symbol '{name}'");
                problems.push(self.problem(Outcome::SymbolMissing, &text));
            }
        }
        Ok(problems)
    }
}

/// What is larger is behind the end of every slice.
fn as_index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
