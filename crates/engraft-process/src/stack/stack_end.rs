//! Where stacks end, and whether the end shows that a stack is the thread's own.
//!
//! A frame whose return address is marked as undefined has no caller. These frames are marked so:
//! - `_start` of a program, which holds the entry point of its file: the first thread's stack ends
//!   there.
//! - The child's part of `clone` and `clone3` in glibc: a thread was *born* there. The code makes
//!   the system call that starts a thread, calls the thread's function, and makes the system call
//!   `exit`, which ends the thread when the function returns.
//! - `__start_context` in glibc: a coroutine made by `makecontext` was started there. This is no
//!   known end: another context may be suspended, to be resumed from here (`uc_link`) or from
//!   anywhere, and its frames are on no stack that is in use. Nor is a return address of zero a
//!   known end: coroutine libraries use it.
//!
//! # Whose stack it is
//! A birth shows that a thread was born on this stack, and that no older frames are on it. But
//! libraries that switch contexts may continue a thread on the stack on which another one was born,
//! while frames of its own wait on its own stack. So one of these must be true besides:
//! - The stack is the first thread's, by its name.
//! - The thread control block is above the end, as the C libraries put it on the stacks that they
//!   make.
//! - The thread was made by a plain `clone`, on whatever memory, and not by the C library: it has
//!   no robust list, which glibc registers in every thread that it makes, and in every process that
//!   forks. And no living thread that glibc has made has its control block, which holds that list,
//!   above the end. One case cannot be seen: threads made by plain `clone` that exchange the stacks
//!   on which they were born, or that continue on the stack of a glibc thread that has ended.

use std::cell::OnceCell;

use crate::memory::maps::{Mapping, Maps};
use crate::memory::page_cache::PageCache;
use crate::process::handle::Process;
use crate::stack::own_stack::{holds_thread, is_own_stack};
use crate::stack::walk_error::WalkError;
use crate::sys::address::TargetAddress;
use crate::sys::robust_list;
use crate::trace::thread_state::ThreadState;

/// `mov $56, %eax; syscall` and `mov $435, %eax; syscall`: `clone` and `clone3`.
const CREATE: &[&[u8]] = &[
    &[0xb8, 56, 0, 0, 0, 0x0f, 0x05],
    &[0xb8, 0xb3, 0x01, 0, 0, 0x0f, 0x05],
];
/// How closely that code precedes the return address of the thread's function, in bytes.
const CREATE_WITHIN: usize = 64;
/// `mov $60, %eax; syscall`: the thread ends itself.
const EXIT: &[&[u8]] = &[&[0xb8, 60, 0, 0, 0, 0x0f, 0x05]];
/// How closely that code follows the return address, in bytes.
const EXIT_WITHIN: usize = 32;

/// The ends of stacks of a stopped process.
#[derive(Debug)]
pub(crate) struct StackEnds<'s> {
    process: &'s Process,
    maps: &'s Maps,
    /// The robust lists of all threads but the first; `None` if they cannot be known.
    robust_lists: OnceCell<Option<Vec<TargetAddress>>>,
}

impl<'s> StackEnds<'s> {
    /// The map must be of the present stop.
    pub(crate) fn new(process: &'s Process, maps: &'s Maps) -> Self {
        Self {
            process,
            maps,
            robust_lists: OnceCell::new(),
        }
    }

    /// Checks that this is the end of the thread's own stack. `at` and `stack_pointer` are those of
    /// the last frame; `is_start` says that the frame is in the function in which its program
    /// starts.
    pub(crate) fn check(
        &self,
        memory: &PageCache<'_>,
        thread: &ThreadState,
        is_start: bool,
        at: TargetAddress,
        stack_pointer: TargetAddress,
    ) -> Result<(), WalkError> {
        let is_birth = is_birth(memory, at);
        if !is_start && !is_birth {
            return Err(WalkError::UnknownEnd { at });
        }
        let own = |mapping| {
            is_own_stack(thread, stack_pointer, mapping)
                // In a forked process the first thread may be on the stack of the one that forked.
                || (is_birth && holds_thread(thread, stack_pointer, mapping))
                || (is_birth && self.is_plain(thread, stack_pointer, mapping))
        };
        if self.maps.find(stack_pointer).is_some_and(own) {
            Ok(())
        } else {
            Err(WalkError::ForeignStack { stack_pointer })
        }
    }

    /// Whether the thread was made by a plain `clone`, and the stack is none of a thread that the C
    /// library has made.
    fn is_plain(
        &self,
        thread: &ThreadState,
        stack_pointer: TargetAddress,
        mapping: &Mapping,
    ) -> bool {
        let registered_here =
            |head: &TargetAddress| stack_pointer < *head && mapping.range.contains(head);
        !thread.is_first
            && robust_list::head(thread.tid).is_ok_and(TargetAddress::is_null)
            && self
                .robust_lists()
                .is_some_and(|heads| !heads.iter().any(registered_here))
    }

    fn robust_lists(&self) -> Option<&[TargetAddress]> {
        let read = || {
            // The first thread was not born, and the kernel may have merged the mapping of its
            // block with other memory.
            let others = self.process.threads().ok()?;
            let others = others.into_iter().filter(|tid| *tid != self.process.pid());
            let heads = others.map(robust_list::head);
            // Threads that are not stopped may end meanwhile.
            let living = heads.filter(|head| *head != Err(rustix::io::Errno::SRCH));
            living.collect::<Result<_, _>>().ok()
        };
        self.robust_lists.get_or_init(read).as_deref()
    }
}

/// Whether this return address is in code that makes a thread, calls the thread's function, and
/// ends the thread.
fn is_birth(memory: &PageCache<'_>, at: TargetAddress) -> bool {
    let before = memory.read_array::<CREATE_WITHIN>(at - CREATE_WITHIN as u64);
    let behind = memory.read_array::<EXIT_WITHIN>(at);
    before.is_ok_and(|code| contains(&code, CREATE))
        && behind.is_ok_and(|code| contains(&code, EXIT))
}

fn contains(code: &[u8], patterns: &[&[u8]]) -> bool {
    let mut patterns = patterns.iter();
    patterns.any(|pattern| code.windows(pattern.len()).any(|window| window == *pattern))
}
