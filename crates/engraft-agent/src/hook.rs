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

use core::ptr::null;

use engraft_abi::Outcome;
use engraft_core::ModuleId;

use crate::agent::Agent;
use crate::broken;
use crate::calls;
use crate::decoy::Decoy;
use crate::failure::{Failure, Text};
use crate::loader::{self, Activity, LinkMap, Namespace, PoisonedDynamic};
use crate::lock::Guard;
use crate::memory::probe;
use crate::modules::Module;
use crate::request::Writer;
use crate::system::{SignalSet, block_signals, is_filtered};

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

/// Called by the loader, through the entry stub, instead of its break function. Null, or the error to
/// raise.
///
/// # Safety
/// Only the entry stub calls it; `entry_stack` is where the return address of this call is.
pub unsafe extern "C" fn loader_hook(entry_stack: u64) -> *const Raise {
    let debug = calls::debug();
    loader::look_for_namespaces(debug);
    // Three of the four calls for a library that no patch concerns end here. No lock is held and no state
    // touched, so a signal may come at any point; see `calls` for what it may do.
    if calls::brings_nothing(loader::fingerprint(debug)) {
        let activity = Activity::of(debug);
        calls::count(matches!(activity, Activity::None));
        // SAFETY: this is the hook.
        calls::replace_adding(unsafe { activity.end_call() });
        return null();
    }
    something_changed(entry_stack)
}

/// The rest of [`loader_hook`], when the loader's lists are not the known ones.
// Not inlined, so that the other way needs no stack.
#[inline(never)]
fn something_changed(entry_stack: u64) -> *const Raise {
    // Read once: a controller may find a filter between the two uses.
    let filtered = is_filtered();
    // The program's signal handlers may call dlopen, which would wait for this very call. Under a filter
    // that risk is taken: POSIX does not allow dlopen there, and the filter may not allow the call.
    let signals = (!filtered).then(|| block_signals(SignalSet::ALL));
    let mut guard = Guard::acquire(entry_stack, signals, filtered);
    let raise = if guard.is_broken() {
        broken::loader_event()
    } else {
        guard.agent().map_or(null(), Agent::loader_event)
    };
    drop(guard);
    if let Some(signals) = signals {
        block_signals(signals);
    }
    raise
}

/// The same once more, after a panic in the middle of it.
#[cfg(feature = "freestanding")]
pub(crate) extern "C" fn begin_again(entry_stack: u64) -> *const Raise {
    something_changed(entry_stack)
}

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
        let function = loader::break_function(debug);
        let unknown = || unknown_break_function(function);
        let found = probe::<[u8; 16]>(function).ok_or_else(unknown)?;
        let offset = empty_function(&found).ok_or_else(unknown)?;
        let [a, b, c, d, e, f, g, h] = entry.to_le_bytes();
        // jmp [rip+0], followed by the address: reaches everywhere, but has room only in front.
        let far = [0xff, 0x25, 0, 0, 0, 0, a, b, c, d, e, f, g, h];
        let near = crate::code::jump(function + offset as u64, entry);
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
        loader::set_unchained(debug, unchained);
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

impl Agent {
    /// The loader has done something; finds out what.
    // Not inlined: a test makes it panic.
    #[inline(never)]
    fn loader_event(&mut self) -> *const Raise {
        let Some(debug) = self.hook.as_ref().map(|hook| hook.debug) else {
            return null();
        };
        // Nobody runs the code of a module that is coming, and no controller is asked.
        let controller = core::mem::replace(&mut self.host.writer, Writer::Agent);
        let lists = loader::fingerprint(debug);
        let activity = Activity::of(debug);
        calls::count(matches!(activity, Activity::None));
        let was_adding = calls::replace_adding(false);
        broken::note_event(was_adding);
        let lapsed = self.forget_lapsed();
        let before = calls::known();
        let mut changes = self.forget_vanished(debug);
        let only_new = !changes.any;
        let first_new = self.host.modules.next_id();
        let call = Call {
            activity,
            was_adding,
        };
        let mut hint = 0;
        let mut raise = self.decoy_seen(debug, &call);
        for namespace in Namespace::all(debug) {
            for link_map in namespace.link_maps() {
                if raise.is_none() {
                    raise = self.module_seen(link_map, &call, &mut hint, &mut changes);
                }
            }
        }
        // SAFETY: this is the hook.
        calls::replace_adding(unsafe { call.activity.end_call() });
        let new = first_new..self.host.modules.next_id();
        let base = match only_new && !new.is_empty() && !changes.shown {
            true => before,
            false => 0,
        };
        changes.any |= lapsed || !new.is_empty();
        self.host.modules.added_last = new;
        calls::settle(lists, base);
        if changes.any {
            self.modules_changed();
        }
        if changes.shown {
            self.publish();
        }
        self.host.writer = controller;
        raise.unwrap_or(null())
    }

    /// Before a patch is enabled or disabled, with all threads stopped: forgets what the loader has
    /// unmapped without having said so yet. While it is about to unmap something, nobody can tell what
    /// may still be touched; that is soon over.
    pub(crate) fn settle(&mut self) -> Result<(), Failure> {
        let Some(debug) = self.hook.as_ref().map(|hook| hook.debug) else {
            return Ok(());
        };
        if let Activity::Deleting = Activity::of(debug) {
            let text = b"a library is being unloaded at this moment";
            return Err(Failure::new(Outcome::LoaderBusy, text));
        }
        if self.forget_vanished(debug).any {
            // No list has exactly what is left until the loader says so.
            calls::settle(0, 0);
            self.modules_changed();
        }
        Ok(())
    }

    /// Modules that came last, concerned nobody and have lapsed. Whether there were any. After this they cannot
    /// lapse, so a command may do something with them.
    pub(crate) fn forget_lapsed(&mut self) -> bool {
        let lapsed = calls::take_lapsed();
        if lapsed {
            for module in self.host.modules.added_last.clone() {
                self.forget(ModuleId(module));
            }
        }
        lapsed
    }

    fn forget(&mut self, module: ModuleId) {
        // A module that was refused, or has no build-id, is unknown to the core.
        let _ = self.core.module_gone(&mut self.host, module);
        self.host.forget_module(module);
    }

    /// Modules that were unmapped since the last call. Their code is gone, so nothing is written there.
    fn forget_vanished(&mut self, debug: u64) -> Changes {
        let mut changes = Changes::default();
        self.host.modules.note_listed(debug);
        while let Some(module) = self.host.modules.find_vanished() {
            changes.any = true;
            changes.shown |= self.is_shown(module);
            self.forget(module);
        }
        changes
    }

    /// Whether a snapshot has something of a module.
    fn is_shown(&self, module: ModuleId) -> bool {
        let mut modules = self.core.modules().iter();
        let known = modules.find(|known| known.id() == module);
        known.is_some_and(|known| !known.bindings().is_empty())
            || self.host.has_images(module)
            || self.host.unwinders.has(module)
    }

    /// The error to raise, if the loader has found the decoy that a refused library seems to need. Otherwise the
    /// decoy has no use any more when the load is over.
    fn decoy_seen(&mut self, debug: u64, call: &Call) -> Option<*const Raise> {
        let hook = self.hook.as_mut()?;
        let decoy = hook.decoy.as_ref()?;
        let is_adding = matches!(call.activity, Activity::Adding(_));
        let mut all = Namespace::all(debug).flat_map(Namespace::link_maps);
        let is_found = is_adding && all.any(|link_map| decoy.is(link_map));
        if is_found || !is_adding {
            hook.decoy = None;
        }
        // What is listed now is looked at when the load has failed.
        calls::look_again();
        is_found.then_some(&raw const hook.raise)
    }

    /// Patches an object if it is new. The error to raise, if it must not come in.
    fn module_seen(
        &mut self,
        link_map: LinkMap,
        call: &Call,
        hint: &mut usize,
        changes: &mut Changes,
    ) -> Option<*const Raise> {
        let module = match self.host.modules.add_if_new(link_map, hint) {
            Ok(module) => module?,
            Err(failure) => return self.refuse(link_map, None, &failure, call),
        };
        changes.shown |= self.lead_unwinder(module);
        let build_id = self.host.modules.get(module)?.build_id?;
        let come = self.core.module_coming(&mut self.host, module, build_id);
        changes.shown |= come.is_err() || self.is_shown(module);
        let failure = self.describe(come.err()?);
        self.refuse(link_map, Some(module), &failure, call)
    }

    /// Leads the unwinder of a module that is coming, if it is one, through new code. If that is not possible,
    /// the module comes all the same, and the snapshot says so. Whether it is one.
    fn lead_unwinder(&mut self, module: ModuleId) -> bool {
        let host = &mut self.host;
        let has_one = |module: &Module| module.find_fde().is_some();
        let is_one = host.modules.get(module).is_some_and(has_one);
        if is_one && host.prepare_unwinders().is_ok() {
            // Threads may be in all others.
            let _ = host.unwinders.lead(host.writer, true, Some(module));
        }
        is_one
    }

    /// Makes the load fail: while objects are added, by a need that leads to a decoy, or cannot be met; after
    /// that, and before relocation, by raising the loader's own error. At other times (the clean-up of a load that
    /// failed, a dlclose) raising would skip the loader's own work, and nothing new comes in.
    fn refuse(
        &mut self,
        link_map: LinkMap,
        module: Option<ModuleId>,
        failure: &Failure,
        call: &Call,
    ) -> Option<*const Raise> {
        calls::look_again();
        let patch = self
            .host
            .refusing
            .take()
            .and_then(|patch| self.core.patch(patch));
        let text = Text::EMPTY.push(b"engraft: patch '");
        let text = text.push(patch.map(|patch| patch.name()).unwrap_or_default());
        let text = text.push(b"' cannot be applied to ").push(failure.words());
        let hook = self.hook.as_mut()?;
        match call.activity {
            Activity::Adding(_) => {
                let poisoned = hook.is_refusing() || hook.poison(link_map, text);
                if let (false, Some(module)) = (poisoned, module) {
                    // Then it is new once more when the loader says "consistent".
                    self.host.modules.remove(module);
                }
                None
            }
            Activity::None if call.was_adding && hook.signal_error != 0 => {
                hook.set_raise(link_map, text);
                Some(&raw const hook.raise)
            }
            Activity::None | Activity::Deleting => None,
        }
    }
}

impl Hook {
    /// Whether a library that is listed is refused: its load fails, with all that it brings. A second one must not
    /// take what the first one was given, which the loader has yet to read.
    fn is_refusing(&self) -> bool {
        let mut all = Namespace::all(self.debug).flat_map(Namespace::link_maps);
        all.any(|link_map| POISON.is_at(link_map.dynamic()))
    }

    /// Makes the load fail that is bringing this object in. Whether the object looks as expected.
    fn poison(&mut self, link_map: LinkMap, text: Text) -> bool {
        self.name = text.copy().fit_for_library_name();
        self.decoy = (self.signal_error != 0).then(Decoy::new).flatten();
        self.set_raise(link_map, text);
        let decoy = self.decoy.as_mut().map(Decoy::path);
        // SAFETY: this is the hook, the object is being added, and both names live in the agent.
        unsafe { link_map.poison(decoy, self.name.as_c_string(), &POISON) }
    }

    /// Prepares the error to raise.
    fn set_raise(&mut self, link_map: LinkMap, text: Text) {
        self.message = text;
        self.raise.object = link_map.name_address();
        self.raise.text = self.message.as_c_string().expose_provenance() as u64;
    }
}

/// What a call of the loader says.
struct Call {
    activity: Activity,
    /// The call before it announced that objects are added: a load is under way.
    was_adding: bool,
}

/// What a call of the loader has brought.
#[derive(Default)]
struct Changes {
    /// Modules have come or gone.
    any: bool,
    /// A snapshot shows them.
    shown: bool,
}
