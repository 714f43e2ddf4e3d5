//! States of a task and the legal moves between them: the one table. The plan, the CRD's rule, the docs and the
//! command line read it from here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State of an AsyncTask; terminal ones are final: Complete, PartiallyComplete, Failed and Canceled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TaskState {
    /// Admitted or waiting for something that `reason` names; nothing runs.
    Pending,
    /// A step runs or is about to.
    InProgress,
    /// A cancellation waits until no pod is left.
    Canceling,
    /// Every step ended well.
    Complete,
    /// A fan-out ended within its tolerance, but not clean.
    PartiallyComplete,
    /// Ended without its result; `failure` says why.
    Failed,
    /// Ended because somebody asked for it, or because a finished task was restored from a backup.
    Canceled,
}

impl TaskState {
    /// Every state, in the order people read them.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::InProgress,
        Self::Canceling,
        Self::Complete,
        Self::PartiallyComplete,
        Self::Failed,
        Self::Canceled,
    ];

    /// States that may follow this one. A state not listed here is never written.
    pub const fn next(self) -> &'static [Self] {
        match self {
            Self::Pending => &[Self::InProgress, Self::Canceling, Self::Failed, Self::Canceled],
            Self::InProgress => {
                &[Self::Pending, Self::Canceling, Self::Complete, Self::PartiallyComplete, Self::Failed]
            }
            Self::Canceling => &[Self::Canceled],
            Self::Complete | Self::PartiallyComplete | Self::Failed | Self::Canceled => &[],
        }
    }

    /// Terminal: nothing follows.
    pub const fn is_terminal(self) -> bool {
        self.next().is_empty()
    }

    /// Whether the run gave its whole result.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Complete | Self::PartiallyComplete)
    }

    /// What it means, for people.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Pending => "nothing runs; the reason says what it waits for",
            Self::InProgress => "a step runs or is about to",
            Self::Canceling => "its end was asked for; pods end, cleanup steps run",
            Self::Complete => "every step ended well",
            Self::PartiallyComplete => "a fan-out ended within its tolerance, but not clean",
            Self::Failed => "over without its result; the failure says why",
            Self::Canceled => "over because somebody asked for it; no pod is left",
        }
    }

    /// The word itself.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::InProgress => "InProgress",
            Self::Canceling => "Canceling",
            Self::Complete => "Complete",
            Self::PartiallyComplete => "PartiallyComplete",
            Self::Failed => "Failed",
            Self::Canceled => "Canceled",
        }
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// State of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum StepState {
    /// Not started.
    Waiting,
    /// Its Job exists.
    Running,
    /// An attempt failed; the next one starts at `until`.
    Retrying,
    /// Its result is committed and sealed.
    Complete,
    /// Its result is sealed, and some of its shards or items failed, no more than are tolerated.
    PartiallyComplete,
    /// It ended without a result.
    Failed,
    /// It ran, or was about to be tried again, when the run was cancelled.
    Canceled,
    /// It does not occur in this run; `message` says why.
    Skipped,
}

impl StepState {
    /// Every state, in the order people read them.
    pub const ALL: [Self; 8] = [
        Self::Waiting,
        Self::Running,
        Self::Retrying,
        Self::Complete,
        Self::PartiallyComplete,
        Self::Failed,
        Self::Canceled,
        Self::Skipped,
    ];

    /// What it means, for people.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Waiting => "not started",
            Self::Running => "its Job exists",
            Self::Retrying => "an attempt failed, the next one starts by itself",
            Self::Complete => "its result is committed and sealed",
            Self::PartiallyComplete => "its result is sealed; some shards or items failed, no more than are tolerated",
            Self::Failed => "ended without a result and is not tried again",
            Self::Canceled => "ran, or was about to be tried again, when the run was cancelled",
            Self::Skipped => "does not occur in this run; the message says why",
        }
    }

    /// The word itself.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "Waiting",
            Self::Running => "Running",
            Self::Retrying => "Retrying",
            Self::Complete => "Complete",
            Self::PartiallyComplete => "PartiallyComplete",
            Self::Failed => "Failed",
            Self::Canceled => "Canceled",
            Self::Skipped => "Skipped",
        }
    }

    /// Whether it is over: nothing follows in this run.
    pub const fn is_over(self) -> bool {
        match self {
            Self::Waiting | Self::Running | Self::Retrying => false,
            Self::Complete | Self::PartiallyComplete | Self::Failed | Self::Canceled | Self::Skipped => true,
        }
    }
}

/// State of a TaskRevision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RevisionState {
    /// New runs are pinned to it.
    Current,
    /// Runs that are not over are pinned to it.
    Draining,
    /// Nothing runs on it.
    Retired,
}

impl RevisionState {
    /// The word itself.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "Current",
            Self::Draining => "Draining",
            Self::Retired => "Retired",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TaskState;

    #[test]
    fn terminal_states_lead_nowhere_and_all_others_lead_to_one() {
        for state in TaskState::ALL {
            let mut seen = vec![state];
            let mut open = vec![state];
            while let Some(at) = open.pop() {
                for next in at.next() {
                    if !seen.contains(next) {
                        seen.push(*next);
                        open.push(*next);
                    }
                }
            }
            assert!(seen.iter().any(|s| s.is_terminal()), "{state} never ends");
            assert_eq!(state.is_terminal(), seen.len() == 1, "{state}");
        }
    }
}
