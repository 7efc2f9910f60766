//! The grammar of the kernel's log (kernel/livepatch/core.c and transition.c, and what the kernel's
//! selftests expect), as an automaton that takes one event after the other.
//!
//! ```text
//! log      = { enable | disable | module }
//! enable   = Enabling Initializing(P) { PrePatch } ( waiting | failure )
//! failure  = [ PrePatchFailed | PatchObjectFailed ] EnableFailed Canceling end(U)
//! disable  = Initializing(U) { PreUnpatch } waiting
//! waiting  = { module } ( Starting moving | Reversing Starting moving )
//! moving   = { Forcing | module } ( Reversing waiting | end )
//! end(t)   = Completing(t) { PostPatch or PostUnpatch } Complete(t) { Removed }
//! module   = { come } [ refusal ] | { go } | { Forgetting }
//! come     = Applying PrePatch [ PostPatch ]          -- no PostPatch in transition
//! refusal  = ( InitializeFailed | Applying PrePatch PrePatchFailed
//!            | Applying PrePatch PatchObjectFailed PostUnpatch ) Refusing { go }
//! go       = [ PreUnpatch ] Reverting PostUnpatch     -- no PreUnpatch in transition
//! ```
//!
//! The kernel has no `waiting`: there, Starting follows at once.
//!
//! Besides, for each patch and module, PostUnpatch runs once for each PrePatch that succeeded,
//! unless the patch was replaced, forced out, or the module was found gone; and PreUnpatch only
//! after PostPatch.

use std::collections::BTreeMap;

use engraft_core::{Callback, CallbackScope, Event, PatchId, PatchState};

use super::explore::Violation;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Owed {
    Patched,
    Settled,
    Leaving,
}

impl At {
    /// Whether something else may follow.
    fn is_rest(self) -> bool {
        use At::*;
        matches!(
            self,
            Between | Canceling | Completed | Applying | Applied | Refused | Reverted
        )
    }
}

/// Where the log is within a production.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum At {
    #[default]
    Between,
    Enabling,
    PrePatching,
    Failing,
    EnableFailed,
    Canceling,
    PreUnpatching,
    Reversing,
    Completing,
    Completed,
    Applying,
    Applied,
    ApplyFailed,
    Refused,
    Going,
    Reverted,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Log {
    at: At,
    /// The patch that the production is about.
    patch: Option<PatchId>,
    transition: Option<(PatchId, PatchState)>,
    started: bool,
    owed: BTreeMap<(PatchId, ScopeKey), Owed>,
}

type ScopeKey = (u8, u64);

fn key(scope: CallbackScope) -> (PatchId, ScopeKey) {
    match scope {
        CallbackScope::Object(object, module) => (object.patch, (0, module.0.into())),
        // A state is handed on from patch to patch.
        CallbackScope::State(_, state) => (PatchId(u32::MAX), (1, state.0)),
    }
}

fn patch_of(scope: CallbackScope) -> PatchId {
    match scope {
        CallbackScope::Object(object, _) => object.patch,
        CallbackScope::State(patch, _) => patch,
    }
}

impl Log {
    /// Takes the next event, or says why the kernel could not have written it here.
    pub fn accept(&mut self, event: Event) -> Result<(), Violation> {
        let before = self.at;
        self.step(event).ok_or_else(|| {
            format!(
                "the kernel could not log {event:?} here ({before:?}, {:?})",
                self.transition
            )
        })
    }

    fn step(&mut self, event: Event) -> Option<()> {
        use At::*;
        let idle = self.transition.is_none();
        let rest = self.at.is_rest();
        self.at = match event {
            Event::Enabling(patch) if idle && rest => self.about(patch, Enabling),
            Event::Initializing(patch, PatchState::Patched)
                if self.at == Enabling && self.patch == Some(patch) =>
            {
                self.transition = Some((patch, PatchState::Patched));
                self.started = false;
                PrePatching
            }
            Event::Initializing(patch, PatchState::Unpatched) if idle && rest => {
                self.transition = Some((patch, PatchState::Unpatched));
                self.started = false;
                self.about(patch, PreUnpatching)
            }
            Event::Starting(patch, target)
                if self.transition == Some((patch, target))
                    && !self.started
                    && (rest || self.at == Reversing) =>
            {
                self.started = true;
                Between
            }
            Event::PrePatchFailed(scope) if matches!(self.at, PrePatching | Applying) => {
                self.owed.remove(&key(scope))?;
                if self.at == Applying {
                    ApplyFailed
                } else {
                    Failing
                }
            }
            Event::PatchObjectFailed(object, _, _) if self.patch == Some(object.patch) => {
                match self.at {
                    PrePatching => Failing,
                    Applying | Applied => ApplyFailed,
                    _ => return None,
                }
            }
            Event::EnableFailed(patch)
                if self.patch == Some(patch) && matches!(self.at, Failing | PrePatching) =>
            {
                EnableFailed
            }
            Event::Canceling(patch) if self.at == EnableFailed && self.patch == Some(patch) => {
                self.transition = Some((patch, PatchState::Unpatched));
                self.started = true;
                Canceling
            }
            Event::Reversing(patch, target)
                if rest && self.transition == Some((patch, target.other())) =>
            {
                self.transition = Some((patch, target));
                let turned = if self.started { Between } else { Reversing };
                self.started = false;
                turned
            }
            Event::Forcing(patch, target)
                if rest && self.started && self.transition == Some((patch, target)) =>
            {
                Between
            }
            Event::Completing(patch, target)
                if self.transition == Some((patch, target)) && self.started && rest =>
            {
                self.about(patch, Completing)
            }
            Event::Complete(patch, target)
                if self.at == Completing && self.transition == Some((patch, target)) =>
            {
                self.transition = None;
                self.started = false;
                self.patch = Some(patch);
                Completed
            }
            Event::Removed(patch) if self.at == Completed => {
                self.owed.retain(|(other, _), _| *other != patch);
                Completed
            }
            Event::InitializeFailed(patch, _) if rest => self.about(patch, ApplyFailed),
            Event::Applying(patch, _) if rest => self.about(patch, Applying),
            Event::Refusing(patch, _) if self.at == ApplyFailed && self.patch == Some(patch) => {
                Refused
            }
            Event::Reverting(patch, _)
                if rest || (self.at == Going && self.patch == Some(patch)) =>
            {
                self.about(patch, Reverted)
            }
            Event::Forgetting(patch, module) if rest => {
                self.owed.remove(&(patch, (0, module.0.into())));
                Between
            }
            Event::Calling(callback, scope) => self.callback(callback, scope)?,
            _ => return None,
        };
        Some(())
    }

    fn callback(&mut self, callback: Callback, scope: CallbackScope) -> Option<At> {
        use At::*;
        let (key, patch) = (key(scope), patch_of(scope));
        let owed = self.owed.get(&key).copied();
        let own = self.patch == Some(patch);
        let moving = self.transition.is_some_and(|(it, _)| it == patch);
        let (at, next) = match (callback, self.at) {
            (Callback::PrePatch, PrePatching | Applying) if own && owed.is_none() => {
                (self.at, Some(Owed::Patched))
            }
            (Callback::PostPatch, Completing | Applying)
                if own && owed.is_some() && (self.at == Completing || !moving) =>
            {
                (
                    if self.at == Applying {
                        Applied
                    } else {
                        Completing
                    },
                    Some(Owed::Settled),
                )
            }
            (Callback::PreUnpatch, PreUnpatching) if own && owed == Some(Owed::Settled) => {
                (PreUnpatching, Some(Owed::Leaving))
            }
            (Callback::PreUnpatch, at)
                if at.is_rest() && !moving && owed == Some(Owed::Settled) =>
            {
                self.patch = Some(patch);
                (Going, Some(Owed::Leaving))
            }
            (Callback::PostUnpatch, Completing | Reverted | ApplyFailed)
                if own && owed.is_some() =>
            {
                (self.at, None)
            }
            _ => return None,
        };
        match next {
            Some(owed) => self.owed.insert(key, owed),
            None => self.owed.remove(&key),
        };
        Some(at)
    }

    fn about(&mut self, patch: PatchId, at: At) -> At {
        self.patch = Some(patch);
        at
    }

    /// A request has been carried out: the log must not stop within a production, and has to say
    /// how far the transition is.
    pub fn rest(&mut self, moving: Option<(PatchId, PatchState, bool)>) -> Result<(), Violation> {
        let open = matches!(self.at, At::PrePatching | At::PreUnpatching);
        if !open && !self.at.is_rest() {
            return Err(format!("the log stops at {:?}", self.at));
        }
        let logged = self.transition.map(|(patch, to)| (patch, to, self.started));
        if logged != moving {
            return Err(format!("the log says {logged:?}, the core {moving:?}"));
        }
        self.at = At::Between;
        self.patch = None;
        Ok(())
    }
}
