//! What an agent says of an attempt that gave no result: to the gateway, and to the kubelet.

use serde::{Deserialize, Serialize};

use super::wire::CommittedFile;

/// Whose failure it was that an attempt gave no result. What follows depends on it, and never on a bare exit code: those
/// are the program's, all 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailedBy {
    /// The author's program: it ended with another exit code than 0, died of a signal, or said that it failed.
    Program,
    /// What the program left cannot be its result, or the definition asks for what cannot be. Another attempt would end
    /// the same way.
    Contract,
    /// Gateway, store or cluster, for now; also whoever asked the pod to stop.
    Platform,
    /// The same for good: an input that is gone does not come back.
    PlatformForGood,
    /// The agent, or the place it was given in the pod.
    Agent,
    /// A word of a newer release.
    #[serde(other)]
    Unknown,
}

/// Who asked the pod to stop, as far as its agent knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoppedBy {
    /// Somebody outside of the container: the kubelet, for whoever told it to.
    Outside,
    /// A process of the container: the program itself, mostly.
    Inside,
    /// A word of a newer release.
    #[serde(other)]
    Unknown,
}

/// Why an attempt failed; recorded in the store, shown in `status.failure`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureReport {
    /// A CamelCase word: the author's `code`, or the agent's own (`OutputMissing`, `InputInvalid`, `Terminated`, …).
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// Where to read more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Exit code of the agent for this attempt: the program's own, or one of [`super::env::exit`].
    pub exit_code: i32,
    /// Whose failure it was; absent: an agent of an older release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_by: Option<FailedBy>,
    /// Who had asked the pod to stop; absent: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_by: Option<StoppedBy>,
    /// Stage the program was in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Last lines of stdout and stderr, at most 2 KiB.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_tail: String,
    /// The stored log, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<CommittedFile>,
}

impl FailureReport {
    /// Exit code of the author's program; `None` when it was not the program that failed.
    #[must_use]
    pub fn programs_exit_code(&self) -> Option<i32> {
        let is_programs = self.failed_by.is_none_or(FailedBy::is_program);
        is_programs.then_some(self.exit_code)
    }
}

impl FailedBy {
    /// Whether the author's program failed, as far as this release understands the word.
    #[must_use]
    pub fn is_program(self) -> bool {
        match self {
            Self::Program | Self::Unknown => true,
            Self::Contract | Self::Platform | Self::PlatformForGood | Self::Agent => false,
        }
    }
}

/// The pod's termination message: one JSON of at most 4096 bytes, for people; the truth is the commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Termination {
    /// `Succeeded`, `Failed`, `AlreadyCommitted` or `Fenced`.
    pub outcome: String,
    /// As in [`FailureReport::code`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// As in [`FailureReport::failed_by`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_by: Option<FailedBy>,
    /// As in [`FailureReport::stopped_by`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_by: Option<StoppedBy>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Last stage entered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Whether the gateway acknowledged the commit.
    pub committed: bool,
    /// Last lines of stdout and stderr, at most 2 KiB.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_tail: String,
}
