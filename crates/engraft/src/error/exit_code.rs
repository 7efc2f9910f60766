//! Exit codes of the command line; 0 is success. They are part of the interface
//! (docs/exit-codes.md).

use engraft_abi::Outcome;
use engraft_build::BuildError;
use engraft_process::{
    MapsError, MemoryError, MemoryScanError, ModuleError, OpenError, RemoteCallError, StopError,
};

use crate::error::Error;

/// Something that should not happen; please report it.
pub const INTERNAL: u8 = 1;
/// The command line makes no sense (clap's code).
pub const USAGE: u8 = 2;
/// There is no such process, or it has ended meanwhile.
pub const NO_SUCH_PROCESS: u8 = 3;
/// This user may not touch the process.
pub const PERMISSION_DENIED: u8 = 4;
/// The patch file cannot be read, is damaged, or is no patch file.
pub const BAD_PATCH_FILE: u8 = 5;
/// The patch was made for another build of the program or library.
pub const DOES_NOT_FIT: u8 = 6;
/// The target's threads were busy in the code that is to be replaced, or in the loader.
pub const TARGET_BUSY: u8 = 7;
/// No patch could be built.
pub const BUILD_FAILED: u8 = 8;
/// The process cannot be patched: it is traced, of another architecture, ...
pub const NOT_PATCHABLE: u8 = 9;
/// No such patch is enabled in the process.
pub const NO_SUCH_PATCH: u8 = 10;
/// A patch's state does not allow what was asked for: it is enabled and cannot be removed, ...
pub const WRONG_STATE: u8 = 11;
/// Part of a fix is in none of the binaries that were named: the patch would be half of it.
pub const INCOMPLETE: u8 = 12;

impl Error {
    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Open(error) => match error {
                OpenError::NoSuchProcess { .. } | OpenError::Zombie { .. } => NO_SUCH_PROCESS,
                OpenError::PermissionDenied { .. } => PERMISSION_DENIED,
                OpenError::NotAProcess { .. }
                | OpenError::KernelThread { .. }
                | OpenError::ForeignArchitecture { .. }
                | OpenError::Ourselves { .. } => NOT_PATCHABLE,
                OpenError::Starting { .. } => TARGET_BUSY,
                OpenError::System { .. } => INTERNAL,
            },
            Self::ReadFile { .. } | Self::PatchFile { .. } | Self::TooLarge(_) => BAD_PATCH_FILE,
            Self::Build(BuildError::Incomplete { .. }) => INCOMPLETE,
            Self::Build(_) | Self::WriteFile { .. } => BUILD_FAILED,
            Self::WrongBuildId { .. } | Self::NothingToPatch { .. } => DOES_NOT_FIT,
            Self::ThreadInside { .. }
            | Self::InTransition { .. }
            | Self::AnotherController { .. }
            | Self::ThreadRefers { .. }
            | Self::ContextRefers { .. }
            | Self::LoaderBusy { .. } => TARGET_BUSY,
            Self::MemoryReplaced { .. } | Self::MemoryLeft { .. } | Self::FileLeft { .. } => {
                NOT_PATCHABLE
            }
            Self::TooManyLeftovers { .. } => NOT_PATCHABLE,
            Self::MemoryScan(MemoryScanError::Memory(error)) => memory_exit_code(error),
            Self::MemoryScan(_) => TARGET_BUSY,
            Self::NotUndone { source, .. }
            | Self::AddressSpace { source, .. }
            | Self::Reversed { source, .. }
            | Self::OtherTransition { source, .. } => source.exit_code(),
            Self::StillEnabled { .. } | Self::PatchesLeft { .. } | Self::NotInTransition { .. } => {
                WRONG_STATE
            }
            Self::NoneSelected { .. } => NO_SUCH_PROCESS,
            Self::NonePatched { .. } => NO_SUCH_PATCH,
            Self::SomeFailed { exit_code, .. } => *exit_code,
            Self::Agent { outcome, .. } => match outcome {
                Outcome::CodeDiffers | Outcome::SymbolMissing | Outcome::NoRoom => DOES_NOT_FIT,
                Outcome::NoSuchPatch => NO_SUCH_PATCH,
                Outcome::Busy
                | Outcome::LoaderBusy
                | Outcome::InTransition
                | Outcome::NotAllowed => TARGET_BUSY,
                Outcome::NotWritten
                | Outcome::NoMemory
                | Outcome::SystemCall
                | Outcome::Loader
                | Outcome::Broken => NOT_PATCHABLE,
                Outcome::Done | Outcome::AlreadyThere | Outcome::BadPayload => INTERNAL,
            },
            Self::Beyond(_)
            | Self::AgentVersion { .. }
            | Self::NoThread { .. }
            | Self::NoRoom { .. } => NOT_PATCHABLE,
            Self::NoProgram { .. } => NOT_PATCHABLE,
            Self::Stop(error) => match error {
                StopError::Gone { .. } | StopError::Executed { .. } => NO_SUCH_PROCESS,
                StopError::PermissionDenied { .. } => PERMISSION_DENIED,
                StopError::AlreadyTraced { .. } | StopError::CoreDumping { .. } => NOT_PATCHABLE,
                StopError::Vfork { .. }
                | StopError::Uninterruptible { .. }
                | StopError::Frozen { .. }
                | StopError::TimedOut { .. } => TARGET_BUSY,
                StopError::System { .. } => INTERNAL,
            },
            Self::RemoteCall(error) => match error {
                RemoteCallError::Gone { .. } => NO_SUCH_PROCESS,
                RemoteCallError::Memory(error) => memory_exit_code(error),
                RemoteCallError::Crashed { .. } => INTERNAL,
                RemoteCallError::TimedOut { .. } => TARGET_BUSY,
                _ => NOT_PATCHABLE,
            },
            Self::Memory(error) | Self::Modules(ModuleError::Memory(error)) => {
                memory_exit_code(error)
            }
            Self::Modules(ModuleError::Gone { .. } | ModuleError::Maps(MapsError::Gone { .. }))
            | Self::Maps(MapsError::Gone { .. }) => NO_SUCH_PROCESS,
            Self::Maps(MapsError::Beyond(_))
            | Self::Modules(ModuleError::Maps(MapsError::Beyond(_))) => NOT_PATCHABLE,
            Self::Maps(_)
            | Self::Modules(_)
            | Self::Blob(_)
            | Self::BadAnswer { .. }
            | Self::BadSnapshot { .. } => INTERNAL,
        }
    }
}

/// The process may end at any access to its memory.
fn memory_exit_code(error: &MemoryError) -> u8 {
    match error {
        MemoryError::Gone { .. } => NO_SUCH_PROCESS,
        MemoryError::PermissionDenied { .. } => PERMISSION_DENIED,
        MemoryError::Beyond(_) => NOT_PATCHABLE,
        MemoryError::OutOfTime { .. } => TARGET_BUSY,
        _ => INTERNAL,
    }
}
