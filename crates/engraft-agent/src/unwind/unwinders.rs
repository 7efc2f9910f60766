//! The unwinders of the target, which have to find their way through new code: for an exception, for a thread that is
//! cancelled, for a backtrace.
//!
//! libgcc's asks `_Unwind_Find_FDE` for the call frame information of each frame, and that knows what the loader has
//! loaded. Telling libgcc of more (`__register_frame`) takes a lock or memory, which the thread that the agent
//! has borrowed may be holding. So the function gets a jump, as a patched one does: to code that asks
//! [`frames::find`] first, and then goes on with the function's own first instructions and the rest of it. That
//! neither waits nor allocates, and does not need libgcc to be relocated.

use alloc::vec::Vec;
use core::ops::Range;

use engraft_abi::{Bytes, Outcome, PayloadObject};
use engraft_core::{LinkAddress, ModuleId};
use engraft_machine::jump;
use zerocopy::FromZeros;

use crate::patch::image::{Image, Placement, Symbols};
use crate::patch::site::Site;
use crate::system::failure::Failure;
use crate::system::memory::probe;
use crate::system::writer::Writer;
use crate::unwind::frames;
use crate::unwind::prologue;

/// One unwinder.
pub(crate) struct Unwinder {
    /// What it is part of.
    pub module: ModuleId,
    /// The addresses of that module.
    span: Range<u64>,
    /// Where its `_Unwind_Find_FDE` is.
    function: u64,
    /// How far we are.
    pub state: State,
}

/// What was done for an unwinder.
pub(crate) enum State {
    /// It can be led through new code.
    Ready {
        /// In its function.
        site: Site,
        /// Where that leads. Stays as long as the agent or the module: a thread may be inside.
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
    /// None.
    pub(crate) const fn new() -> Self {
        Self { list: Vec::new() }
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Unwinder> {
        self.list.iter()
    }

    /// Whether it is known that a module has one.
    pub(crate) fn has(&self, module: ModuleId) -> bool {
        self.list.iter().any(|unwinder| unwinder.module == module)
    }

    /// Whether code of an unwinder that we may write to begins in these addresses.
    pub(crate) fn begins_in(&self, range: &Range<u64>) -> bool {
        let mut list = self.list.iter();
        list.any(|unwinder| range.contains(&unwinder.function))
    }

    /// Makes one known that a module was found to have.
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

    /// Makes all of them ready that can be, without changing anything that threads use.
    pub(crate) fn prepare(&mut self) {
        for unwinder in &mut self.list {
            if let State::Failed(_) = unwinder.state {
                unwinder.state = unwinder.ready().unwrap_or_else(State::Failed);
            }
        }
    }

    /// The bytes that [`lead`](Self::lead) is going to write over, and where the same instructions are.
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

    /// Leads all unwinders that are ready through new code, or no longer; or that of one module only. No thread is in
    /// the middle of the bytes.
    pub(crate) fn lead(
        &mut self,
        writer: Writer,
        through: bool,
        only: Option<ModuleId>,
    ) -> Result<(), Failure> {
        let of = |unwinder: &&mut Unwinder| only.is_none_or(|only| unwinder.module == only);
        let mut list = self.list.iter_mut().filter(of);
        list.try_for_each(|unwinder| match &mut unwinder.state {
            State::Ready { site, image } => site.lead(writer, through.then_some(image.base)),
            State::Failed(_) => Ok(()),
        })
    }

    /// Forgets that of a module, which is not mapped any more, or all of them, which lead nowhere any more. No
    /// thread is inside.
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

/// The code that asks us first. Aligned as payloads are.
#[repr(C, align(8))]
struct Detour([u8; Self::LENGTH]);

impl Detour {
    const LENGTH: usize = 72;
    /// Where the function's own instructions go.
    const MOVED: usize = 24;
    /// Where the address of [`frames::find`] is.
    const FIND: usize = 64;

    /// Works at any address. `moved` are instructions that do, too, and `rest` is where they go on.
    fn new(moved: &[u8], rest: u64) -> Self {
        let mut code = [0xcc; Self::LENGTH];
        let mut put = |offset: usize, bytes: &[u8]| {
            let place = code.iter_mut().skip(offset);
            place.zip(bytes).for_each(|(to, from)| *to = *from);
        };
        // push rdi; push rsi; sub rsp, 8; call [rip + 52]; add rsp, 8; pop rsi; pop rdi; test rax, rax; jz 1f;
        // ret; 1:
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
        let find = frames::find as *const () as usize as u64;
        put(Self::FIND, &find.to_le_bytes());
        Self(code)
    }
}

/// A detour has no relocations.
struct NoSymbols;

impl Symbols for NoSymbols {
    fn object(&self, _: u64) -> u64 {
        0
    }

    fn import(&self, _: u64) -> Result<u64, Failure> {
        Err(Failure::bad_payload())
    }
}
