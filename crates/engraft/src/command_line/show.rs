//! The status of a process in words.

use std::fmt::Write as _;

use engraft::{
    Blocker, ObjectStatus, OtherBuild, PatchPhase, StackSwitcher, Status, TransitionStatus,
    UnwinderStatus,
};

/// The status in words.
pub(super) fn describe(status: &Status) -> String {
    let mut text = String::new();
    let pid = status.pid;
    // Writing to a String cannot fail.
    let _ = match (&status.agent, status.patches.len()) {
        (None, _) => writeln!(text, "process {pid}: never patched"),
        (Some(_), 0) => writeln!(text, "process {pid}: no patches"),
        (Some(_), 1) => writeln!(text, "process {pid}: 1 patch"),
        (Some(_), count) => writeln!(text, "process {pid}: {count} patches"),
    };
    if let Some(agent) = status.agent.as_ref().filter(|agent| agent.broken) {
        let _ = writeln!(
            text,
            "  the agent found its own state damaged: it refuses all changes, and libraries that patches concern; \
             loads of others since: {}",
            agent.loads_since_broken
        );
    }
    for unwinder in &status.unwinders {
        if let Some(words) = describe_unwinder(unwinder) {
            let _ = writeln!(text, "  {words}");
        }
    }
    if let Some(words) = describe_switchers(&status.switchers) {
        let _ = writeln!(text, "  {words}");
    }
    for patch in &status.patches {
        let state = match patch.state {
            PatchPhase::Disabled => "disabled",
            PatchPhase::Enabled => "enabled",
            PatchPhase::Enabling => "in transition: being enabled",
            PatchPhase::Disabling => "in transition: being disabled",
        };
        // A disabled one has no place in the order.
        let place = patch.order.map_or("-".into(), |order| format!("{order}."));
        let partial = if patch.partial { ", partial" } else { "" };
        let _ = writeln!(text, "  {place} {} ({state}{partial})", patch.name);
        if matches!(patch.state, PatchPhase::Enabling | PatchPhase::Disabling)
            && let Some(transition) = &status.transition
        {
            describe_transition(&mut text, transition);
        }
        for object in &patch.objects {
            let functions = object.functions.join(", ");
            let _ = writeln!(
                text,
                "     {} [{}]: {functions}",
                object.file_name, object.build_id
            );
            for module in &object.modules {
                let path = if module.path.is_empty() {
                    "the program"
                } else {
                    &module.path
                };
                let what = match (module.patched, patch.state) {
                    (true, PatchPhase::Enabled) => "patched",
                    (true, PatchPhase::Enabling | PatchPhase::Disabling) => {
                        "in transition: some threads may run the old code"
                    }
                    (false, _) | (true, PatchPhase::Disabled) => "not patched",
                };
                let _ = writeln!(text, "       {path}: {what}");
            }
            for other in &object.other_builds {
                let words = describe_other_build(object, other);
                let _ = writeln!(text, "       {words}");
            }
            if object.modules.is_empty() && patch.state != PatchPhase::Disabled {
                text.push_str("       waits for it to be loaded\n");
            }
        }
    }
    text
}

/// A module that is another build of the object, in words.
pub(super) fn describe_other_build(object: &ObjectStatus, other: &OtherBuild) -> String {
    let found = match &other.build_id {
        Some(found) => format!("build-id {found}"),
        None => "no build-id".to_owned(),
    };
    format!(
        "{}: not patched: another build of {} ({found}, the patch is for {})",
        other.path, object.file_name, object.build_id
    )
}

/// An unwinder that does not get through new code, in words; `None` if it does.
pub(super) fn describe_unwinder(unwinder: &UnwinderStatus) -> Option<String> {
    let failure = unwinder.failure.as_ref()?;
    let path = match unwinder.path.as_str() {
        "" => "the program",
        path => path,
    };
    Some(format!(
        "exceptions and cancelled threads do not get through new code: {path}: {failure}"
    ))
}

/// The ways in which a program switches stacks, in words; `None` if it does not.
pub(super) fn describe_switchers(switchers: &[StackSwitcher]) -> Option<String> {
    let switchers: Vec<String> = switchers.iter().map(ToString::to_string).collect();
    (!switchers.is_empty()).then(|| {
        format!(
            "it switches stacks, by {}: contexts may be suspended in code without a thread",
            switchers.join(", ")
        )
    })
}

/// Appends which threads have yet to switch, and why.
fn describe_transition(text: &mut String, transition: &TransitionStatus) {
    let since = transition
        .seconds
        .map(|seconds| format!(", after {seconds} s"));
    let since = since.unwrap_or_default();
    // Writing to a String cannot fail.
    let _ = match (transition.started, transition.waiting) {
        (false, _) => writeln!(
            text,
            "     no thread has switched: what began it has gone; `engraft wait` goes on with it"
        ),
        (true, 0) => writeln!(
            text,
            "     every thread has switched; `engraft wait` ends it"
        ),
        (true, 1) => writeln!(text, "     1 thread has yet to switch{since}"),
        (true, count) => writeln!(text, "     {count} threads have yet to switch{since}"),
    };
    for blocker in &transition.threads {
        let Blocker {
            tid, name, frame, ..
        } = blocker;
        let frame = frame.as_deref().unwrap_or_default();
        let how = match blocker.at_next_call {
            true => "it switches by itself at its next call",
            false => "it has to be seen outside",
        };
        let _ = match blocker.reason {
            Some(reason) => writeln!(
                text,
                "       thread {tid} ({name}) {reason} function '{}': {frame}; {how}",
                blocker.function
            ),
            None => writeln!(
                text,
                "       thread {tid} ({name}) is clear, and will switch at the next look"
            ),
        };
    }
}
