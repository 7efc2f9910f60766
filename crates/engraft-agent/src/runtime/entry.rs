//! What a program without a standard library has to bring along: entry points, memory functions, the
//! allocator's memory, and an end for panics that does not end the target.

#![expect(unsafe_code, reason = "entry points, allocator and panic recovery")]

use core::alloc::{GlobalAlloc, Layout};
use core::arch::{asm, naked_asm};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};

use engraft_abi::Outcome;
use linked_list_allocator::Heap;

use crate::patch::dispatch::{HAS_FSGSBASE, choose};
use crate::runtime::commands::remote_command;
use crate::runtime::loader_call::{begin_again, loader_hook};
use crate::runtime::lock;

// The entry points; the controller finds them by name in the blob.

/// A remote call. The stack is the agent's own; no register has to be kept, because the signal frame above
/// the return address restores them all. The fifth argument is where the return address is.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn engraft_agent_enter() {
    naked_asm!("endbr64", "mov r8, rsp", "jmp {command}", command = sym remote_command)
}

/// Where a remote call returns to. The answer moves to rbx for the controller, and rt_sigreturn restores
/// the thread from the frame that the stack pointer now points at (kernel: arch/x86/kernel/signal_64.c);
/// if no controller is left, that is how the thread goes on.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn engraft_agent_restorer() {
    naked_asm!("mov rbx, rax", "mov eax, 15", "syscall", "ud2")
}

/// The loader's break function jumps here, with the loader's return address on the stack. An ordinary call:
/// only callee-saved registers have to be kept, and they are pushed so that a panic finds them too. A
/// non-null answer points to the arguments and the address of a function to go to instead of returning.
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

/// Where stubs lead (see [`crate::patch::dispatch::stub`]): r11 has the words' address, on the stack are the caller's
/// r11 and a free place, and above it the return address. Keeps every register and flag, and goes to the body with the caller's stack. The last
/// jump reads below the stack pointer, in the red zone, where signal handlers write nothing.
///
/// `choose` uses general registers only; a test looks at its instructions. No alignment of the stack matters to
/// it, and the frame is small, because the caller has made room only for the old function.
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

/// All memory that the agent allocates comes from its own mapping.
struct AgentHeap(UnsafeCell<Heap>);

// SAFETY: the heap is used only by code that holds the agent's lock (`lock`).
unsafe impl Sync for AgentHeap {}

#[global_allocator]
static HEAP: AgentHeap = AgentHeap(UnsafeCell::new(Heap::empty()));

/// Gives the heap its memory.
///
/// # Safety
/// Once, under the lock; the memory must be ours alone for ever.
pub(crate) unsafe fn initialise_heap(start: u64, length: u64) {
    let start = core::ptr::with_exposed_provenance_mut(start as usize);
    // SAFETY: under the lock nobody else uses the heap.
    let heap = unsafe { &mut *HEAP.0.get() };
    // SAFETY: the caller's promise.
    unsafe { heap.init(start, length as usize) };
}

// SAFETY: linked_list_allocator returns aligned, disjoint blocks; the agent's lock serialises the calls.
unsafe impl GlobalAlloc for AgentHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller holds the agent's lock.
        let heap = unsafe { &mut *self.0.get() };
        heap.allocate_first_fit(layout)
            .map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller holds the agent's lock.
        let heap = unsafe { &mut *self.0.get() };
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: `pointer` came from `alloc` with this layout (GlobalAlloc's contract).
            unsafe { heap.deallocate(pointer, layout) };
        }
    }
}

/// A bug of ours must not end somebody's server: the agent declares itself broken, releases its lock
/// and goes back to whoever called it.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    let back = lock::declare_broken();
    if back.again {
        // SAFETY: `stack` is where the return address of the current entry lies (both entries pass it), as at the
        // first instruction of a function; what is below it belongs to functions that are given up here.
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

// The compiler calls these; libc's are not to be used, because they may be patched, or absent. `rep` string
// instructions, since a loop in Rust could be compiled into a call of the very function.

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
