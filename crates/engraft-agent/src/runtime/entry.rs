//! What a program without a standard library needs: entry points, memory functions, and a panic
//! handler that does not end the target.

#![expect(unsafe_code, reason = "entry points and panic recovery")]

use core::arch::{asm, naked_asm};

use engraft_abi::Outcome;

use crate::patch::dispatch::{HAS_FSGSBASE, choose};
use crate::runtime::commands::remote_command;
use crate::runtime::loader_call::{begin_again, loader_hook};
use crate::runtime::lock;

// The entry points; the controller finds them by name in the blob.

/// The entry for a remote call, on the agent's own stack. It saves no register: the signal frame
/// above the return address restores them all. The fifth argument is the address of the return
/// address.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn engraft_agent_enter() {
    naked_asm!("endbr64", "mov r8, rsp", "jmp {command}", command = sym remote_command)
}

/// A remote call returns to this. It moves the answer to rbx, where the controller reads it. Then
/// rt_sigreturn restores the thread from the frame that the stack pointer points at (kernel:
/// arch/x86/kernel/signal_64.c). So the thread resumes its own work even if the controller has
/// died.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn engraft_agent_restorer() {
    naked_asm!("mov rbx, rax", "mov eax, 15", "syscall", "ud2")
}

/// The loader's break function jumps here, with the loader's return address on the stack. It is an
/// ordinary call, so only callee-saved registers have to be kept. They are pushed here, where a
/// panic finds them. If the answer is not null, it points to the arguments and the address of a
/// function, which is jumped to instead of returning.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn engraft_agent_hook() {
    naked_asm!(
        "endbr64",
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "lea rdi, [rsp - 8]",
        "call {hook}",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "test rax, rax",
        "jnz 2f",
        "ret",
        "2:",
        "mov rdi, [rax]",
        "mov rsi, [rax + 8]",
        "mov rdx, [rax + 16]",
        "mov rcx, [rax + 24]",
        "jmp [rax + 32]",
        hook = sym loader_hook,
    )
}

/// Stubs jump here (see [`crate::patch::dispatch::stub`]). r11 holds the address of the site's
/// words. On the stack are the caller's r11, a free word, and above it the return address.
///
/// Every register and flag is kept, and the body is entered with the caller's stack. The last jump
/// reads below the stack pointer, in the red zone, where signal handlers write nothing.
///
/// `choose` uses general registers only; a test decodes its instructions. It needs no alignment of
/// the stack, and its frame is small, because the caller has made room only for the old function.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn engraft_agent_dispatch() {
    naked_asm!(
        "endbr64",
        "pushfq",
        "push rax",
        "push rcx",
        "push rdx",
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "push r10",
        "mov rdi, r11",
        "cmp byte ptr [rip + {has_fsgsbase}], 0",
        "je 3f",
        "rdfsbase rsi",
        "2:",
        "lea rdx, [rsp + 88]",
        "call {choose}",
        "mov [rsp + 80], rax",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rdi",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "popfq",
        "pop r11",
        "lea rsp, [rsp + 8]",
        "notrack jmp qword ptr [rsp - 8]",
        // An old processor or kernel: arch_prctl(ARCH_GET_FS, address of a zero on the stack).
        "3:",
        "push rdi",
        "push 0",
        "mov edi, 0x1003",
        "mov rsi, rsp",
        "mov eax, 158",
        "syscall",
        "pop rsi",
        "pop rdi",
        "jmp 2b",
        has_fsgsbase = sym HAS_FSGSBASE,
        choose = sym choose,
    )
}

/// A bug of the agent must not end the program: the agent declares itself broken, releases its lock
/// and goes back to its caller.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    let back = lock::declare_broken();
    if back.again {
        // SAFETY: `stack` is the address of the current entry's return address (both entries pass
        // it), as at the first instruction of a function. What is below it belongs to functions
        // that end here.
        unsafe {
            asm!(
                "mov rsp, rdi",
                "jmp {begin_again}",
                begin_again = sym begin_again,
                in("rdi") back.stack,
                options(noreturn),
            );
        }
    }
    // For the loader: no error to raise.
    let answer = match back.is_command {
        true => Outcome::Broken as u64,
        false => 0,
    };
    // SAFETY: as above.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "ret",
            stack = in(reg) back.stack,
            in("rax") answer,
            options(noreturn),
        );
    }
}

// The compiler calls these functions. Those of libc may be patched, or absent. They consist of
// `rep` string instructions, because the compiler could turn a loop into a call of the very
// function.

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller promises two valid, disjoint ranges of `count` bytes.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") count => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: copying upwards never overwrites what is still to be read.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: the ranges are valid (the caller's promise) and copied from their ends downwards.
    unsafe {
        asm!(
            "std",
            "rep movsb",
            "cld",
            inout("rcx") count => _,
            inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _,
            options(nostack),
        );
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller promises a valid range of `count` bytes.
    unsafe {
        asm!(
            "rep stosb",
            inout("rcx") count => _,
            inout("rdi") to => _,
            in("al") value as u8,
            options(nostack, preserves_flags),
        );
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    for index in 0..count {
        // SAFETY: `index` is within the first range.
        let a = unsafe { left.wrapping_add(index).read_volatile() };
        // SAFETY: `index` is within the second range.
        let b = unsafe { right.wrapping_add(index).read_volatile() };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(left, right, count) }
}
