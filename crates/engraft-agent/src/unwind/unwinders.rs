//! The target's unwinders. They unwind new code, too: for an exception, a cancelled thread, a
//! backtrace.
//!
//! libgcc's unwinder asks `_Unwind_Find_FDE` for the call frame information of each frame. That
//! function knows only what the loader has loaded. Registering more with libgcc
//! (`__register_frame`) takes a lock or allocates, and the thread that the agent has borrowed may
//! be holding that lock. So the function is redirected, as a patched function is: to code that asks
//! [`frame_info::find`] first, and then runs the function's own first instructions and the rest of
//! it. That neither waits nor allocates, and libgcc need not be relocated.

use alloc::vec::Vec;
use core::ops::Range;

use engraft_abi::{Bytes, Outcome, PayloadObject};
use engraft_core::{LinkAddress, ModuleId};
use engraft_machine::jump;
use zerocopy::FromZeros;

use crate::patch::image::{Image, Placement, Symbols};
use crate::patch::site::Site;
use crate::system::code_writer::CodeWriter;
use crate::system::failure::Failure;
use crate::system::memory::probe;
use crate::unwind::frame_info;
use crate::unwind::prologue;

/// One unwinder.
pub(crate) struct Unwinder {
    /// The module that it is part of.
    pub module: ModuleId,
    /// The addresses of that module.
    span: Range<u64>,
    /// Address of its `_Unwind_Find_FDE`.
    function: u64,
    /// Whether it can be redirected.
    pub state: State,
}

/// What was done for an unwinder.
pub(crate) enum State {
    /// It can be redirected.
    Ready {
        /// The site in its function.
        site: Site,
        /// The code that the site leads to. It stays as long as the agent or the module, because a
        /// thread may be inside.
        image: Image,
    },
    /// It cannot, or not yet.
    Failed(Failure),
}

/// All unwinders.
pub(crate) struct Unwinders {
    list: Vec<Unwinder>,
}

impl Unwinders {
    /// No unwinders.
    pub(crate) const fn new() -> Self {
        Self { list: Vec::new() }
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Unwinder> {
        self.list.iter()
    }

    /// Whether a module has a known unwinder.
    pub(crate) fn has(&self, module: ModuleId) -> bool {
        self.list.iter().any(|unwinder| unwinder.module == module)
    }

    /// Whether the `_Unwind_Find_FDE` of an unwinder begins in this range.
    pub(crate) fn begins_in(&self, range: &Range<u64>) -> bool {
        let mut list = self.list.iter();
        list.any(|unwinder| range.contains(&unwinder.function))
    }

    /// Adds the unwinder of a module.
    pub(crate) fn add(
        &mut self,
        module: ModuleId,
        span: Range<u64>,
        function: u64,
    ) -> Result<(), Failure> {
        self.list
            .try_reserve(1)
            .map_err(|_| Failure::out_of_memory())?;
        self.list.push(Unwinder {
            module,
            span,
            function,
            state: State::Failed(Failure::out_of_memory()),
        });
        Ok(())
    }

    /// Prepares all unwinders for the redirect, without changing anything that threads use.
    pub(crate) fn prepare(&mut self) {
        for unwinder in &mut self.list {
            if let State::Failed(_) = unwinder.state {
                unwinder.state = unwinder.ready().unwrap_or_else(State::Failed);
            }
        }
    }

    /// The bytes that [`redirect`](Self::redirect) will overwrite, and the address of the same
    /// instructions in the image.
    pub(crate) fn sites(&self) -> impl Iterator<Item = (Range<u64>, u64)> {
        self.list
            .iter()
            .filter_map(|unwinder| match &unwinder.state {
                State::Ready { site, image } if site.is_original() => {
                    let range = site.address..site.address + jump::LENGTH as u64;
                    Some((range, image.base + Detour::MOVED as u64))
                }
                _ => None,
            })
    }

    /// Turns the redirect on or off in every ready unwinder, or only in `module`'s. No thread is in
    /// the middle of the bytes.
    pub(crate) fn redirect(
        &mut self,
        writer: CodeWriter,
        on: bool,
        module: Option<ModuleId>,
    ) -> Result<(), Failure> {
        let of = |unwinder: &&mut Unwinder| module.is_none_or(|module| unwinder.module == module);
        let mut list = self.list.iter_mut().filter(of);
        list.try_for_each(|unwinder| match &mut unwinder.state {
            State::Ready { site, image } => site.redirect(writer, on.then_some(image.base)),
            State::Failed(_) => Ok(()),
        })
    }

    /// Forgets the unwinder of `module`, which is unmapped, or all unwinders, whose redirect is
    /// off. No thread is inside their images.
    pub(crate) fn forget(&mut self, module: Option<ModuleId>) -> Result<(), Failure> {
        let of = |unwinder: &Unwinder| module.is_none_or(|module| unwinder.module == module);
        while let Some(index) = self.list.iter().position(of) {
            if let State::Ready { image, .. } = self.list.swap_remove(index).state {
                image.unmap()?;
            }
        }
        Ok(())
    }
}

impl Unwinder {
    fn ready(&self) -> Result<State, Failure> {
        let unknown = || {
            let text = b"its _Unwind_Find_FDE does not begin as such functions do";
            Failure::new(Outcome::CodeDiffers, text)
        };
        let code: [u8; prologue::LENGTH] = probe(self.function).ok_or_else(unknown)?;
        let moved = prologue::movable(&code).ok_or_else(unknown)?;
        let rest = self.function + moved.end as u64;
        let (start, moved) = (moved.start, code.get(moved).unwrap_or_default());
        let detour = Detour::new(moved, rest);
        let mut object = PayloadObject::new_zeroed();
        object.text = Bytes {
            offset: 0,
            length: detour.0.len() as u32,
        };
        let place = Placement {
            module: &self.span,
            symbols: &NoSymbols,
            dispatch: 0,
            name: c"engraft-unwinder",
        };
        let image = Image::place(&detour.0, &object, &place)?;
        let original = moved.first_chunk().copied().ok_or_else(unknown)?;
        let site = Site {
            module: self.module,
            function: LinkAddress(self.function),
            address: self.function + start as u64,
            original,
            current: original,
            stub: None,
        };
        Ok(State::Ready { site, image })
    }
}

/// The code that asks the agent first. Aligned as payloads are.
#[repr(C, align(8))]
struct Detour([u8; Self::LENGTH]);

impl Detour {
    const LENGTH: usize = 72;
    /// Offset of the function's own instructions.
    const MOVED: usize = 24;
    /// Offset of the address of [`frame_info::find`].
    const FIND: usize = 64;

    /// `moved` are the function's own instructions, which work at any address, as does this code.
    /// `rest` is the address of the instruction after them.
    fn new(moved: &[u8], rest: u64) -> Self {
        let mut code = [0xcc; Self::LENGTH];
        let mut put = |offset: usize, bytes: &[u8]| {
            let place = code.iter_mut().skip(offset);
            place.zip(bytes).for_each(|(to, from)| *to = *from);
        };
        // push rdi; push rsi; sub rsp, 8; call [rip + 52]; add rsp, 8; pop rsi; pop rdi; test rax,
        // rax; jz 1f; ret; 1:
        let ask = [
            0x57, 0x56, 0x48, 0x83, 0xec, 8, 0xff, 0x15, 52, 0, 0, 0, 0x48, 0x83, 0xc4, 8, 0x5e,
            0x5f, 0x48, 0x85, 0xc0, 0x74, 1, 0xc3,
        ];
        put(0, &ask);
        put(Self::MOVED, moved);
        // jmp [rip], and its operand.
        let jump = Self::MOVED + moved.len();
        put(jump, &[0xff, 0x25, 0, 0, 0, 0]);
        put(jump + 6, &rest.to_le_bytes());
        let find = frame_info::find as *const () as usize as u64;
        put(Self::FIND, &find.to_le_bytes());
        Self(code)
    }
}

/// The symbols of a detour, which has no relocations.
struct NoSymbols;

impl Symbols for NoSymbols {
    fn object(&self, _: u64) -> u64 {
        0
    }

    fn import(&self, _: u64) -> Result<u64, Failure> {
        Err(Failure::bad_payload())
    }
}
