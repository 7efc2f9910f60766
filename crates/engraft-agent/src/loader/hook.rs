//! The hook in the dynamic loader, which calls it at every load and unload, before any code of a
//! new module runs. It can refuse a load.
//!
//! The loader calls `_dl_debug_state`, an empty function made for debuggers, at fixed points, with
//! its own lock held. The function is found through `r_debug`. What is on the loader's lists at
//! these points differs between loaders, so only the lists count: a module that is listed and not
//! known comes; a module that is known and not listed has gone.
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
use crate::loader::empty_library::EmptyLibrary;
use crate::loader::namespaces::{self, Activity, LinkMap, Namespace, PoisonedDynamic};
use crate::system::code_writer::CodeWriter;
use crate::system::failure::{Failure, Text};
use crate::system::memory::probe;

/// What the hook has installed and remembers between calls.
pub(crate) struct Hook {
    debug: u64,
    signal_error: u64,
    /// Text of the last refusal; the loader reads it after the hook has returned.
    message: Text,
    /// That text as the name of a library.
    name: Text,
    /// The library that the loader finds while another one is refused.
    empty_library: Option<EmptyLibrary>,
    raise: Raise,
    /// Address of the break function.
    function: u64,
    /// Its first bytes before the hook was installed,
    original: [u8; 16],
    /// and with the jump to the hook.
    detour: [u8; 16],
}

/// A call of `_dl_signal_error(errcode, objname, occasion, errstring)` to be made instead of
/// returning to the loader. The layout is known to the entry stub.
#[repr(C)]
pub struct Raise {
    code: u64,
    object: u64,
    occasion: u64,
    text: u64,
    function: u64,
}

/// The dynamic section that a refused object seems to have.
static POISON: PoisonedDynamic = PoisonedDynamic::new();

impl Hook {
    /// Writes the jump to `entry` into the break function. All threads are stopped, and no load is
    /// under way.
    ///
    /// No thread is in the middle of what changes: a thread in the original function is at its
    /// entry or at its `ret`. The jump begins at the `ret`, and is one instruction.
    pub(crate) fn install(
        debug: u64,
        unchained: [u64; 2],
        signal_error: u64,
        entry: u64,
        writer: CodeWriter,
    ) -> Result<Self, Failure> {
        let function = namespaces::break_function(debug);
        let unknown = || unknown_break_function(function);
        let found = probe::<[u8; 16]>(function).ok_or_else(unknown)?;
        let offset = empty_function(&found).ok_or_else(unknown)?;
        let [a, b, c, d, e, f, g, h] = entry.to_le_bytes();
        // jmp [rip+0], followed by the address. It reaches everywhere, but fits only at offset 0.
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
            empty_library: None,
            raise,
            function,
            original: found,
            detour: patched,
        })
    }

    /// Restores the break function. All threads are stopped.
    pub(crate) fn uninstall(&self, writer: CodeWriter) -> Result<(), Failure> {
        writer
            .write_code(self.function, &self.detour, &self.original)
            .map_err(|failure| changed(failure, self.function))
    }
}

/// The error for a break function that is not as expected.
fn changed(failure: Failure, function: u64) -> Failure {
    match failure.outcome {
        Outcome::CodeDiffers => unknown_break_function(function),
        _ => failure,
    }
}

/// Offset of the `ret` of an empty function: `ret`, `repz ret`, or `endbr64; ret`, with only
/// padding after it. `None` for any other function.
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

    /// The error to raise, if the loader has found the empty library that a refused one seems to
    /// need. When the load has ended, the empty library is closed.
    pub(crate) fn empty_library_seen(&mut self, activity: &Activity) -> Option<*const Raise> {
        let empty_library = self.empty_library.as_ref()?;
        let is_adding = matches!(activity, Activity::Adding(_));
        let mut all = Namespace::all(self.debug).flat_map(Namespace::link_maps);
        let is_found = is_adding && all.any(|link_map| empty_library.is(link_map));
        if is_found || !is_adding {
            self.empty_library = None;
        }
        // The next call has to look at what is listed now: then the load has failed.
        calls::look_again();
        is_found.then_some(&raw const self.raise)
    }

    /// The error to raise for an object; `None` if the loader has no function that raises errors.
    pub(crate) fn raise(&mut self, link_map: LinkMap, text: Text) -> Option<*const Raise> {
        (self.signal_error != 0).then(|| {
            self.set_raise(link_map, text);
            &raw const self.raise
        })
    }

    /// Makes the load of this object fail. False if the object does not look as expected. If
    /// another object of the same load is refused already, nothing has to be done.
    pub(crate) fn poison(&mut self, link_map: LinkMap, text: Text) -> bool {
        if self.is_refusing() {
            return true;
        }
        self.name = text.copy().fit_for_library_name();
        self.empty_library = (self.signal_error != 0).then(EmptyLibrary::new).flatten();
        self.set_raise(link_map, text);
        let empty_library = self.empty_library.as_mut().map(EmptyLibrary::path);
        // SAFETY: this is the hook, the object is being added, and both names live in the agent.
        unsafe { link_map.poison(empty_library, self.name.as_c_string(), &POISON) }
    }

    /// Whether a library that is listed is refused. Its load fails as a whole. A second refusal
    /// would overwrite what the loader has yet to read for the first one.
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
