//! The properties.

use engraft_core::Error;

use super::act::Act;
use super::explore::Violation;
use super::hands::{Hands, Injected, Sabotage};
use super::machine::Machine;
use super::process::{ImageState, OBSERVER, Phase};
use super::scope::{A, B, MAIN, Scope};

impl Machine {
    /// What has to hold in every state.
    pub fn check(&self, scope: &Scope) -> Result<(), Violation> {
        let checks = [
            self.process.check_references(),
            self.check_order(),
            self.check_states(),
            self.check_calls(scope),
            self.check_modules(),
        ];
        let violations: Vec<_> = checks.into_iter().filter_map(Result::err).collect();
        if violations.is_empty() {
            Ok(())
        } else {
            Err(violations.join("\n"))
        }
    }

    /// The core, dispatch and the history agree on where everybody is.
    fn check_states(&self) -> Result<(), Violation> {
        for thread in self.process.everybody() {
            let core = self.core.transition().map(|it| {
                // Whoever has switched at the door is noted the next time that the core acts.
                let waits = it.waiting().any(|waiting| waiting == thread);
                match self.process.state(thread) {
                    Some(state) if waits && state == it.others() => state,
                    _ => it.thread_state(thread),
                }
            });
            let states = [self.process.state(thread), core];
            let universe = self.history.universe(thread);
            if states != [universe; 2] {
                return Err(format!(
                    "{thread:?} is {universe:?}, but dispatch and the core have {states:?}"
                ));
            }
        }
        Ok(())
    }

    /// Every call goes where the history says, and nobody is inside of anything else.
    fn check_calls(&self, scope: &Scope) -> Result<(), Violation> {
        let alive = self.process.threads.iter().filter(|thread| thread.alive);
        for thread in alive.clone().map(|thread| thread.id).chain([OBSERVER]) {
            for (module, phase) in &self.process.modules {
                if !phase.runs() {
                    continue;
                }
                let function = if *module == MAIN { A } else { B };
                let code = self.process.resolve(thread, *module, function);
                let expected = self.history.expected(scope, thread, function);
                if code != expected {
                    return Err(format!(
                        "{thread:?} calling {function:?} of {module:?} gets {code:?}, not {expected:?}"
                    ));
                }
            }
        }
        for thread in alive.filter(|thread| !thread.forced) {
            for frame in &thread.frames {
                let expected = self.history.expected(scope, thread.id, frame.function);
                if frame.code != expected {
                    return Err(format!(
                        "{:?} sees two universes: inside of {frame:?}, but calls get {expected:?}",
                        thread.id
                    ));
                }
            }
        }
        Ok(())
    }

    /// Rule 1: every func stack is in the order of the list.
    fn check_order(&self) -> Result<(), Violation> {
        for module in self.core.modules() {
            for site in module.sites() {
                let mut stack: Vec<_> = site.func_stack().map(|func| func.patch).collect();
                let newest_first = self.history.order.iter().rev().copied();
                let wanted: Vec<_> = newest_first.filter(|it| stack.contains(it)).collect();
                if stack != wanted {
                    stack.dedup();
                    return Err(format!(
                        "the stack of {:?} in {:?} is {stack:?}, enabled last were {wanted:?}",
                        site.function(),
                        module.id()
                    ));
                }
            }
        }
        let listed: Vec<_> = self.core.patches().iter().map(|patch| patch.id()).collect();
        if listed != self.history.order {
            return Err(format!(
                "{listed:?} listed, but {:?} enabled",
                self.history.order
            ));
        }
        Ok(())
    }

    /// The core knows the modules that are there and no others, and no image is half done.
    fn check_modules(&self) -> Result<(), Violation> {
        for (module, phase) in &self.process.modules {
            if (*phase == Phase::Absent) != self.core.module(*module).is_none() {
                return Err(format!("{module:?} is {phase:?}, the core disagrees"));
            }
        }
        if let Some((image, _)) = self
            .process
            .images
            .iter()
            .find(|(_, state)| **state == ImageState::Half)
        {
            return Err(format!("{image:?} was left half done"));
        }
        Ok(())
    }

    /// After a failure, everything is as before, or as is documented.
    pub fn check_undone(
        &self,
        before: &Self,
        act: Act,
        error: Error<Injected>,
    ) -> Result<(), Violation> {
        if self.core.transition().is_some_and(|it| it.is_canceled()) {
            return Ok(());
        }
        let mut scratch = before.clone();
        let mut hands = Hands::new(&mut scratch.process, 0, Sabotage::None);
        match (act, error) {
            // Sites that are written already are right, the rest is as before.
            (Act::Complete(_) | Act::Reverse(..), Error::Site(..)) => return Ok(()),
            // Those that have switched stay so.
            (Act::Force(_), Error::Threads(..)) => return Ok(()),
            (_, Error::Refused(_)) => {}
            // More threads may be listed; where everybody is has been checked.
            (Act::Start(_) | Act::StartNobody(_), Error::Threads(..)) => {
                scratch.process.table = self.process.table.clone();
            }
            (Act::End(thread), Error::Threads(..)) => scratch.process.thread(thread).alive = false,
            (Act::Begin(patch), _) => {
                scratch
                    .core
                    .abandon(&mut hands, patch)
                    .map_err(|it| format!("{it:?}"))?;
            }
            (Act::Come(module), _) => {
                scratch
                    .core
                    .module_going(&mut hands, module)
                    .map_err(|it| format!("{it:?}"))?;
                scratch.process.modules.insert(module, Phase::Absent);
            }
            _ => {}
        }
        scratch.process.log = self.process.log.clone();
        // A door may be closed at any time, and whoever has switched there may be noted.
        scratch.process.doors.clone_from(&self.process.doors);
        let mut after = self.clone();
        for machine in [&mut scratch, &mut after] {
            let mut hands = Hands::new(&mut machine.process, 0, Sabotage::None);
            machine.core.note_switched(&mut hands);
        }
        if after != scratch {
            return Err(format!("after {error:?} something else has changed"));
        }
        Ok(())
    }
}
