//! Sites: where calls of one old function in one module go.

use alloc::vec::Vec;

use crate::terms::grow;
use crate::{Code, FuncId, LinkAddress, OutOfMemory, PatchId, SiteTarget};

/// A func on a stack. A nop stands for the original code: it hides what is below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) func: FuncId,
    pub(crate) nop: bool,
}

impl Entry {
    pub(crate) fn code(self) -> Code {
        if self.nop {
            Code::Original
        } else {
            Code::Func(self.func)
        }
    }
}

/// The detour at an old function's entry, with the function's func stack.
#[cfg_attr(feature = "controls", derive(Clone))]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Site {
    function: LinkAddress,
    /// Newest last, as the patches were enabled.
    stack: Vec<Entry>,
    /// What the world last agreed to.
    pub(crate) target: SiteTarget,
}

impl Site {
    pub(crate) const fn new(function: LinkAddress) -> Self {
        Self {
            function,
            stack: Vec::new(),
            target: SiteTarget::Original,
        }
    }

    /// The old function.
    pub const fn function(&self) -> LinkAddress {
        self.function
    }

    /// Where calls go now.
    pub const fn target(&self) -> SiteTarget {
        self.target
    }

    /// The func stack, newest first.
    pub fn func_stack(&self) -> impl Iterator<Item = FuncId> + '_ {
        self.stack.iter().rev().map(|entry| entry.func)
    }

    pub(crate) fn push(&mut self, entry: Entry) -> Result<(), OutOfMemory> {
        grow::push(&mut self.stack, entry)
    }

    /// Takes off what does not pass `keep`.
    pub(crate) fn retain(&mut self, keep: impl Fn(Entry) -> bool) {
        self.stack.retain(|entry| keep(*entry));
    }

    /// Nothing is patched here and nothing has to be restored.
    pub(crate) fn is_unused(&self) -> bool {
        self.stack.is_empty() && self.target == SiteTarget::Original
    }

    /// Where calls have to go if only what passes `keep` counted and `transition` was the patch in
    /// transition. The one place that decides what runs.
    ///
    /// Only the top can be in transition with something below it for the other universe: a patch
    /// further down is hidden in both universes, and only one patch is in transition.
    pub(crate) fn wanted(
        &self,
        transition: Option<PatchId>,
        keep: impl Fn(Entry) -> bool,
    ) -> SiteTarget {
        let mut stack = self
            .stack
            .iter()
            .rev()
            .copied()
            .filter(|entry| keep(*entry));
        let Some(top) = stack.next() else {
            return SiteTarget::Original;
        };
        let new = top.code();
        if transition == Some(top.func.patch) {
            let old = stack.next().map_or(Code::Original, Entry::code);
            if old != new {
                return SiteTarget::Dispatch { old, new };
            }
        }
        match new {
            Code::Original => SiteTarget::Original,
            Code::Func(func) => SiteTarget::Direct(func),
        }
    }

    /// What threads leave when they switch to `func`: what is below it, or on top if it is not on
    /// the stack yet. `None` where another patch hides it, so that switching changes nothing.
    pub(crate) fn below(&self, func: FuncId) -> Option<Code> {
        let mut stack = self.stack.iter().rev();
        let below = match stack.next() {
            Some(top) if top.func == func => stack.next(),
            Some(_) if self.stack.iter().any(|entry| entry.func == func) => return None,
            top => top,
        };
        Some(below.map_or(Code::Original, |entry| entry.code()))
    }
}
