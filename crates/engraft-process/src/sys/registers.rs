//! The general registers of a stopped thread.

use crate::sys::address::TargetAddress;

/// The general registers, in the kernel's order (`struct user_regs_struct`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the registers of their names")]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The number of the system call the thread is in; negative when it is in none.
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

const _: () = assert!(size_of::<Registers>() == size_of::<libc::user_regs_struct>());

impl Registers {
    /// Where the thread executes.
    pub fn instruction_pointer(&self) -> TargetAddress {
        TargetAddress::new(self.rip)
    }

    /// The top of the thread's stack.
    pub fn stack_pointer(&self) -> TargetAddress {
        TargetAddress::new(self.rsp)
    }

    /// The thread pointer (the base of %fs); null for a thread without thread-local storage.
    pub fn thread_pointer(&self) -> TargetAddress {
        TargetAddress::new(self.fs_base)
    }

    /// Those that can hold any value of the program's.
    pub fn general(&self) -> [u64; 17] {
        [
            self.rax, self.rbx, self.rcx, self.rdx, self.rsi, self.rdi, self.rbp, self.rsp,
            self.r8, self.r9, self.r10, self.r11, self.r12, self.r13, self.r14, self.r15, self.rip,
        ]
    }

    /// The system call that the thread is in, if it is in one.
    pub fn system_call(&self) -> Option<u64> {
        (self.orig_rax as i64 >= 0).then_some(self.orig_rax)
    }
}
