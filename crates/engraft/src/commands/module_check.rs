//! Checking whether a patch fits into one module: the refusals of the agent, foreseen from outside.

use std::ops::Range;

use engraft_abi::{ModuleRefusal, RefusalText};
use engraft_machine::{PAGE_SIZE, jump};
use engraft_patch::{Function, Object, OldPart, RelocationTarget, site};
use engraft_process::foreign::{escape_bytes, escape_name};
use engraft_process::{Maps, Module, Modules, Process, TargetAddress, find_gap};
use object::elf::{PF_X, PT_LOAD};

use crate::agent::module_list::find_fde;
use crate::agent::payload;
use crate::agent::snapshot::{PatchPhase, PatchStatus};
use crate::error::Error;

/// The check of one module that is an object of the patch.
pub(super) struct ModuleCheck<'a> {
    pub(super) process: &'a Process,
    pub(super) modules: &'a Modules,
    pub(super) object: &'a Object,
    pub(super) module: &'a Module,
    /// The patches that the process has.
    pub(super) patches: &'a [PatchStatus],
}

impl ModuleCheck<'_> {
    /// Returns why the agent would refuse the patch.
    pub(super) fn run(&self, maps: &Maps) -> Result<Vec<Error>, Error> {
        let mut problems = Vec::new();
        let unwinder = find_fde(self.process, self.module);
        for function in &self.object.functions {
            problems.extend(self.check_function(function, unwinder)?);
        }
        self.check_imports(&mut problems)?;
        let length = payload::image_length(self.object);
        let range = self.module.range();
        if find_gap(maps, &range, length, PAGE_SIZE).is_none() {
            let module = range.start.get();
            problems.push(self.problem(ModuleRefusal::NoRoom { module }));
        }
        Ok(problems)
    }

    /// The error with which the agent would refuse the patch.
    fn problem(&self, refusal: ModuleRefusal<'_>) -> Error {
        let path = match self.module.name.is_empty() {
            true => "the program".into(),
            false => escape_name(&self.module.name),
        };
        let words = refusal.describe(Words::default()).0;
        Error::Agent {
            pid: self.process.pid(),
            outcome: refusal.outcome(),
            text: format!("{path}: {}", escape_bytes(&words)),
        }
    }

    /// The first problem of a function: if one part differs, the others most likely differ, too.
    fn check_function(
        &self,
        function: &Function,
        unwinder: Option<TargetAddress>,
    ) -> Result<Option<Error>, Error> {
        for (index, part) in function.parts.iter().enumerate() {
            let range = self.range(part);
            if unwinder.is_some_and(|it| range.contains(&it)) {
                return Ok(Some(self.problem(ModuleRefusal::Unwinder)));
            }
            let refusal = self.check_part(&function.name, part, index == 0)?;
            if let Some(refusal) = refusal {
                return Ok(Some(self.problem(refusal)));
            }
        }
        Ok(None)
    }

    /// Compares code with what the patch was built against. If another patch changes the function,
    /// there may be a jump at its site.
    fn check_part<'n>(
        &self,
        name: &'n str,
        part: &OldPart,
        is_entry: bool,
    ) -> Result<Option<ModuleRefusal<'n>>, Error> {
        let function = name.as_bytes();
        let range = self.range(part);
        if !self.is_code(&range) {
            let address = part.address.0;
            return Ok(Some(ModuleRefusal::NotCode { function, address }));
        }
        let mut found = vec![0; part.code.len()];
        self.process.memory().read(range.start, &mut found)?;
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
            ModuleRefusal::CodeDiffers { function, address }
        }))
    }

    fn range(&self, part: &OldPart) -> Range<TargetAddress> {
        self.module
            .address(part.address.0)
            .range(part.code.len() as u64)
    }

    /// Whether all of the range is in one executable segment.
    fn is_code(&self, range: &Range<TargetAddress>) -> bool {
        let mut headers = self.module.program_headers.iter();
        headers.any(|header| {
            let start = self.module.address(header.address);
            let end = start + header.memory_size;
            let is_executable = header.kind == PT_LOAD.0 && header.flags & PF_X.0 != 0;
            is_executable && start <= range.start && range.end <= end
        })
    }

    /// Whether an enabled patch changes the function.
    fn is_patched(&self, function: &str) -> bool {
        let build_id = self.object.build_id.to_string();
        let mut objects = self
            .patches
            .iter()
            .filter(|patch| patch.state != PatchPhase::Disabled)
            .flat_map(|patch| &patch.objects)
            .filter(|object| object.build_id == build_id);
        objects.any(|object| object.functions.iter().any(|name| name == function))
    }

    /// Adds the symbols that no module defines. Versions are not compared, so a symbol that is
    /// there only in another version is not noticed.
    fn check_imports(&self, problems: &mut Vec<Error>) -> Result<(), Error> {
        let mut seen = Vec::new();
        for relocation in &self.object.image.relocations {
            let RelocationTarget::Import(import) = &relocation.target else {
                continue;
            };
            if import.weak || seen.contains(&import) {
                continue;
            }
            seen.push(import);
            let name = import.name.as_bytes();
            if !self.is_defined(name)? {
                let version = import.version.as_deref().unwrap_or_default().as_bytes();
                problems.push(self.problem(ModuleRefusal::SymbolMissing { name, version }));
            }
        }
        Ok(())
    }

    fn is_defined(&self, name: &[u8]) -> Result<bool, Error> {
        for module in self.modules {
            if module.symbol(self.process.memory(), name)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The words of a refusal.
#[derive(Default)]
struct Words(Vec<u8>);

impl RefusalText for Words {
    fn push(mut self, part: &[u8]) -> Self {
        self.0.extend_from_slice(part);
        self
    }

    fn push_hexadecimal(self, value: u64) -> Self {
        self.push(format!("{value:#x}").as_bytes())
    }
}

/// The offset as an index; one that is too large is after the end of every slice.
fn as_index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
