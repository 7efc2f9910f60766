//! The agent's part in the dynamic loader's work: it is called at every load and unload, before any code
//! of a new module runs, and can refuse a load.
//!
//! The loader calls `_dl_debug_state` (found through `r_debug`), an empty function made for debuggers, at
//! fixed points, with its own lock held. What is on its lists at these points differs between loaders;
//! here only what is seen counts: whatever is listed and was not known comes, whatever was known and
//! is not listed has gone.
//!
//! | loader | calls during one dlopen |
//! |---|---|
//! | glibc up to 2.34 | ADD before mapping; CONSISTENT after mapping, before relocation and constructors |
//! | glibc 2.35 to 2.40 | ADD when the root is mapped; CONSISTENT before relocation and constructors |
//! | glibc from 2.41 on | ADD when the root is mapped; CONSISTENT after relocation, before constructors |
//! | dlclose, all | destructors, DELETE while still mapped and listed, unmapping, CONSISTENT |

#![expect(
    unsafe_code,
    reason = "edits the loader's structures and its break function"
)]

use engraft_abi::Outcome;
use engraft_machine::jump;

use crate::loader::calls;
use crate::loader::decoy::Decoy;
use crate::loader::namespaces::{self, Activity, LinkMap, Namespace, PoisonedDynamic};
use crate::system::failure::{Failure, Text};
use crate::system::memory::probe;
use crate::system::writer::Writer;

/// What the hook has installed and remembers between calls.
pub(crate) struct Hook {
    debug: u64,
    signal_error: u64,
    /// Text of the last refusal; the loader reads it after the hook has returned.
    message: Text,
    /// The same as the name of a library.
    name: Text,
    /// What the loader is to find while a library is refused.
    decoy: Option<Decoy>,
    raise: Raise,
    /// The break function, as it was and as it is.
    function: u64,
    original: [u8; 16],
    detour: [u8; 16],
}

/// A call of `_dl_signal_error(errcode, objname, occasion, errstring)` to be made instead of returning to
/// the loader. The layout is known to the entry stub.
#[repr(C)]
pub struct Raise {
    code: u64,
    object: u64,
    occasion: u64,
    text: u64,
    function: u64,
}

/// The loader looks at this after a refusal while objects are added.
static POISON: PoisonedDynamic = PoisonedDynamic::new();

impl Hook {
    /// Puts the detour in place. All threads are stopped, no load is under way, and none is inside what
    /// changes: a thread in the original function is at its entry or at its `ret`, which is where the jump
    /// begins; a jump is one instruction.
    pub(crate) fn install(
        debug: u64,
        unchained: [u64; 2],
        signal_error: u64,
        entry: u64,
        writer: Writer,
    ) -> Result<Self, Failure> {
        let function = namespaces::break_function(debug);
        let unknown = || unknown_break_function(function);
        let found = probe::<[u8; 16]>(function).ok_or_else(unknown)?;
        let offset = empty_function(&found).ok_or_else(unknown)?;
        let [a, b, c, d, e, f, g, h] = entry.to_le_bytes();
        // jmp [rip+0], followed by the address: reaches everywhere, but has room only in front.
        let far = [0xff, 0x25, 0, 0, 0, 0, a, b, c, d, e, f, g, h];
        let near = jump::encode(function + offset as u64, entry);
        let jump: &[u8] = match &near {
            Some(near) => near,
            None if offset == 0 => &far,
            None => {
                return Err(Failure::new(
                    Outcome::Loader,
                    b"the agent is too far from the loader",
                ));
            }
        };
        let mut patched = found;
        for (to, from) in patched.iter_mut().skip(offset).zip(jump) {
            *to = *from;
        }
        namespaces::set_unchained(debug, unchained);
        calls::begin(debug);
        writer
            .write_code(function, &found, &patched)
            .map_err(|failure| changed(failure, function))?;
        let raise = Raise {
            code: 0,
            object: 0,
            occasion: 0,
            text: 0,
            function: signal_error,
        };
        Ok(Self {
            debug,
            signal_error,
            message: Text::EMPTY,
            name: Text::EMPTY,
            decoy: None,
            raise,
            function,
            original: found,
            detour: patched,
        })
    }

    /// Takes the detour back. All threads are stopped.
    pub(crate) fn uninstall(&self, writer: Writer) -> Result<(), Failure> {
        writer
            .write_code(self.function, &self.detour, &self.original)
            .map_err(|failure| changed(failure, self.function))
    }
}

/// Says what it means that somebody else has changed the break function.
fn changed(failure: Failure, function: u64) -> Failure {
    match failure.outcome {
        Outcome::CodeDiffers => unknown_break_function(function),
        _ => failure,
    }
}

/// Where the `ret` of an empty function is, if it is one and nothing but padding follows in its 16 bytes:
/// `ret`, `repz ret`, or `endbr64; ret`.
fn empty_function(code: &[u8; 16]) -> Option<usize> {
    let (offset, rest) = match code {
        [0xf3, 0x0f, 0x1e, 0xfa, 0xc3, rest @ ..] => (4, rest.as_slice()),
        [0xf3, 0xc3, rest @ ..] => (0, rest.as_slice()),
        [0xc3, rest @ ..] => (0, rest.as_slice()),
        _ => return None,
    };
    is_padding(rest).then_some(offset)
}

/// Whether all of `code` is `nop` in one of its long forms, `int3`, or zero.
fn is_padding(code: &[u8]) -> bool {
    let length = match code {
        [] => return true,
        [0x00 | 0x90 | 0xcc, ..] => 1,
        [0x66, 0x90, ..] => 2,
        [0x0f, 0x1f, 0x00, ..] => 3,
        [0x0f, 0x1f, 0x40, ..] => 4,
        [0x0f, 0x1f, 0x44, ..] => 5,
        [0x0f, 0x1f, 0x80, ..] => 7,
        [0x0f, 0x1f, 0x84, ..] => 8,
        // Operand-size and segment prefixes before a long nop.
        [0x66 | 0x2e, rest @ ..] => return is_padding(rest),
        _ => return false,
    };
    // The last nop may reach beyond the 16 bytes that were read.
    code.get(length..).is_none_or(is_padding)
}

fn unknown_break_function(address: u64) -> Failure {
    let text = Text::EMPTY
        .push(b"the dynamic loader's break function at ")
        .push_hexadecimal(address)
        .push(b" is not an empty function (is a debugger attached?)");
    Failure {
        outcome: Outcome::Loader,
        text,
    }
}

impl Hook {
    /// Address of the loader's `r_debug`.
    pub(crate) fn debug(&self) -> u64 {
        self.debug
    }

    /// The error to raise, if the loader has found the decoy that a refused library seems to need. Otherwise the
    /// decoy has no use any more when the load is over.
    pub(crate) fn decoy_seen(&mut self, activity: &Activity) -> Option<*const Raise> {
        let decoy = self.decoy.as_ref()?;
        let is_adding = matches!(activity, Activity::Adding(_));
        let mut all = Namespace::all(self.debug).flat_map(Namespace::link_maps);
        let is_found = is_adding && all.any(|link_map| decoy.is(link_map));
        if is_found || !is_adding {
            self.decoy = None;
        }
        // What is listed now is looked at when the load has failed.
        calls::look_again();
        is_found.then_some(&raw const self.raise)
    }

    /// The error to raise for an object; `None` if the loader has no function for that.
    pub(crate) fn raise(&mut self, link_map: LinkMap, text: Text) -> Option<*const Raise> {
        (self.signal_error != 0).then(|| {
            self.set_raise(link_map, text);
            &raw const self.raise
        })
    }

    /// Makes the load fail that is bringing this object in. Whether it will: the object looks as expected, or another
    /// one of this load is refused.
    pub(crate) fn poison(&mut self, link_map: LinkMap, text: Text) -> bool {
        if self.is_refusing() {
            return true;
        }
        self.name = text.copy().fit_for_library_name();
        self.decoy = (self.signal_error != 0).then(Decoy::new).flatten();
        self.set_raise(link_map, text);
        let decoy = self.decoy.as_mut().map(Decoy::path);
        // SAFETY: this is the hook, the object is being added, and both names live in the agent.
        unsafe { link_map.poison(decoy, self.name.as_c_string(), &POISON) }
    }

    /// Whether a library that is listed is refused: its load fails, with all that it brings. A second one must not
    /// take what the first one was given, which the loader has yet to read.
    fn is_refusing(&self) -> bool {
        let mut all = Namespace::all(self.debug).flat_map(Namespace::link_maps);
        all.any(|link_map| POISON.is_at(link_map.dynamic()))
    }

    /// Prepares the error to raise.
    fn set_raise(&mut self, link_map: LinkMap, text: Text) {
        self.message = text;
        self.raise.object = link_map.name_address();
        self.raise.text = self.message.as_c_string().expose_provenance() as u64;
    }
}
