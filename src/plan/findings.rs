//! What is wrong with a definition: every violation there is, not only the first.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use asynctask_api::quantity;

/// What is wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidDefinition {
    /// In the order of the fields; never empty.
    pub violations: Vec<Violation>,
}

/// One violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which part.
    pub part: Part,
    /// A sentence that begins with the field.
    pub sentence: String,
}

/// Which part of a definition a violation is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Names, references, durations, sizes.
    Plan,
    /// The schema of the parameters.
    ParametersSchema,
    /// A pod template.
    Template,
}

impl Part {
    /// The reason of the condition `Ready`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Plan => "InvalidPlan",
            Self::ParametersSchema => "InvalidParametersSchema",
            Self::Template => "InvalidTemplate",
        }
    }
}

impl InvalidDefinition {
    /// The reason of the condition `Ready`: of several violations the first one's.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.violations.first().map_or(Part::Plan, |violation| violation.part).reason()
    }
}

impl fmt::Display for InvalidDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.violations.iter().enumerate() {
            write!(f, "{}{}", if index > 0 { "; " } else { "" }, violation.sentence)?;
        }
        Ok(())
    }
}

impl std::error::Error for InvalidDefinition {}

/// Collects violations instead of stopping at the first.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Violation>);

impl Findings {
    pub(super) fn add(&mut self, part: Part, sentence: impl Into<String>) {
        self.0.push(Violation { part, sentence: sentence.into() });
    }

    pub(super) fn invalid(self) -> InvalidDefinition {
        InvalidDefinition { violations: self.0 }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    #[cfg(test)]
    pub(super) fn sentences(self) -> Vec<String> {
        self.0.into_iter().map(|violation| violation.sentence).collect()
    }

    /// A violation of the plan, the most common part.
    pub(super) fn plan(&mut self, sentence: impl Into<String>) {
        self.add(Part::Plan, sentence);
    }

    /// Takes the value, or notes why there is none.
    pub(super) fn take<T, E: fmt::Display>(&mut self, field: impl fmt::Display, read: Result<T, E>) -> Option<T> {
        read.map_err(|error| self.plan(format!("{field}: {error}"))).ok()
    }

    /// A duration, or what stands for one that is not written.
    pub(super) fn duration(
        &mut self,
        field: impl fmt::Display,
        text: Option<&str>,
        unsaid: Duration,
    ) -> Option<Duration> {
        text.map_or(Some(unsaid), |text| self.take(field, quantity::duration(text)))
    }

    /// A duration that may be left out: `None` only where one is written and cannot be read.
    pub(super) fn maybe_duration(&mut self, field: impl fmt::Display, text: Option<&str>) -> Option<Option<Duration>> {
        text.map_or(Some(None), |text| self.take(field, quantity::duration(text)).map(Some))
    }

    /// A number that is not below `least`.
    pub(super) fn count(&mut self, field: impl fmt::Display, number: i32, least: u32) -> Option<u32> {
        let read = u32::try_from(number).ok().filter(|number| *number >= least);
        self.take(field, read.ok_or_else(|| format!("{number} is too small: write at least {least}")))
    }

    pub(super) fn unique<'a>(&mut self, list: impl fmt::Display, names: impl IntoIterator<Item = &'a str>) {
        let mut seen = BTreeSet::new();
        for name in names {
            if !seen.insert(name) {
                self.plan(format!("{list}: {name:?} occurs twice: give each its own name"));
            }
        }
    }
}
