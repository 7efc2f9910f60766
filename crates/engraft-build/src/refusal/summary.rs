//! Lists of refusals: each reason once, and those about one function together.
//!
//! A source may be compiled several times, and be in several binaries, and everything about it is
//! then found several times. And one function may have several reasons, such as several variables
//! that it uses.

use super::reasons::Refusal;

/// The refusals in the order in which they were found, without repetitions.
pub(crate) fn each_once(refusals: Vec<Refusal>) -> Vec<Refusal> {
    let mut known: Vec<Refusal> = Vec::new();
    for refusal in refusals {
        if !known.contains(&refusal) && !known.iter_mut().any(|it| it.takes_in(&refusal)) {
            known.push(refusal);
        }
    }
    known
}

/// One line for each refusal. Those that are about the same function or variable come under the
/// first of them, without its name.
pub(crate) fn by_subject(refusals: &[Refusal]) -> String {
    let mut groups: Vec<(Option<&str>, String)> = Vec::new();
    for refusal in refusals {
        let subject = refusal.subject();
        let text = refusal.to_string();
        let mut known = groups.iter_mut();
        match known.find(|(known, _)| subject.is_some() && *known == subject) {
            Some((_, lines)) => {
                let rest = subject.and_then(|subject| text.strip_prefix(subject));
                let rest = rest.unwrap_or(&text).trim_start_matches([':', ' ']);
                lines.push_str("\n    and ");
                lines.push_str(rest);
            }
            None => groups.push((subject, format!("  {text}"))),
        }
    }
    let lines: Vec<_> = groups.into_iter().map(|(_, lines)| lines).collect();
    lines.join("\n")
}

impl Refusal {
    /// Merges another refusal into this one if it has the same reason. Returns whether it has.
    fn takes_in(&mut self, other: &Self) -> bool {
        let Some((functions, more)) = self.functions_of_same(other) else {
            return false;
        };
        let new = more.iter().filter(|name| !functions.contains(name));
        let new: Vec<_> = new.cloned().collect();
        functions.extend(new);
        true
    }

    /// The functions of both, if they differ in nothing else.
    fn functions_of_same<'a>(
        &'a mut self,
        other: &'a Self,
    ) -> Option<(&'a mut Vec<String>, &'a [String])> {
        match (self, other) {
            (
                Self::LinkTimeOptimisation {
                    functions,
                    source_file,
                },
                Self::LinkTimeOptimisation {
                    functions: more,
                    source_file: other,
                },
            ) if source_file == other => Some((functions, more)),
            (
                Self::Instrumented {
                    functions,
                    source_file,
                    option,
                },
                Self::Instrumented {
                    functions: more,
                    source_file: other,
                    option: other_option,
                },
            ) if source_file == other && option == other_option => Some((functions, more)),
            _ => None,
        }
    }

    /// The function, variable or type that its text begins with. None where that is a file.
    fn subject(&self) -> Option<&str> {
        match self {
            Self::ChangedData { name, .. }
            | Self::ChangedLayout { name, .. }
            | Self::ThreadLocal { name, .. } => Some(name),
            Self::Resolver { function }
            | Self::ExceptionTable { function }
            | Self::OtherLayout { function, .. }
            | Self::FunctionNotInBinary { function, .. }
            | Self::CodeDiffers { function, .. }
            | Self::AmbiguousFunction { function, .. }
            | Self::TooShort { function, .. }
            | Self::JumpIntoEntry { function, .. }
            | Self::UnmovableInstruction { function, .. }
            | Self::UnknownAddress { function, .. }
            | Self::AmbiguousVariable { function, .. }
            | Self::ImportByAddress { function, .. }
            | Self::DistanceToNull { function, .. }
            | Self::ThreadLocalPlace { function, .. }
            | Self::InsideFunction { function, .. }
            | Self::CallerByAddress { function, .. }
            | Self::NoCallPoint { function, .. }
            | Self::UnsupportedRelocation { function, .. } => Some(function),
            Self::LoaderCalls { .. }
            | Self::LinkTimeOptimisation { .. }
            | Self::Instrumented { .. }
            | Self::Assembly { .. } => None,
        }
    }
}
