//! The helper commands an author's program calls: each writes one line to the FIFO of the agent that
//! runs the task; for a guarded stage it asks at the door and waits.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::cut::is_json;
use super::door::Answer;
use super::layout::{self, Stages};
use super::progress::{is_code, is_link, undeclared};
use asynctask_contract::env;
use asynctask_contract::wire::{AuthorFailure, Progress, ProgressLine, StageRequest};

/// POSIX writes no more than this in one piece. Longer lines of several writers would be mixed up.
const ATOMIC: usize = 4096;

/// A helper command could not say what it was told to.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// `$ASYNCTASK_PROGRESS` is not set.
    #[error("${} is not set: this command works only inside a running task", env::PROGRESS)]
    Outside,
    /// The FIFO is there, but no agent reads it.
    #[error("no agent listens at {0}: this command works only inside a running task")]
    NobodyListens(PathBuf),
    /// The FIFO cannot be opened.
    #[error("cannot open {path}, the FIFO of ${}: {source}", env::PROGRESS)]
    Open {
        /// What `$ASYNCTASK_PROGRESS` says.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The line was not taken.
    #[error("cannot write to {path}: {source}")]
    Write {
        /// What `$ASYNCTASK_PROGRESS` says.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Without its message the line is longer than a pipe takes in one piece.
    #[error("the line would be longer than {ATOMIC} bytes even without its message: shorten the other values")]
    TooLong,
    /// The list of stages is not there, or not the agent's.
    #[error("cannot read the declared stages in {path}: {source}; leave the files of the agent as they are")]
    Stages {
        /// The list.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A guarded stage, and the run is to be cancelled or held.
    #[error("stage {stage:?} is not entered: {why}")]
    Canceled {
        /// The stage.
        stage: String,
        /// The gateway's sentence.
        why: String,
    },
    /// A guarded stage, and no yes to it.
    #[error("stage {stage:?} is not entered: {why}; do not go on as if it were")]
    Refused {
        /// The stage.
        stage: String,
        /// The gateway's or the agent's sentence.
        why: String,
    },
    /// The definition does not declare the stage.
    #[error("{0}")]
    Undeclared(String),
    /// Not a word that programs can tell apart.
    #[error("the code {0:?} is no word: use at most 64 letters and digits and begin with a letter, as InvalidCourse")]
    Code(String),
    /// Not a link a page may show.
    #[error("the link {0:?} does not begin with https:// or http://")]
    Link(String),
    /// An item that is none.
    #[error("the item is not JSON: {0}; give it as it stands in $ASYNCTASK_ITEMS, as '{{\"id\":7}}'")]
    NotJson(String),
    /// An item that is longer than a pipe takes in one piece.
    #[error(
        "the item makes a line longer than {ATOMIC} bytes: give enough of it to do it again, as its id, or write the line \
         to ${} yourself if no other process does",
        env::PROGRESS
    )]
    LongItem,
    /// Numbers that cannot be progress.
    #[error("progress is counted from 0: {0} is below")]
    Negative(i64),
}

impl HelperError {
    /// Exit code of the helper: 2 when the call itself is wrong, [`env::exit::CANCELED`] when a guarded stage must not be
    /// entered any more, 1 when the call could not be delivered.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::TooLong
            | Self::Undeclared(_)
            | Self::Code(_)
            | Self::Link(_)
            | Self::NotJson(_)
            | Self::LongItem
            | Self::Negative(_) => 2,
            Self::Canceled { .. } => env::exit::CANCELED,
            Self::Outside
            | Self::NobodyListens(_)
            | Self::Open { .. }
            | Self::Write { .. }
            | Self::Stages { .. }
            | Self::Refused { .. } => 1,
        }
    }
}

/// Enters a declared stage; for a guarded one waits until the gateway has agreed.
pub fn stage(stage: String) -> Result<(), HelperError> {
    let fifo = fifo()?;
    // Without the list nobody knows whether the stage has to be asked for: going on would be a guess.
    let list = layout::stages(&fifo);
    let stages = std::fs::read(&list).and_then(|text| Ok(serde_json::from_slice::<Stages>(&text)?));
    let stages = stages.map_err(|source| HelperError::Stages { path: list, source })?;
    if !stages.declared.contains(&stage) {
        return Err(HelperError::Undeclared(undeclared(&stage, &stages.declared)));
    }
    let request = StageRequest { stage };
    if !stages.guarded.contains(&request.stage) {
        return write(&fifo, &ProgressLine::Stage(request));
    }
    match ask(&layout::door(&fifo), &request) {
        Ok(Answer::Entered) => Ok(()),
        Ok(Answer::Canceled(why)) => Err(HelperError::Canceled { stage: request.stage, why }),
        Ok(Answer::Refused(why)) => Err(HelperError::Refused { stage: request.stage, why }),
        Err(source) => Err(HelperError::Refused { stage: request.stage, why: source.to_string() }),
    }
}

/// Puts one question to the agent that runs the task, and waits for the answer as long as it takes.
fn ask(door: &Path, request: &StageRequest) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(door)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the agent ended before it had an answer"));
    }
    Ok(serde_json::from_str(&answer)?)
}

/// Says how far the program is.
pub fn progress(progress: Progress) -> Result<(), HelperError> {
    if let Some(number) = [progress.done, progress.total].into_iter().flatten().find(|number| *number < 0) {
        return Err(HelperError::Negative(number));
    }
    write(&fifo()?, &ProgressLine::Progress(progress))
}

/// Says why the program is about to fail. It still has to end with an exit code other than 0.
pub fn fail(failure: AuthorFailure) -> Result<(), HelperError> {
    if !is_code(&failure.code) {
        return Err(HelperError::Code(failure.code));
    }
    match failure.link {
        Some(link) if !is_link(&link) => Err(HelperError::Link(link)),
        _ => write(&fifo()?, &ProgressLine::Fail(failure)),
    }
}

/// Says that the result is whole, even if SIGTERM has come.
pub fn done() -> Result<(), HelperError> {
    write(&fifo()?, &ProgressLine::Done)
}

/// Says that an item failed, while the program goes on with the next one. The item is kept as it is given.
pub fn item_failed(item: &str, reason: Option<String>) -> Result<(), HelperError> {
    if let Some(reason) = reason.as_ref().filter(|reason| !is_code(reason)) {
        return Err(HelperError::Code(reason.clone()));
    }
    let line = item_line(item, reason.as_deref())?;
    write_line(&fifo()?, &line)
}

/// Says that so many items needed nothing done.
pub fn skip(count: u64) -> Result<(), HelperError> {
    write(&fifo()?, &ProgressLine::Skip { count })
}

/// As [`ProgressLine::ItemFailed`], without changing a byte of the item but its line ends.
fn item_line(item: &str, reason: Option<&str>) -> Result<Vec<u8>, HelperError> {
    is_json(item.trim().as_bytes()).map_err(HelperError::NotJson)?;
    // Inside of a text JSON has no line ends; between its parts they mean nothing.
    let item = item.trim().replace(['\n', '\r'], " ");
    let reason = reason.map(|reason| format!(r#","reason":"{reason}""#)).unwrap_or_default();
    let line = format!("{{\"type\":\"item-failed\",\"item\":{item}{reason}}}\n");
    if line.len() > ATOMIC { Err(HelperError::LongItem) } else { Ok(line.into_bytes()) }
}

fn fifo() -> Result<PathBuf, HelperError> {
    std::env::var_os(env::PROGRESS).filter(|path| !path.is_empty()).map(PathBuf::from).ok_or(HelperError::Outside)
}

fn write(fifo: &Path, line: &ProgressLine) -> Result<(), HelperError> {
    write_line(fifo, &encode(line.clone())?)
}

fn write_line(fifo: &Path, line: &[u8]) -> Result<(), HelperError> {
    let failed = |source| HelperError::Write { path: fifo.to_owned(), source };
    let mut file = open(fifo)?;
    file.write_all(line).map_err(failed)
}

/// Opens without waiting for a reader, then writes as usual: a full FIFO is read soon.
fn open(fifo: &Path) -> Result<File, HelperError> {
    let file = OpenOptions::new().append(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(fifo).map_err(|source| {
        if source.raw_os_error() == Some(Errno::ENXIO as i32) {
            return HelperError::NobodyListens(fifo.to_owned());
        }
        HelperError::Open { path: fifo.to_owned(), source }
    })?;
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))
        .map_err(|errno| HelperError::Open { path: fifo.to_owned(), source: errno.into() })?;
    Ok(file)
}

/// One line of at most [`ATOMIC`] bytes; a message is shortened until it fits.
fn encode(mut line: ProgressLine) -> Result<Vec<u8>, HelperError> {
    loop {
        let mut bytes = serde_json::to_vec(&line).expect("progress lines have string keys only");
        bytes.push(b'\n');
        if bytes.len() <= ATOMIC {
            return Ok(bytes);
        }
        let message = match &mut line {
            ProgressLine::Progress(Progress { message: Some(message), .. }) => message,
            ProgressLine::Fail(failure) => &mut failure.message,
            ProgressLine::Stage(_)
            | ProgressLine::Progress(_)
            | ProgressLine::ItemFailed(_)
            | ProgressLine::Skip { .. }
            | ProgressLine::Done => {
                return Err(HelperError::TooLong);
            }
        };
        if message.is_empty() {
            return Err(HelperError::TooLong);
        }
        // An escaped byte takes six at most, so this never cuts more than is needed.
        let surplus = (bytes.len() - ATOMIC).div_ceil(6);
        message.truncate(message.floor_char_boundary(message.len().saturating_sub(surplus)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_to_one_atomic_write() {
        for text in ["x".repeat(9000), "é\u{1}".repeat(4000), "\"\\\n".repeat(3000)] {
            let line = ProgressLine::Fail(AuthorFailure { code: "C".into(), message: text.clone(), link: None });
            let bytes = encode(line).unwrap();
            assert!(bytes.len() <= ATOMIC && bytes.len() > ATOMIC - 16, "{}", bytes.len());
            let ProgressLine::Fail(read) = serde_json::from_slice(&bytes).unwrap() else { panic!() };
            assert!(text.starts_with(&read.message));
        }
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        let long = ProgressLine::Stage(StageRequest { stage: "x".repeat(5000) });
        assert!(matches!(encode(long), Err(HelperError::TooLong)));
        let unit = Progress { unit: Some("x".repeat(5000)), message: Some("m".into()), ..Progress::default() };
        assert!(matches!(encode(ProgressLine::Progress(unit)), Err(HelperError::TooLong)));
    }

    #[test]
    fn an_item_travels_as_it_is_given() {
        let line = item_line("{\n \"z\": 1.0,\r\n \"a\": 12345678901234567890123\n}\n", Some("Bounced")).unwrap();
        let line = String::from_utf8(line).unwrap();
        assert_eq!(
            line,
            "{\"type\":\"item-failed\",\"item\":{  \"z\": 1.0,   \"a\": 12345678901234567890123 },\"reason\":\"Bounced\"}\n"
        );
        let ProgressLine::ItemFailed(read) = serde_json::from_str(&line).unwrap() else { panic!("{line}") };
        assert_eq!(read.reason.as_deref(), Some("Bounced"));
        assert!(matches!(item_line("{id:7}", None), Err(HelperError::NotJson(_))));
        assert!(matches!(item_line("1} {", None), Err(HelperError::NotJson(_))));
        assert!(matches!(item_line(&format!("\"{}\"", "x".repeat(4096)), None), Err(HelperError::LongItem)));
    }

    #[test]
    fn a_fifo_without_an_agent_is_said_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("progress");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(write(&path, &ProgressLine::Done), Err(HelperError::NobodyListens(_))));
    }
}
