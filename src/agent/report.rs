//! What is told at the end: the failure to the gateway, the termination message to the kubelet.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use super::child::ChildError;
use super::client::{CallError, ClientError};
use super::emit::EmitError;
use super::fetch::FetchError;
use super::layout::LayoutError;
use super::outputs::OutputError;
use super::upload::UploadError;
use asynctask_contract::env::exit;
use asynctask_contract::wire::{FailedBy, StoppedBy, Termination};

/// The kubelet reads no more.
const LONGEST: usize = 4096;

/// Why an attempt is no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) link: Option<String>,
    pub(crate) exit: u8,
    pub(crate) by: FailedBy,
}

impl Failure {
    pub(crate) fn new(code: impl Into<String>, by: FailedBy, exit: u8, message: impl std::fmt::Display) -> Self {
        Self { code: code.into(), message: message.to_string(), link: None, exit, by }
    }

    /// The agent, or its place in the pod, is not as it must be.
    pub(crate) fn of_set_up(message: impl std::fmt::Display) -> Self {
        Self::new("SetUpFailed", FailedBy::Agent, exit::CONTRACT, message)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::of_set_up(error)
    }
}

impl From<LayoutError> for Failure {
    fn from(error: LayoutError) -> Self {
        Self::of_set_up(error)
    }
}

impl From<ChildError> for Failure {
    fn from(error: ChildError) -> Self {
        match &error {
            ChildError::Watch(_) => Self::of_set_up(error),
            ChildError::Start { source, .. } => {
                // Short of memory or of process numbers: that passes. A command that is not there does not come.
                let passes = matches!(source.kind(), ErrorKind::OutOfMemory | ErrorKind::WouldBlock);
                let by = if passes { FailedBy::Platform } else { FailedBy::Contract };
                Self::new("CommandNotStarted", by, exit::NOT_FOUND, error)
            }
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let by = error.failed_by();
        match &error {
            // What is wrong in content has a word of its own.
            CallError::Refused { word: Some(word), .. } if by != FailedBy::Platform => {
                Self::new(word.clone(), by, exit::GATEWAY, error)
            }
            CallError::Refused { .. } => Self::new("GatewayRefused", by, exit::GATEWAY, error),
            CallError::Local { .. } | CallError::Answer { .. } => {
                Self::new("GatewayUnusable", by, exit::GATEWAY, error)
            }
        }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Renew(error) => error.into(),
            other => Self::new(other.code(), other.failed_by(), exit::INPUT, other),
        }
    }
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Self {
        Self::new(error.code(), FailedBy::Contract, exit::CONTRACT, error)
    }
}

impl From<EmitError> for Failure {
    fn from(error: EmitError) -> Self {
        match error {
            EmitError::Upload(error) => error.into(),
            EmitError::NotJson { .. }
            | EmitError::NotAnItem { .. }
            | EmitError::TooLong { .. }
            | EmitError::TooManyShards { .. }
            | EmitError::TooManyItems { .. } => Self::new(error.code(), FailedBy::Contract, exit::CONTRACT, error),
            EmitError::Read { .. } | EmitError::Keep(_) | EmitError::Gone => {
                Self::new(error.code(), FailedBy::Agent, exit::CONTRACT, error)
            }
        }
    }
}

impl From<UploadError> for Failure {
    fn from(error: UploadError) -> Self {
        let by = error.failed_by();
        let code = if by == FailedBy::Contract { "OutputRefused" } else { "UploadFailed" };
        Self::new(code, by, exit::UPLOAD, error)
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Succeeded,
    AlreadyCommitted,
    Fenced { message: String },
    Failed(Failure),
}

impl Ending {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Succeeded | Self::AlreadyCommitted => 0,
            Self::Fenced { .. } => exit::FENCED,
            Self::Failed(failure) => failure.exit,
        }
    }

    /// Whose failure it is; `None`: it is none.
    fn failed_by(&self) -> Option<FailedBy> {
        match self {
            Self::Succeeded | Self::AlreadyCommitted => None,
            Self::Fenced { .. } => Some(FailedBy::Platform),
            Self::Failed(failure) => Some(failure.by),
        }
    }

    /// The message for the kubelet.
    pub(crate) fn termination(
        &self,
        stage: Option<String>,
        stopped_by: Option<StoppedBy>,
        log_tail: String,
    ) -> Termination {
        let (outcome, code, message) = match self {
            Self::Succeeded => ("Succeeded", None, String::new()),
            Self::AlreadyCommitted => {
                ("AlreadyCommitted", None, "This step already has a committed result; nothing was started.".to_owned())
            }
            Self::Fenced { message } => ("Fenced", None, message.clone()),
            Self::Failed(failure) => ("Failed", Some(failure.code.clone()), failure.message.clone()),
        };
        let committed = self.exit_code() == 0;
        let failed_by = self.failed_by();
        Termination { outcome: outcome.to_owned(), code, failed_by, stopped_by, message, stage, committed, log_tail }
    }
}

/// Writes the message where the kubelet reads it.
pub(crate) fn write_termination(path: &Path, message: Termination) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(true).open(path)?.write_all(&fit(message))
}

/// JSON of at most [`LONGEST`] bytes: first the front of the log is given up, then the end of the message.
fn fit(mut message: Termination) -> Vec<u8> {
    loop {
        let json = serde_json::to_vec(&message).expect("the message has string keys only");
        if json.len() <= LONGEST {
            return json;
        }
        // An escaped byte takes six at most, so this never cuts more than is needed.
        let surplus = (json.len() - LONGEST).div_ceil(6);
        if !message.log_tail.is_empty() {
            let from = message.log_tail.ceil_char_boundary(surplus.min(message.log_tail.len()));
            message.log_tail.drain(..from);
        } else if !message.message.is_empty() {
            message
                .message
                .truncate(message.message.floor_char_boundary(message.message.len().saturating_sub(surplus)));
        } else {
            // A stage or a code of kilobytes: the outcome alone is what is left to say.
            message.stage = None;
            message.code = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn termination(message: &str, log_tail: &str) -> Termination {
        let failure = Failure::new("ExitCode1", FailedBy::Program, 1, message);
        Ending::Failed(failure).termination(Some("Verifying".into()), None, log_tail.into())
    }

    #[test]
    fn what_fits_is_not_touched() {
        let whole = termination("it broke", "line\n");
        assert_eq!(serde_json::from_slice::<Termination>(&fit(whole.clone())).unwrap(), whole);
    }

    #[test]
    fn whatever_is_said_stays_json_of_4096_bytes() {
        for piece in ["x", "é", "€", "\u{1}", "\"", "🦀\n"] {
            for (message, log) in [(10, 2048), (2000, 2048), (9000, 0), (9000, 9000)] {
                let original = termination(&piece.repeat(message), &piece.repeat(log));
                let bytes = fit(original.clone());
                assert!(bytes.len() <= LONGEST);
                let read: Termination = serde_json::from_slice(&bytes).unwrap();
                assert!(original.log_tail.ends_with(&read.log_tail) && original.message.starts_with(&read.message));
                assert_eq!(read.code, original.code);
            }
        }
    }

    #[test]
    fn a_stage_without_end_does_not_spoil_it() {
        let mut endless = termination("m", "l");
        endless.stage = Some("s".repeat(5000));
        assert!(fit(endless).len() <= LONGEST);
    }

    #[test]
    fn the_old_message_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("termination-log");
        std::fs::write(&path, "y".repeat(8000)).unwrap();
        write_termination(&path, Ending::Succeeded.termination(None, None, String::new())).unwrap();
        let read: Termination = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert!(read.committed && read.outcome == "Succeeded");
    }
}
