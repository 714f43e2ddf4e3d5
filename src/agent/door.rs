//! Where the program asks for a guarded stage and waits for the answer: a socket in the work folder. The agent asks the
//! gateway and keeps asking while it is away, so the program needs neither token nor network.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::client::{CallError, Gateway};
use super::notice;
use super::progress::Board;
use asynctask_contract::wire::{CANCELED, StageRequest, path};

/// A longer question is none.
const LONGEST: u64 = 4096;

/// The answer, one line of JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "message", rename_all = "camelCase")]
pub(crate) enum Answer {
    /// The stage is entered.
    Entered,
    /// The run is to be cancelled or held; the stage is not entered.
    Canceled(String),
    /// Not entered for another reason.
    Refused(String),
}

/// The open socket.
pub(crate) struct Door(UnixListener);

impl Door {
    /// Open to every user of the container: images that drop root ask too.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o666))?;
        Ok(Self(listener))
    }

    /// Answers until it is aborted; with it end the questions that are still open.
    pub(crate) async fn keep(self, guarded: Vec<String>, gateway: Arc<Gateway>, board: Arc<Board>) {
        let guarded: Arc<[String]> = guarded.into();
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = open.join_next() => {}
                asked = self.0.accept() => match asked {
                    Ok((stream, _)) => {
                        open.spawn(serve(stream, Arc::clone(&guarded), Arc::clone(&gateway), Arc::clone(&board)));
                    }
                    Err(error) => return notice(format_args!("guarded stages cannot be entered any more: {error}")),
                }
            }
        }
    }
}

async fn serve(mut stream: UnixStream, guarded: Arc<[String]>, gateway: Arc<Gateway>, board: Arc<Board>) {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader.take(LONGEST));
    let mut question = String::new();
    if reader.read_line(&mut question).await.is_err() {
        return;
    }
    let mut end = [0];
    let answer = tokio::select! {
        answer = ask(&question, &guarded, &gateway, &board) => answer,
        // Who asked is gone: nobody is there who would enter.
        _ = reader.read(&mut end) => return,
    };
    let mut line = serde_json::to_vec(&answer).expect("an answer has string keys only");
    line.push(b'\n');
    // Who went away meanwhile has no use for it.
    let _ = writer.write_all(&line).await;
}

async fn ask(question: &str, guarded: &[String], gateway: &Gateway, board: &Board) -> Answer {
    let request: StageRequest = match serde_json::from_str(question) {
        Ok(request) => request,
        Err(error) => return Answer::Refused(format!("the question is not understood: {error}")),
    };
    if !guarded.contains(&request.stage) {
        return Answer::Refused(format!("the stage {:?} is not guarded", request.stage));
    }
    match gateway.tell("enter the guarded stage", path::STAGE, &request).await {
        Ok(()) => {
            board.enter(request.stage);
            Answer::Entered
        }
        Err(CallError::Refused { word: Some(word), said, .. }) if word == CANCELED => {
            board.turn_away(&said);
            Answer::Canceled(said)
        }
        Err(error) => Answer::Refused(error.to_string()),
    }
}
