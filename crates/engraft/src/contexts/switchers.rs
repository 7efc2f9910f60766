//! How a program switches stacks, recognised by the names of functions that it has or uses.

use std::fmt;

use engraft_process::{Module, ModuleKind, Process};
use serde::Serialize;

use crate::error::Error;
use crate::modules::stable;

/// Functions of the C library that resume another context.
const USER_CONTEXTS: [&str; 3] = ["swapcontext", "setcontext", "makecontext"];

/// Functions that switch stacks in well-known libraries and runtimes, as a library or linked into
/// the program.
const OTHERS: [&str; 24] = [
    // Boost.Context, and with it Boost.Fiber, Boost.Coroutine, Folly, PHP.
    "jump_fcontext",
    "ontop_fcontext",
    "make_fcontext",
    // bthread, tbox.
    "bthread_jump_fcontext",
    "tb_context_jump",
    // libco (the one of higan and that of Tencent), libaco, libcoro, minicoro.
    "co_switch",
    "coctx_swap",
    "acosw",
    "aco_yield1",
    "coro_transfer",
    "_mco_switch",
    // libtask, GNU Pth, State Threads.
    "taskyield",
    "pth_yield",
    "st_thread_create",
    // Ruby, PHP, LuaCoco, Python's greenlet.
    "coroutine_transfer",
    "zend_fiber_switch_context",
    "lua_newcthread",
    "PyInit__greenlet",
    // Go, D, Julia, OCaml.
    "runtime.gogo",
    "fiber_switchContext",
    "jl_switch",
    "caml_perform",
    // QEMU.
    "qemu_coroutine_switch",
    "qemu_coroutine_new",
];

/// A function by which a program switches stacks, so that it may have suspended contexts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StackSwitcher {
    /// The function's name.
    pub function: String,
    /// The loader's name of the module that imports or defines it; empty for the main program.
    pub path: String,
}

impl StackSwitcher {
    pub(super) fn is_user_context(&self) -> bool {
        USER_CONTEXTS.contains(&self.function.as_str())
    }
}

impl fmt::Display for StackSwitcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self.path.as_str() {
            "" => "the program",
            path => path,
        };
        write!(f, "{} ({path})", self.function)
    }
}

/// The known functions for switching stacks that the program or a library of a process imports or
/// defines. The C library, which defines some for other modules, does not count.
///
/// # Errors
/// If the modules of the process cannot be read. A library whose symbols cannot be read is left
/// out.
pub fn stack_switchers(process: &Process) -> Result<Vec<StackSwitcher>, Error> {
    let mut found = Vec::new();
    let names: Vec<&str> = USER_CONTEXTS.iter().chain(&OTHERS).copied().collect();
    for module in &stable::modules(process)? {
        if matches!(module.kind, ModuleKind::Loader | ModuleKind::Vdso) {
            continue;
        }
        // A library that is unloaded meanwhile, or that is damaged, does not hide the others.
        let functions = match functions(process, module, &names) {
            Ok(functions) => functions,
            Err(error) if process.is_alive() => {
                tracing::debug!(%error, name = ?module.name, "symbols not understood");
                continue;
            }
            Err(error) => return Err(error),
        };
        let path = match module.kind {
            ModuleKind::Program => String::new(),
            _ => module.name.to_string_lossy().into_owned(),
        };
        found.extend(functions.into_iter().map(|function| StackSwitcher {
            function: function.to_owned(),
            path: path.clone(),
        }));
    }
    Ok(found)
}

fn functions<'n>(
    process: &Process,
    module: &Module,
    names: &[&'n str],
) -> Result<Vec<&'n str>, Error> {
    // Only the C library defines this.
    let starts_programs = module.symbol(process.memory(), b"__libc_start_main")?;
    if starts_programs.is_some() && module.kind == ModuleKind::Library {
        return Ok(Vec::new());
    }
    Ok(module
        .functions_named(process, names)?
        .into_iter()
        .collect())
}
