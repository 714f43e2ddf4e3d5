//! The author's program: started in its own process group, its death told apart from its orphans'.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, ChildStdout, Command, Stdio};

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use asynctask_contract::env;

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(u8),
    Signal(i32),
}

/// The program was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    #[error("cannot watch for ended processes: {0}")]
    Watch(io::Error),
    #[error(
        "the command {command:?} could not be started: {source}; check the container's `command` in the TaskDefinition \
         and that the image holds it for this platform"
    )]
    Start { command: OsString, source: io::Error },
}

/// A running program.
pub(crate) struct Started {
    pub(crate) pid: Pid,
    pub(crate) stdout: ChildStdout,
    pub(crate) stderr: ChildStderr,
}

/// Collects every ended process: as PID 1 the agent inherits the orphans of the container.
pub(crate) struct Reaper {
    ended: tokio::signal::unix::Signal,
}

impl Reaper {
    /// Begin before the first process is started, so that no death is missed.
    pub(crate) fn begin() -> Result<Self, ChildError> {
        // With `shareProcessNamespace` the agent is not PID 1; this way orphans come to it all the same.
        set_child_subreaper(true).map_err(|errno| ChildError::Watch(errno.into()))?;
        Ok(Self { ended: signal(SignalKind::child()).map_err(ChildError::Watch)? })
    }

    /// Reaps until `program` has ended. Dropping the future loses nothing.
    pub(crate) async fn wait_for(&mut self, program: Pid) -> Exit {
        loop {
            if let Some(exit) = reap(Some(program)) {
                return exit;
            }
            self.ended.recv().await;
        }
    }

    /// Reaps what is left, as long as the runtime lives.
    pub(crate) async fn keep_on(mut self) {
        loop {
            reap(None);
            self.ended.recv().await;
        }
    }
}

/// Takes every ended process off the table; says how `program` ended if it was among them.
fn reap(program: Option<Pid>) -> Option<Exit> {
    loop {
        let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => {
                (pid, Exit::Code(u8::try_from(code & 0xff).expect("masked to 8 bits")))
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
            // Killed by a signal without a name, a real-time one. Which process it was is not said, so look.
            Err(Errno::EINVAL) => match program {
                Some(program) if kill(program, None) == Err(Errno::ESRCH) => (program, Exit::Signal(34)),
                _ => continue,
            },
            Ok(_) | Err(_) => continue,
        };
        if Some(pid) == program {
            return Some(exit);
        }
    }
}

/// Starts the command without a shell. `vars` are added to the agent's own environment.
pub(crate) fn start(command: &[OsString], vars: Vec<(&'static str, OsString)>) -> Result<Started, ChildError> {
    let (program, arguments) = command.split_first().expect("the caller refuses an empty command");
    let mut child = Command::new(program)
        .args(arguments)
        .envs(vars)
        // For the agent alone: the program reaches the gateway through the helper commands.
        .env_remove(env::GATEWAY_URL)
        .env_remove(env::GATEWAY_CA)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|source| ChildError::Start { command: program.clone(), source })?;
    Ok(Started {
        pid: Pid::from_raw(i32::try_from(child.id()).expect("a pid is an i32")),
        stdout: child.stdout.take().expect("stdout is piped"),
        stderr: child.stderr.take().expect("stderr is piped"),
    })
}

/// Signals the program and what it started. A group that is gone already needs nothing.
pub(crate) fn signal_group(program: Pid, signal: Signal) {
    let _ = killpg(program, signal);
}

/// Ends whatever the program left behind: without the agent the container would end here, and a straggler that still
/// writes must not change outputs while they are stored.
pub(crate) fn end_stragglers(program: Pid) {
    signal_group(program, Signal::SIGKILL);
    if std::process::id() == 1 {
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    }
}

impl Exit {
    /// The exit code as shells say it: 128 + n for a death by signal n.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(number) => u8::try_from(128 + number).unwrap_or(u8::MAX),
        }
    }

    /// The word programs can tell endings apart by.
    pub(crate) fn reason(self) -> String {
        match self {
            Self::Code(code) => format!("ExitCode{code}"),
            Self::Signal(number) => format!("Signal{number}"),
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "the program ended with exit code {code}"),
            Self::Signal(9) => f.write_str(
                "the program was killed (SIGKILL); if nobody did that, it ran out of memory: compare its need with the \
                 container's memory limit",
            ),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "the program died of signal {number} ({signal})"),
                Err(_) => write!(f, "the program died of signal {number}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_told_as_shells_tell_them() {
        for (exit, code, reason) in [
            (Exit::Code(0), 0, "ExitCode0"),
            (Exit::Code(70), 70, "ExitCode70"),
            (Exit::Signal(9), 137, "Signal9"),
            (Exit::Signal(15), 143, "Signal15"),
        ] {
            assert_eq!((exit.code(), exit.reason().as_str()), (code, reason));
        }
        assert!(Exit::Signal(11).to_string().contains("SIGSEGV"));
    }

    #[test]
    fn a_command_that_is_not_there_names_itself() {
        let Err(error) = start(&["/no/such/program".into()], vec![]) else { panic!("started") };
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }
}
