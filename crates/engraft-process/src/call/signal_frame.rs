//! A signal frame as the kernel would have laid it out, from which a thread restores itself.
//!
//! The thread whose registers are in the frame runs some code as if that were a signal handler. The
//! code returns to a *restorer*, which calls `rt_sigreturn`, and that restores all registers from
//! the frame. This needs no tracer, so a remote call survives our death at any instant.
//!
//! Layout: `struct rt_sigframe` of `arch/x86/include/asm/sigframe.h` (return address, ucontext,
//! siginfo), and the floating point state as `arch/x86/kernel/fpu/signal.c` checks it.

use std::sync::OnceLock;

use crate::memory::fields::word;
use crate::sys::address::TargetAddress;
use crate::sys::registers::Registers;

const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;
/// Both `SS_ONSTACK` and `SS_DISABLE`: `rt_sigreturn` does not set such an alternate stack and
/// ignores the error ("squash all but EFAULT"). So the thread's own one, which cannot be read from
/// outside, stays as it is.
const KEEP_ALTERNATE_STACK: u32 = 3;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;

/// Offsets in `struct rt_sigframe`.
const CONTEXT: usize = 8;
const ALTERNATE_STACK_FLAGS: usize = CONTEXT + 24;
const REGISTERS: usize = CONTEXT + 40;
const SEGMENTS: usize = REGISTERS + 18 * 8;
const FLOATING_POINT_POINTER: usize = REGISTERS + 184;
const SIGNAL_MASK: usize = CONTEXT + 296;
const SIGNAL_INFORMATION: usize = CONTEXT + 304;
const SIGNAL_INFORMATION_SIZE: usize = 128;
const FRAME_SIZE: usize = SIGNAL_INFORMATION + SIGNAL_INFORMATION_SIZE;

/// Offsets in an XSAVE area: software bytes in the legacy part, then the header.
const SOFTWARE_BYTES: usize = 464;
const HEADER: usize = 512;
const LEGACY_AND_HEADER: usize = 576;

/// The bytes of a frame and where they belong.
pub(crate) struct SignalFrame {
    /// The stack pointer with which the handler starts: at the return address.
    pub(crate) address: TargetAddress,
    pub(crate) bytes: Vec<u8>,
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// The end of the last component of the XSAVE area that is in use.
///
/// The state that ptrace gives is as large as any thread of the machine may need (AMX: 11 KiB), but
/// the kernel takes no more than this thread may use. Components that are not in use are left out:
/// the kernel puts a component that is not in the frame into its initial state, in which it is
/// already.
fn extended_size(components: u64) -> usize {
    let used = |(component, _): &(usize, &usize)| components & (1 << component) != 0;
    let ends = component_ends().iter().enumerate().filter(used);
    let end = ends.map(|(_, end)| *end).max();
    end.unwrap_or(0).max(LEGACY_AND_HEADER)
}

/// Where each component ends. In a virtual machine `cpuid` takes tens of microseconds, so it is
/// called once.
fn component_ends() -> &'static [usize; 63] {
    static ENDS: OnceLock<[usize; 63]> = OnceLock::new();
    ENDS.get_or_init(|| {
        let mut ends = [0; 63];
        for (component, end) in (0..).zip(&mut ends).skip(2) {
            // Leaf 0xd describes the standard format on this machine, which is the target's.
            let leaf = core::arch::x86_64::__cpuid_count(0xd, component);
            *end = (leaf.ebx + leaf.eax) as usize;
        }
        ends
    })
}

/// The extended state in the form of a signal frame.
fn signal_extended_state(state: &[u8]) -> Option<Vec<u8>> {
    let components = word(state.get(..LEGACY_AND_HEADER)?, HEADER);
    let size = extended_size(components);
    let mut bytes = state.get(..size)?.to_vec();
    bytes.extend(FP_XSTATE_MAGIC2.to_le_bytes());
    // struct _fpx_sw_bytes: magic1, extended_size, xfeatures, xstate_size, padding.
    bytes.get_mut(SOFTWARE_BYTES..HEADER)?.fill(0);
    put(&mut bytes, SOFTWARE_BYTES, &FP_XSTATE_MAGIC1.to_le_bytes());
    put(
        &mut bytes,
        SOFTWARE_BYTES + 4,
        &(size as u32 + 4).to_le_bytes(),
    );
    // x87 and SSE are always part of a frame.
    put(
        &mut bytes,
        SOFTWARE_BYTES + 8,
        &(components | 3).to_le_bytes(),
    );
    put(
        &mut bytes,
        SOFTWARE_BYTES + 16,
        &(size as u32).to_le_bytes(),
    );
    Some(bytes)
}

/// The registers in the order of `struct sigcontext_64`.
fn in_frame_order(r: &Registers) -> [u64; 18] {
    [
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx,
        r.rax, r.rcx, r.rsp, r.rip, r.eflags,
    ]
}

/// Measures now what the first frame needs, so that no stop waits for it.
pub(crate) fn prepare() {
    component_ends();
}

impl SignalFrame {
    /// Lays a frame out below `top`. `registers` are those with which the thread continues
    /// (see [`crate::sys::restart`]). `None` if the extended state is not as ptrace gives it.
    pub(crate) fn new(
        top: TargetAddress,
        restorer: TargetAddress,
        registers: &Registers,
        signal_mask: u64,
        extended_state: &[u8],
    ) -> Option<Self> {
        let state = signal_extended_state(extended_state)?;
        // XRSTOR wants 64 bytes of alignment.
        let state_address = (top - state.len() as u64).align_down(64);
        // A handler starts like any function: the stack pointer is 8 off a multiple of 16.
        let address = (state_address - FRAME_SIZE as u64).align_down(16) - 8;
        let gap = (state_address - address) as usize;
        let mut bytes = vec![0; gap];
        put(&mut bytes, 0, &restorer.get().to_le_bytes());
        let flags = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
        put(&mut bytes, CONTEXT, &flags.to_le_bytes());
        put(
            &mut bytes,
            ALTERNATE_STACK_FLAGS,
            &KEEP_ALTERNATE_STACK.to_le_bytes(),
        );
        for (index, value) in in_frame_order(registers).into_iter().enumerate() {
            put(&mut bytes, REGISTERS + index * 8, &value.to_le_bytes());
        }
        let segments = [registers.cs, registers.gs, registers.fs, registers.ss];
        for (index, segment) in segments.into_iter().enumerate() {
            put(
                &mut bytes,
                SEGMENTS + index * 2,
                &(segment as u16).to_le_bytes(),
            );
        }
        put(
            &mut bytes,
            FLOATING_POINT_POINTER,
            &state_address.get().to_le_bytes(),
        );
        put(&mut bytes, SIGNAL_MASK, &signal_mask.to_le_bytes());
        bytes.extend(state);
        Some(Self { address, bytes })
    }

    /// Puts a text into the frame, for the time of the call, and says where it is: in place of the
    /// `siginfo`, which `rt_sigreturn` does not read. `None` if it is longer than that.
    pub(crate) fn carry(&mut self, text: &[u8]) -> Option<TargetAddress> {
        if text.len() > SIGNAL_INFORMATION_SIZE {
            return None;
        }
        put(&mut self.bytes, SIGNAL_INFORMATION, text);
        Some(self.address + SIGNAL_INFORMATION as u64)
    }

    /// The stack pointer at the restorer's `rt_sigreturn`: the return address has been popped.
    pub(crate) fn stack_pointer_at_return(&self) -> TargetAddress {
        self.address + CONTEXT as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_aligned_as_abi_and_processor_want_it() {
        let mut state = vec![0u8; 2696];
        state[HEADER] = 0b111;
        let registers = Registers {
            rip: 0x1234,
            ..Registers::default()
        };
        for top in 0x10_0000..0x10_0080 {
            let top = TargetAddress::new(top);
            let frame = SignalFrame::new(top, 0x77u64.into(), &registers, 5, &state).unwrap();
            assert_eq!(frame.address.get() % 16, 8);
            assert!(frame.address + frame.bytes.len() as u64 <= top);
            let floating_point = word(&frame.bytes, FLOATING_POINT_POINTER);
            assert_eq!(floating_point % 64, 0);
            assert_eq!(word(&frame.bytes, 0), 0x77);
            assert_eq!(word(&frame.bytes, REGISTERS + 16 * 8), 0x1234);
            let at = (floating_point - frame.address.get()) as usize + SOFTWARE_BYTES;
            assert_eq!(word(&frame.bytes, at) as u32, FP_XSTATE_MAGIC1);
        }
    }

    #[test]
    fn a_state_that_is_too_short_makes_no_frame() {
        assert!(signal_extended_state(&[0; 100]).is_none());
    }
}
