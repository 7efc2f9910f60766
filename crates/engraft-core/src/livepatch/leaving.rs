//! What threads must not be inside of when they switch.

use super::lists::Livepatch;
use crate::{Code, LinkAddress, Module, ModuleId, Patch, PatchId, PatchState, Refusal};

/// Code that threads must not be inside of when they switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leaving {
    /// The module.
    pub module: ModuleId,
    /// The old function.
    pub function: LinkAddress,
    /// Which of its bodies.
    pub code: Code,
}

impl Livepatch {
    /// Visits the bodies that a thread must not be inside of, or able to return into, when it
    /// switches to `target` of `patch`, which is prepared, enabled or in transition.
    ///
    /// Towards `Patched` these are what its funcs come on top of, and all code of the patches that
    /// it replaces: the kernel looks only at the former, and so may free code that a thread was
    /// forced past. Towards `Unpatched` it is all code of the patch, also where a newer one hides
    /// it.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotEnabled`].
    pub fn leaving(
        &self,
        patch: PatchId,
        target: PatchState,
        mut visit: impl FnMut(Leaving),
    ) -> Result<(), Refusal> {
        let mut known = self.patches.iter().chain(&self.prepared);
        let newest = known
            .find(|it| it.id() == patch)
            .ok_or(Refusal::NotEnabled(patch))?;
        for module in self.modules.iter().filter(|module| module.is_alive()) {
            if target == PatchState::Unpatched {
                each_body(module, newest, &mut visit);
                continue;
            }
            each_below(module, newest, &mut visit);
            let older = self.patches.iter().take_while(|it| it.id() != patch);
            for older in older.filter(|older| older.is_replaced_by(newest)) {
                each_body(module, older, &mut visit);
            }
        }
        Ok(())
    }
}

/// The bodies that a patch brings to a module; for a nop, the original.
fn each_body(module: &Module, patch: &Patch, visit: &mut impl FnMut(Leaving)) {
    let Some((id, object)) = patch.object(module.build_id()) else {
        return;
    };
    for (function, entry) in object.entries(id) {
        visit(Leaving {
            module: module.id(),
            function,
            code: entry.code(),
        });
    }
}

/// The bodies that run in a module where a patch's funcs are not on top, or not yet.
fn each_below(module: &Module, patch: &Patch, visit: &mut impl FnMut(Leaving)) {
    let Some((id, object)) = patch.object(module.build_id()) else {
        return;
    };
    for (function, entry) in object.entries(id) {
        let mut sites = module.sites().iter();
        let site = sites.find(|site| site.function() == function);
        if let Some(code) = site.map_or(Some(Code::Original), |site| site.below(entry.func)) {
            visit(Leaving {
                module: module.id(),
                function,
                code,
            });
        }
    }
}
