//! Modules that come and go. Each call of the dynamic loader is compared with what is known: which
//! modules are new, and which have gone. Modules that cannot be patched are refused. The kernel's
//! counterparts are `klp_module_coming` and `klp_module_going`.

#![expect(unsafe_code, reason = "ends a call of the loader's")]

use core::ptr::null;

use engraft_abi::Outcome;
use engraft_core::ModuleId;

use crate::loader::hook::{Hook, Raise};
use crate::loader::namespaces::{self, Activity, LinkMap, Namespace};
use crate::loader::{broken, calls};
use crate::model::agent::Agent;
use crate::model::module_registry::RegisteredModule;
use crate::system::code_writer::CodeWriter;
use crate::system::failure::{Failure, Text};

impl Agent {
    /// Handles a call of the loader: the error to raise, or null.
    // Not inlined: a test makes it panic.
    #[inline(never)]
    pub(crate) fn loader_event(&mut self) -> *const Raise {
        let Some(debug) = self.hook.as_ref().map(Hook::debug) else {
            return null();
        };
        // No thread runs the code of a module that is coming, so the agent writes itself.
        let controller = core::mem::replace(&mut self.host.writer, CodeWriter::Agent);
        let lists = namespaces::fingerprint(debug);
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
        let mut raise = self
            .hook
            .as_mut()
            .and_then(|hook| hook.empty_library_seen(&call.activity));
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
        calls::set_known(lists, base);
        if changes.any {
            self.modules_changed();
        }
        if changes.shown {
            self.publish();
        }
        self.host.writer = controller;
        raise.unwrap_or(null())
    }

    /// Forgets the modules that the loader has unmapped and not reported yet. All threads are
    /// stopped; a patch is about to be enabled or disabled. While the loader is about to unmap a
    /// module, it is not known what may still be written to. So this fails, and the controller
    /// tries again.
    pub(crate) fn forget_unmapped(&mut self) -> Result<(), Failure> {
        let Some(debug) = self.hook.as_ref().map(Hook::debug) else {
            return Ok(());
        };
        if let Activity::Deleting = Activity::of(debug) {
            let text = b"a library is being unloaded at this moment";
            return Err(Failure::new(Outcome::LoaderBusy, text));
        }
        if self.forget_vanished(debug).any {
            // No fingerprint is known for what is left, until the loader calls again.
            calls::set_known(0, 0);
            self.modules_changed();
        }
        Ok(())
    }

    /// Forgets the modules that have lapsed. A module lapses if it was among the last to be added,
    /// no patch concerns it, and it has gone. Returns whether there were any. After this the
    /// modules that were added last cannot lapse, so a command may use them.
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

    /// Forgets the modules that were unmapped since the last call. Their code is gone, so nothing
    /// is written there.
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

    /// Whether a snapshot shows a module.
    fn is_shown(&self, module: ModuleId) -> bool {
        let mut modules = self.core.modules().iter();
        let known = modules.find(|known| known.id() == module);
        known.is_some_and(|known| !known.bindings().is_empty())
            || self.host.has_images(module)
            || self.host.unwinders.has(module)
    }

    /// Patches an object if it is new. The error to raise, if it is refused.
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
        changes.shown |= self.redirect_unwinder(module);
        let build_id = self.host.modules.get(module)?.build_id?;
        let come = self.core.module_coming(&mut self.host, module, build_id);
        changes.shown |= come.is_err() || self.is_shown(module);
        let failure = self.describe(come.err()?);
        self.refuse(link_map, Some(module), &failure, call)
    }

    /// Redirects the unwinder of a module that is coming. Returns whether the module has one. If it
    /// cannot be redirected, the module is not refused, and the snapshot says why.
    fn redirect_unwinder(&mut self, module: ModuleId) -> bool {
        let host = &mut self.host;
        let has_one = |module: &RegisteredModule| module.find_fde().is_some();
        let is_one = host.modules.get(module).is_some_and(has_one);
        if is_one && host.prepare_unwinders().is_ok() {
            // Only this one: threads may be in all others.
            let _ = host.unwinders.redirect(host.writer, true, Some(module));
        }
        is_one
    }

    /// Makes a load fail. While objects are added, the refused one gets a need that leads to an
    /// empty library or cannot be met. After that, and before relocation, the loader's own error is
    /// raised. At other times (the clean-up of a load that failed, a dlclose) nothing new comes,
    /// and raising would skip the loader's own work.
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
                let poisoned = hook.poison(link_map, text);
                if let (false, Some(module)) = (poisoned, module) {
                    // So it is new again, and refused, when the loader says "consistent".
                    self.host.modules.remove(module);
                }
                None
            }
            Activity::None if call.was_adding => hook.raise(link_map, text),
            Activity::None | Activity::Deleting => None,
        }
    }
}

/// What a call of the loader says.
struct Call {
    activity: Activity,
    /// The call before this one said that objects are being added: a load is under way.
    was_adding: bool,
}

/// What a call of the loader has changed.
#[derive(Default)]
struct Changes {
    /// Modules have come or gone.
    any: bool,
    /// A snapshot shows them.
    shown: bool,
}
