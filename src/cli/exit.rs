//! Exit codes: one list for the program, its help and the scripts that read them.

use std::fmt::Write as _;

use asynctask_api::TaskState;

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; of a followed run: Complete.
    Ok,
    /// Something failed; the message says what.
    Error,
    /// The command line is wrong; nothing was submitted.
    Usage,
    /// There was nothing to do: the run is over, or was so already.
    NothingToDo,
    /// The followed run ended Failed.
    Failed,
    /// The followed run ended Canceled.
    Canceled,
    /// The followed run ended PartiallyComplete.
    PartiallyComplete,
    /// `--timeout` passed before the run ended.
    Timeout,
    /// Interrupted by ^C.
    Interrupted,
}

impl Exit {
    /// Every code, in numeric order.
    pub const ALL: [Self; 9] = [
        Self::Ok,
        Self::Error,
        Self::Usage,
        Self::NothingToDo,
        Self::Failed,
        Self::Canceled,
        Self::PartiallyComplete,
        Self::Timeout,
        Self::Interrupted,
    ];

    /// The number the shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Error => 1,
            Self::Usage => 2,
            Self::NothingToDo => 3,
            Self::Failed => 4,
            Self::Canceled => 5,
            Self::PartiallyComplete => 6,
            Self::Timeout => 124,
            Self::Interrupted => 130,
        }
    }

    /// What it means, for the help.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done; of a followed run: Complete",
            Self::Error => "something failed, the message says what",
            Self::Usage => "the command line is wrong (flags, parameters, inputs); nothing was submitted",
            Self::NothingToDo => "there was nothing to do, nothing was changed",
            Self::Failed => "the followed run ended Failed",
            Self::Canceled => "the followed run ended Canceled",
            Self::PartiallyComplete => "the followed run ended PartiallyComplete",
            Self::Timeout => "--timeout passed before the run ended; it goes on",
            Self::Interrupted => "interrupted by ^C; a run that was submitted goes on",
        }
    }

    /// The code of a run that ended in `state`; `None` while it has not ended.
    pub(crate) const fn of(state: TaskState) -> Option<Self> {
        match state {
            TaskState::Pending | TaskState::InProgress | TaskState::Canceling => None,
            TaskState::Complete => Some(Self::Ok),
            TaskState::PartiallyComplete => Some(Self::PartiallyComplete),
            TaskState::Failed => Some(Self::Failed),
            TaskState::Canceled => Some(Self::Canceled),
        }
    }

    /// The list as `--help` prints it.
    pub(crate) fn help() -> String {
        let mut text = String::from("Exit codes:\n");
        for exit in Self::ALL {
            let _ = writeln!(text, "  {:>3}  {}", exit.code(), exit.meaning());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;
    use asynctask_api::TaskState;

    #[test]
    fn a_state_has_a_code_exactly_when_it_is_terminal() {
        for state in TaskState::ALL {
            assert_eq!(Exit::of(state).is_some(), state.is_terminal(), "{state}");
        }
    }

    #[test]
    fn codes_are_the_documented_ones() {
        let codes: Vec<u8> = Exit::ALL.into_iter().map(Exit::code).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 124, 130]);
        assert_eq!(Exit::of(TaskState::Complete), Some(Exit::Ok));
        assert_eq!(Exit::of(TaskState::Failed).map(Exit::code), Some(4));
        assert_eq!(Exit::of(TaskState::Canceled).map(Exit::code), Some(5));
        assert_eq!(Exit::of(TaskState::PartiallyComplete).map(Exit::code), Some(6));
    }

    #[test]
    fn the_help_names_every_code() {
        let help = Exit::help();
        for exit in Exit::ALL {
            assert!(help.contains(&format!("  {:>3}  {}", exit.code(), exit.meaning())), "{exit:?}");
        }
    }
}
