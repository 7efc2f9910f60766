//! What cannot be patched, by name.

use std::path::PathBuf;

use engraft_patch::LinkAddress;

use super::mismatch::Mismatch;
use super::unmovable::Unmovable;

/// One reason why a fix cannot become a patch as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The fix changes data that lives in the process already.
    #[error(
        "{name} ({source_file}): the fix changes its initial value or size, but it exists already in the process{}",
        used_by(users)
    )]
    ChangedData {
        /// The variable.
        name: String,
        /// Its source file.
        source_file: PathBuf,
        /// For read-only data: code and data that still use the old one.
        users: Vec<String>,
    },
    /// The fix changes how a type lies in memory.
    #[error(
        "{name} ({file}:{line}): the fix changes its layout, and memory made before the patch has the old one: {}{} (hint: leave the type as it is; or, if nothing of it is alive in a process when the patch is applied, --accept-layout '{name}')",
        differences.join("; "),
        used_by(users)
    )]
    ChangedLayout {
        /// The type, or variable.
        name: String,
        /// Where the original declares it.
        file: String,
        /// The line there.
        line: u64,
        /// What is different, old and new.
        differences: Vec<String>,
        /// Functions that use it.
        users: Vec<String>,
    },
    /// The fix adds or changes a thread-local variable.
    #[error(
        "{name} ({source_file}): the fix adds or changes this thread-local variable, and threads have their memory already"
    )]
    ThreadLocal {
        /// The variable.
        name: String,
        /// Its source file.
        source_file: PathBuf,
    },
    /// The fix changes which functions run at load and unload.
    #[error(
        "{source_file}: the fix adds, removes or changes constructors or destructors, which have run already"
    )]
    LoaderCalls {
        /// The source file.
        source_file: PathBuf,
    },
    /// The fix changes the choice that the loader made.
    #[error("{function}: the fix changes an IFUNC resolver, which has run already")]
    Resolver {
        /// The function.
        function: String,
    },
    /// What the code needs when an exception comes through it cannot be brought along.
    #[error(
        "{function}: it handles exceptions or cleanups by unwind tables of a kind that a patch cannot bring"
    )]
    ExceptionTable {
        /// The function.
        function: String,
    },
    /// The unwind tables of the old function are known for another layout of its code only.
    #[error(
        "{function}: its unwind tables are known for what the source compiles to only, where an instruction is at function + {expected}, and {binary} has it at function + {found} (hint: binaries compiled with -ffunction-sections are laid out as the compiler does here)"
    )]
    OtherLayout {
        /// The function.
        function: String,
        /// The binary's file name.
        binary: String,
        /// Where the compiler puts the first instruction that is elsewhere in the binary.
        expected: Hex,
        /// Where it is there.
        found: Hex,
    },
    /// The linker made the code, from more than this source.
    #[error(
        "{source_file} is compiled for link-time optimisation (LTO), and the fix changes {}: the linker makes that code, from all sources at once, and engraft cannot make it again yet (hint: a binary built with -fno-lto can be patched)",
        names(functions)
    )]
    LinkTimeOptimisation {
        /// What the fix changes, functions and variables.
        functions: Vec<String>,
        /// Its source file.
        source_file: PathBuf,
    },
    /// The compiler added code and data that a patch would have to go on with.
    #[error(
        "{source_file} is compiled with {option}, and the fix changes {}: the code that this adds keeps accounts in the program, which new code cannot go on with (hint: a binary built without that option can be patched)",
        names(functions)
    )]
    Instrumented {
        /// What the fix changes, functions and variables.
        functions: Vec<String>,
        /// Its source file.
        source_file: PathBuf,
        /// The option.
        option: String,
    },
    /// Assembly has no functions that could be told apart.
    #[error("{source_file}: the fix changes code written in assembly")]
    Assembly {
        /// The source file.
        source_file: PathBuf,
    },
    /// The binary does not have the function.
    #[error(
        "{function} ({source_file}) is not in {binary} (hint: --binary names every file that contains fixed functions; a stripped one may need its symbols)"
    )]
    FunctionNotInBinary {
        /// The function.
        function: String,
        /// Its source file.
        source_file: PathBuf,
        /// The binary's file name.
        binary: String,
    },
    /// The binary was built from something else.
    #[error(
        "{function} in {binary} is not what the source compiles to: {mismatch} (hint: the same source, compiler and options as the binary's are needed)"
    )]
    CodeDiffers {
        /// The function.
        function: String,
        /// The binary's file name.
        binary: String,
        /// Where it differs first.
        mismatch: Mismatch,
    },
    /// More than one place in the binary could be meant.
    #[error("{function} could be at {} in {binary}", addresses(places))]
    AmbiguousFunction {
        /// The function.
        function: String,
        /// The binary's file name.
        binary: String,
        /// The places.
        places: Vec<LinkAddress>,
    },
    /// No room for the jump to the new code.
    #[error("{function} has {size} bytes; the jump to new code needs {minimum}")]
    TooShort {
        /// The function.
        function: String,
        /// Its size in the binary.
        size: u64,
        /// What is needed.
        minimum: u64,
    },
    /// The function jumps into the bytes that the jump to new code replaces.
    #[error(
        "{function}: the instruction at {from} leads to {to}, into the bytes that the jump to new code replaces"
    )]
    JumpIntoEntry {
        /// The function.
        function: String,
        /// Where the jump is.
        from: Hex,
        /// Where it goes.
        to: Hex,
    },
    /// Threads that are in the old function must go on with it, so its first instructions have to
    /// be moved.
    #[error(
        "{function}: the instruction {} at {address}, which the jump to new code replaces, cannot be moved: {reason}",
        hexadecimal(bytes)
    )]
    UnmovableInstruction {
        /// The function.
        function: String,
        /// Where the instruction is.
        address: Hex,
        /// Its bytes.
        bytes: Vec<u8>,
        /// Why.
        reason: Unmovable,
    },
    /// New code needs something of the binary whose address is not known.
    #[error(
        "{function} uses {symbol}, whose address in {binary} is not known (hint: a binary with symbols tells more)"
    )]
    UnknownAddress {
        /// The new code.
        function: String,
        /// What it uses.
        symbol: String,
        /// The binary's file name.
        binary: String,
    },
    /// A static variable of the fixed source could be several of the original.
    #[error("{function} uses {symbol}, and which variable of the original that is cannot be told")]
    AmbiguousVariable {
        /// The new code.
        function: String,
        /// The variable.
        symbol: String,
    },
    /// New code takes the address of another module's symbol in a way that only works inside one
    /// module.
    #[error(
        "{function} refers directly to {symbol}, which another module defines and {binary} did not use so far (hint: a binary compiled with -fPIC allows it)"
    )]
    ImportByAddress {
        /// The new code.
        function: String,
        /// The symbol.
        symbol: String,
        /// The binary's file name.
        binary: String,
    },
    /// New code computes the address of a symbol that nothing defines from its own.
    #[error(
        "{function} refers to {symbol} by its distance, but nothing in {binary} defines it and its address is 0 (hint: a binary compiled with -fPIC allows it)"
    )]
    DistanceToNull {
        /// The new code.
        function: String,
        /// The weak symbol.
        symbol: String,
        /// The binary's file name.
        binary: String,
    },
    /// New code uses a thread-local variable in a way that the binary's code did not.
    #[error(
        "{function} uses the thread-local variable {symbol}, whose place cannot be told from the code of {binary}"
    )]
    ThreadLocalPlace {
        /// The new code.
        function: String,
        /// The variable.
        symbol: String,
        /// The binary's file name.
        binary: String,
    },
    /// New code refers into the middle of an old function.
    #[error("{function} refers into the middle of {symbol}")]
    InsideFunction {
        /// The new code.
        function: String,
        /// The old function.
        symbol: String,
    },
    /// New code hands out a function that takes its return address for its caller.
    #[error(
        "{function} takes the address of {symbol}, which looks up the module of its caller, and new code is in no module (hint: new code that calls {symbol} directly is taken for its module)"
    )]
    CallerByAddress {
        /// The new code.
        function: String,
        /// What it takes the address of.
        symbol: String,
    },
    /// New code calls a function that takes its return address for its caller, and the binary
    /// cannot call it instead.
    #[error(
        "{function} calls {symbol}, which looks up the module of its caller; new code is in no module, and no instructions of {binary} could make the call for it (hint: functions that the fix leaves alone can call {symbol})"
    )]
    NoCallPoint {
        /// The new code.
        function: String,
        /// What it calls.
        symbol: String,
        /// The binary's file name.
        binary: String,
    },
    /// A relocation that is not handled.
    #[error(
        "{function} refers to {symbol} by relocation type {r_type} of the x86-64 psABI, which is not supported"
    )]
    UnsupportedRelocation {
        /// The new code.
        function: String,
        /// What it refers to.
        symbol: String,
        /// Its number.
        r_type: u32,
    },
}

/// An address that is shown in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hex(pub u64);

impl std::fmt::Display for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let bytes = bytes.iter().map(|byte| format!("{byte:02x}"));
    bytes.collect::<Vec<_>>().join(" ")
}

fn names(names: &[String]) -> String {
    match names {
        [] => "code that only the fixed source has".to_owned(),
        names => names.join(", "),
    }
}

fn used_by(users: &[String]) -> String {
    if users.is_empty() {
        return String::new();
    }
    const SHOWN: usize = 12;
    let more = match users.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let users = users.get(..SHOWN).unwrap_or(users).join(", ");
    format!("; used by {users}{more}")
}

fn addresses(places: &[LinkAddress]) -> String {
    places
        .iter()
        .map(|place| format!("{:#x}", place.0))
        .collect::<Vec<_>>()
        .join(", ")
}
