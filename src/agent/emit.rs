//! Emitted items: cut into shards while they are written, each shard stored as soon as it is full.
//!
//! ```text
//! FIFO, or a file ─► thread: lines, JSON, shards on disk ─► at most IN_FLIGHT on their way to the store
//! ```
//! While all places are taken the thread waits and reads nothing, so the program waits too: neither memory nor disk
//! grows with the number of items.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use futures::stream::{self, StreamExt, TryStreamExt};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::cut::{Cutter, Shard};
use super::outputs::Found;
use super::upload::{IN_FLIGHT, UploadError, Uploader};
use asynctask_contract::env::{self, ITEMS_OUTPUT};
use asynctask_contract::wire::{EmitLimits, Emitted};

/// As much as a pipe holds.
const BUFFER: usize = 64 << 10;
/// What a pipe can hold at most; more than that after the program's end is somebody else's.
const LEFT_IN_PIPE: usize = 1 << 20;

/// Items cannot be emitted like this. Numbers of lines are counted from 1, empty ones included.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EmitError {
    #[error(
        "line {line} of {of} is not JSON: {said}; write one JSON value on each line, as {{\"email\": \"ada@example.org\"}}"
    )]
    NotJson { line: u64, of: String, said: String },
    #[error(
        "{of} is one JSON array, which would be one item; write each of its elements on a line of its own, as `jq -c '.[]'` \
         does"
    )]
    NotAnItem { of: String },
    #[error(
        "line {line} of {of} is longer than {limit} bytes: let an item name where its data is rather than carry it"
    )]
    TooLong { line: u64, of: String, limit: u64 },
    #[error(
        "line {line} of {of} would begin shard number {}, and {limit} are the most: raise `itemsPerShard` of the fan-out \
         ({per_shard} now), or emit fewer items",
        u64::from(*limit) + 1
    )]
    TooManyShards { line: u64, of: String, limit: u32, per_shard: u32 },
    #[error("line {line} of {of} would be item number {}, and {limit} are the most: emit fewer items", limit + 1)]
    TooManyItems { line: u64, of: String, limit: u64 },
    #[error("cannot read {of}: {source}")]
    Read { of: String, source: io::Error },
    #[error("the items cannot be kept in the work folder: {0}; is the step's `workspace.size` enough?")]
    Keep(io::Error),
    #[error(transparent)]
    Upload(#[from] UploadError),
    #[error("the items are not read any more: the part of the agent that does it has ended")]
    Gone,
}

impl EmitError {
    /// The word of the failure report.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NotJson { .. } | Self::NotAnItem { .. } => "InvalidItem",
            Self::TooLong { .. } => "ItemTooLong",
            Self::TooManyShards { .. } => "TooManyShards",
            Self::TooManyItems { .. } => "TooManyItems",
            Self::Read { .. } | Self::Keep(_) | Self::Gone => "ItemsNotKept",
            Self::Upload(_) => "UploadFailed",
        }
    }
}

/// Items that are being emitted.
pub(crate) struct Emission {
    /// Absent: the items come from a file, which ends by itself.
    fifo: Option<File>,
    stored: JoinHandle<Result<Emitted, EmitError>>,
}

/// From the thread that cuts to the tasks that store.
type Cut = Result<Shard, EmitError>;

impl Emission {
    /// Takes what is written to the FIFO until [`Emission::finish`].
    pub(crate) fn listen(
        fifo: &Path,
        scratch: PathBuf,
        limits: EmitLimits,
        uploader: Arc<Uploader>,
    ) -> io::Result<Self> {
        // For reading and writing, so that writers may come and go.
        let fifo = File::options().read(true).write(true).open(fifo)?;
        let from = fifo.try_clone()?;
        let cutter = Cutter::new(limits, scratch, format!("${}", env::EMIT));
        Self::begin(Some(fifo), uploader, move |out| {
            let mut from = from;
            if from_fifo(&mut from, cutter, out) {
                // The program may still be writing: it must not hang because of it before it has been told to end.
                let _ = io::copy(&mut from, &mut io::sink());
            }
        })
    }

    /// Takes each line of a file.
    pub(crate) fn of_file(
        file: &Path,
        of: String,
        scratch: PathBuf,
        limits: EmitLimits,
        uploader: Arc<Uploader>,
    ) -> Result<Self, EmitError> {
        let failed = |source| EmitError::Read { of: of.clone(), source };
        let from = File::open(file).map_err(failed)?;
        let cutter = Cutter::new(limits, scratch, of.clone());
        Self::begin(None, uploader, move |out| from_file(from, cutter, out)).map_err(failed)
    }

    fn begin(
        fifo: Option<File>,
        uploader: Arc<Uploader>,
        cut: impl FnOnce(&mpsc::Sender<Cut>) + Send + 'static,
    ) -> io::Result<Self> {
        let (out, shards) = mpsc::channel(1);
        // A thread, not a task: it waits for the program and for the store, and signals must not wait with it.
        thread::Builder::new().name("items".into()).spawn(move || cut(&out))?;
        Ok(Self { fifo, stored: tokio::spawn(store(shards, uploader)) })
    }

    /// Ends when an item cannot be taken or a shard cannot be stored. Dropping the future loses nothing.
    pub(crate) async fn broken(&mut self) -> EmitError {
        match (&mut self.stored).await {
            Ok(Err(error)) => error,
            // Without an error it ends only when it is told to, and after this nobody can.
            Ok(Ok(_)) | Err(_) => EmitError::Gone,
        }
    }

    /// Call it when the program has ended: takes what is left, and waits until everything is stored.
    pub(crate) async fn finish(self) -> Result<Emitted, EmitError> {
        if let Some(mut fifo) = self.fifo {
            let failed = |source| EmitError::Read { of: format!("${}", env::EMIT), source };
            // The thread may be waiting for bytes: from now on it does not, and an empty line wakes it. If the program
            // has left a line without an end, this is the end of it. Into a full pipe it need not go.
            fcntl(&fifo, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| failed(errno.into()))?;
            let _ = fifo.write(b"\n");
        }
        self.stored.await.unwrap_or(Err(EmitError::Gone))
    }
}

/// Cuts until the pipe is empty and nobody is to be waited for. True: something is wrong, and it was not read to the end.
fn from_fifo(from: &mut File, mut cutter: Cutter, out: &mpsc::Sender<Cut>) -> bool {
    let mut buffer = vec![0; BUFFER];
    let mut left = LEFT_IN_PIPE;
    let result = loop {
        match from.read(&mut buffer) {
            Ok(length) => {
                if let Err(error) = cutter.take(&buffer[..length], |shard| give(out, Ok(shard))) {
                    break Err(error);
                }
                if is_over(from) {
                    left = left.saturating_sub(length);
                    if left == 0 {
                        break Ok(());
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => break Err(EmitError::Read { of: format!("${}", env::EMIT), source }),
        }
    };
    end(result, cutter, out)
}

/// [`Emission::finish`] was called.
fn is_over(fifo: &File) -> bool {
    fcntl(fifo, FcntlArg::F_GETFL).is_ok_and(|flags| OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK))
}

fn from_file(mut from: File, mut cutter: Cutter, out: &mpsc::Sender<Cut>) {
    let mut buffer = vec![0; BUFFER];
    let result = loop {
        match from.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(length) => {
                if let Err(error) = cutter.take(&buffer[..length], |shard| give(out, Ok(shard))) {
                    break Err(error);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => break Err(EmitError::Read { of: cutter.of().to_owned(), source }),
        }
    };
    end(result, cutter, out);
}

/// The last shard, or what is wrong.
fn end(result: Result<(), EmitError>, cutter: Cutter, out: &mpsc::Sender<Cut>) -> bool {
    let result = result.and_then(|()| cutter.finish(|shard| give(out, Ok(shard))));
    let Err(error) = result else { return false };
    // When nobody takes it, something worse is known already.
    let _ = give(out, Err(error));
    true
}

/// Waits until somebody takes it; nobody does once a shard could not be stored.
fn give(out: &mpsc::Sender<Cut>, shard: Cut) -> Result<(), EmitError> {
    out.blocking_send(shard).map_err(|_| EmitError::Gone)
}

async fn store(shards: mpsc::Receiver<Cut>, uploader: Arc<Uploader>) -> Result<Emitted, EmitError> {
    let shards = stream::unfold(shards, async |mut shards| Some((shards.recv().await?, shards)));
    shards
        .map(|shard| store_one(shard, &uploader))
        .buffer_unordered(IN_FLIGHT)
        .try_fold(Emitted { shards: 0, items: 0 }, async |sum, items| {
            Ok(Emitted { shards: sum.shards + 1, items: sum.items + items })
        })
        .await
}

/// Stores one shard and forgets it; answers how many items it has.
async fn store_one(shard: Cut, uploader: &Uploader) -> Result<u64, EmitError> {
    let Shard { number, file, size, items } = shard?;
    let found = Found {
        output: ITEMS_OUTPUT.into(),
        seq: number,
        path: format!("{ITEMS_OUTPUT}/{number}.jsonl"),
        media_type: Some("application/jsonl".into()),
        size,
        file: file.clone(),
    };
    uploader.store(found).await?;
    fs::remove_file(file).map_err(EmitError::Keep)?;
    Ok(items)
}
