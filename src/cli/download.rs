//! Fetches one file of an output: resumed by range, its checksum verified, never over something that is there.
//!
//! A file grows as `<name>.<first of its checksum>.part` beside its place, so that a broken download goes on where it
//! stopped and never goes on with the bytes of another file. Every try asks the gateway anew: rights may have gone.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::{CONTENT_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::{Response, Url};
use sha2::{Digest, Sha256};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::gateway::{Gateway, GatewayError, accepted, silence};
use super::inputs::{CHUNK, digest};
use super::meter::Meter;
use super::retry::Retry;
use super::terminal::say;
use super::words::{clean, size};
use crate::verbs::logs::Lines;
use asynctask_contract::people::{DownloadTicket, FileView};

/// Longest silence in the middle of a file.
const STALL: Duration = Duration::from_secs(60);

/// A file that could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    /// Something is there already.
    #[error("{} exists and is another file: choose another place with -o, or replace it with --force", .0.display())]
    Exists(PathBuf),
    /// The disk does not take it.
    #[error("cannot write {}: {source}", file.display())]
    Write {
        /// File.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The gateway or the store does not give it.
    #[error("cannot fetch {path:?}: {source}")]
    Fetch {
        /// The author's path.
        path: String,
        /// Why.
        source: GatewayError,
    },
    /// The bytes stopped, again and again.
    #[error(
        "cannot fetch {path:?}: the connection broke after {}: {why}. Run the command again: it goes on from there",
        size(*.at)
    )]
    Broken {
        /// The author's path.
        path: String,
        /// Where.
        at: u64,
        /// Why.
        why: String,
    },
    /// More or other bytes than asked for.
    #[error("cannot fetch {path:?}: the server sent {what}")]
    Answer {
        /// The author's path.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The bytes are not those the task committed.
    #[error("the bytes of {path:?} do not match their SHA-256: expected {expected}, got {got}. {kept}")]
    Mismatch {
        /// The author's path.
        path: String,
        /// Committed.
        expected: String,
        /// Received.
        got: String,
        /// What became of the bytes.
        kept: String,
    },
}

/// What a partial file of `have` bytes is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resume {
    /// Nothing there: from the beginning.
    Fresh,
    /// Go on from here.
    From(u64),
    /// All bytes are there: only verify.
    Whole,
    /// Longer than the file: no part of it.
    Foreign,
}

const fn resume(have: u64, whole: u64) -> Resume {
    match have {
        _ if have > whole => Resume::Foreign,
        _ if have == whole => Resume::Whole,
        0 => Resume::Fresh,
        _ => Resume::From(have),
    }
}

/// How it ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Written and verified.
    Written,
    /// The very file was there already.
    Unchanged,
}

/// Fetches `file` from its broker link to `place`.
pub(crate) async fn to_file(
    gateway: &Gateway,
    link: Url,
    file: &FileView,
    place: &Path,
    force: bool,
    meter: &Meter,
) -> Result<Outcome, DownloadError> {
    if place.symlink_metadata().is_ok() {
        if is_same(place, file).await {
            return Ok(Outcome::Unchanged);
        }
        if !force {
            return Err(DownloadError::Exists(place.to_owned()));
        }
    }
    let part = part_of(place, &file.sha256);
    let failed = |source| DownloadError::Write { file: part.clone(), source };
    let mut transfer = Transfer::new(gateway, link, file, meter);
    let mut open = transfer.open(&part).await.map_err(failed)?;
    transfer.run(&mut Sink::Part(&mut open), &part).await?;
    open.sync_all().await.map_err(failed)?;
    drop(open);
    let kept = format!("They are kept as {}: look at them, remove that file and run the command again", part.display());
    transfer.verify(kept)?;
    publish(&part, place, force)?;
    Ok(Outcome::Written)
}

/// Fetches `file` to stdout; verified at the end, when it is too late to take it back.
pub(crate) async fn to_stdout(
    gateway: &Gateway,
    link: Url,
    file: &FileView,
    meter: &Meter,
) -> Result<(), DownloadError> {
    let mut transfer = Transfer::new(gateway, link, file, meter);
    let name = Path::new("standard output");
    transfer.run(&mut Sink::Stdout, name).await?;
    transfer.verify("Do not use what was written".to_owned())
}

/// The same with something before each line.
pub(crate) async fn to_lines(
    gateway: &Gateway,
    link: Url,
    file: &FileView,
    meter: &Meter,
    lines: &mut Lines,
) -> Result<(), DownloadError> {
    let mut transfer = Transfer::new(gateway, link, file, meter);
    transfer.run(&mut Sink::Lines(lines), Path::new("standard output")).await?;
    transfer.verify("Do not use what was written".to_owned())
}

/// Where bytes go.
enum Sink<'a> {
    Part(&'a mut File),
    Stdout,
    Lines(&'a mut Lines),
}

impl Sink<'_> {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Part(file) => file.write_all(bytes).await,
            // The only thing this process does meanwhile is to wait for more bytes.
            Self::Stdout => io::Write::write_all(&mut io::stdout().lock(), bytes),
            Self::Lines(lines) => lines.write_to(bytes, &mut io::stdout().lock()),
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Part(file) => file.flush().await,
            Self::Stdout | Self::Lines(_) => io::Write::flush(&mut io::stdout().lock()),
        }
    }
}

struct Transfer<'a> {
    gateway: &'a Gateway,
    link: Url,
    file: &'a FileView,
    meter: &'a Meter,
    hasher: Sha256,
    offset: u64,
}

impl<'a> Transfer<'a> {
    fn new(gateway: &'a Gateway, link: Url, file: &'a FileView, meter: &'a Meter) -> Self {
        Self { gateway, link, file, meter, hasher: Sha256::new(), offset: 0 }
    }

    /// Opens the partial file behind what is good of it.
    async fn open(&mut self, part: &Path) -> io::Result<File> {
        if part.symlink_metadata().is_ok_and(|meta| !meta.is_file()) {
            return Err(io::Error::other("it is no regular file: remove it"));
        }
        let mut open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(part).await?;
        match resume(open.metadata().await?.len(), self.file.size) {
            Resume::Fresh => {}
            Resume::From(_) | Resume::Whole => self.take_in(&mut open).await?,
            Resume::Foreign => {
                say(&format!("{} is longer than the file it should be a part of: beginning anew", part.display()));
                open.set_len(0).await?;
            }
        }
        Ok(open)
    }

    /// Hashes what is there; the cursor ends behind it.
    async fn take_in(&mut self, open: &mut File) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = open.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            self.hasher.update(&buffer[..n]);
            self.offset += n as u64;
            self.meter.add(n as u64);
        }
    }

    async fn run(&mut self, sink: &mut Sink<'_>, name: &Path) -> Result<(), DownloadError> {
        let mut retry = Retry::default();
        while self.offset < self.file.size {
            let before = self.offset;
            let Err(error) = self.attempt(sink, name).await else { continue };
            if self.offset > before {
                retry.progressed();
            }
            match retry.pause().filter(|_| error.is_transient()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
        sink.flush().await.map_err(|source| DownloadError::Write { file: name.to_owned(), source })
    }

    /// One ticket, one request, as many bytes as it gives.
    async fn attempt(&mut self, sink: &mut Sink<'_>, name: &Path) -> Result<(), DownloadError> {
        let fetch = |source| DownloadError::Fetch { path: clean(&self.file.path), source };
        let ticket: DownloadTicket = self.gateway.ask(self.link.clone()).await.map_err(fetch)?;
        if ticket.file.sha256 != self.file.sha256 {
            return Err(self.wrong("another file than the one that was listed: list the outputs again"));
        }
        let store = self.gateway.store(ticket.ca.as_deref()).map_err(fetch)?;
        let mut headers = HeaderMap::new();
        if self.offset > 0 {
            let range = format!("bytes={}-", self.offset);
            headers.insert(RANGE, HeaderValue::try_from(range).expect("invariant: digits are a header value"));
        }
        let (reply, peer) = self.gateway.perform(&store, &ticket.request, headers, None).await.map_err(fetch)?;
        let reply = accepted(reply, peer).await.map_err(fetch)?;
        let skip = self.skip(&reply)?;
        self.receive(reply, skip, sink, name).await
    }

    /// Bytes of the answer that are here already: none when the server went on from where we asked, all we have when it
    /// began anew.
    fn skip(&self, reply: &Response) -> Result<u64, DownloadError> {
        if reply.status() != StatusCode::PARTIAL_CONTENT {
            return Ok(self.offset);
        }
        let from = reply.headers().get(CONTENT_RANGE).and_then(|range| first_byte(range.to_str().ok()?));
        if from == Some(self.offset) { Ok(0) } else { Err(self.wrong("another range than the one asked for")) }
    }

    async fn receive(
        &mut self,
        mut reply: Response,
        mut skip: u64,
        sink: &mut Sink<'_>,
        name: &Path,
    ) -> Result<(), DownloadError> {
        loop {
            let next = tokio::time::timeout(STALL, reply.chunk()).await;
            let next = next.map_err(|_| self.broken(format!("no byte for {} s", STALL.as_secs())))?;
            let Some(chunk) = next.map_err(|e| self.broken(silence(e)))? else { break };
            let known = usize::try_from(skip).map_or(chunk.len(), |skip| skip.min(chunk.len()));
            skip -= known as u64;
            let fresh = &chunk[known..];
            if self.offset + fresh.len() as u64 > self.file.size {
                return Err(self.wrong("more bytes than the file has"));
            }
            sink.write(fresh).await.map_err(|source| DownloadError::Write { file: name.to_owned(), source })?;
            self.hasher.update(fresh);
            self.offset += fresh.len() as u64;
            self.meter.add(fresh.len() as u64);
        }
        if self.offset < self.file.size { Err(self.broken("the answer ended early".to_owned())) } else { Ok(()) }
    }

    fn verify(&mut self, kept: String) -> Result<(), DownloadError> {
        let got = hex::encode(std::mem::take(&mut self.hasher).finalize());
        if got == self.file.sha256 {
            return Ok(());
        }
        let expected = self.file.sha256.clone();
        Err(DownloadError::Mismatch { path: clean(&self.file.path), expected, got, kept })
    }

    fn wrong(&self, what: &'static str) -> DownloadError {
        DownloadError::Answer { path: clean(&self.file.path), what }
    }

    fn broken(&self, why: String) -> DownloadError {
        DownloadError::Broken { path: clean(&self.file.path), at: self.offset, why }
    }
}

impl DownloadError {
    /// The reader of stdout is gone.
    pub(crate) fn is_reader_gone(&self) -> bool {
        matches!(self, Self::Write { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// A broken connection passes; a signed URL that has expired is replaced by the next ticket.
    fn is_transient(&self) -> bool {
        match self {
            Self::Broken { .. } => true,
            Self::Fetch { source: GatewayError::Status { peer: super::gateway::STORE, status }, .. } => {
                *status == StatusCode::FORBIDDEN || status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Fetch { source, .. } => source.is_transient(),
            Self::Exists(_) | Self::Write { .. } | Self::Answer { .. } | Self::Mismatch { .. } => false,
        }
    }
}

/// `bytes 100-199/200` → 100
fn first_byte(content_range: &str) -> Option<u64> {
    content_range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// The partial file of a place: named after the checksum, so that another file's bytes are never taken for its own.
fn part_of(place: &Path, sha256: &str) -> PathBuf {
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", sha256.get(..12).unwrap_or(sha256)));
    place.with_file_name(name)
}

async fn is_same(place: &Path, file: &FileView) -> bool {
    let same_size = place.metadata().is_ok_and(|meta| meta.is_file() && meta.len() == file.size);
    same_size && digest(place, 0, file.size, None).await.is_ok_and(|sha256| sha256 == file.sha256)
}

/// Gives the verified bytes their name. Without force by a hard link, which fails when the name is taken, even by
/// somebody who was quicker.
fn publish(part: &Path, place: &Path, force: bool) -> Result<(), DownloadError> {
    let failed = |source| DownloadError::Write { file: place.to_owned(), source };
    if force {
        return std::fs::rename(part, place).map_err(failed);
    }
    match std::fs::hard_link(part, place) {
        Ok(()) => std::fs::remove_file(part).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(DownloadError::Exists(place.to_owned())),
        // No hard links on this file system.
        Err(_) if place.symlink_metadata().is_ok() => Err(DownloadError::Exists(place.to_owned())),
        Err(_) => std::fs::rename(part, place).map_err(failed),
    }
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;
