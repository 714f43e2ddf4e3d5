//! Files of a promised size, streamed to the disk; what arrives is exactly what was promised, or it does not count.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, RANGE};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt, BufWriter};
use tokio::time::timeout;

use super::client::{CallError, Fault, Gateway, Transport, send, unreachable};
use super::retry::{Decision, Kind, Peer, Tries};
use asynctask_contract::wire::{Assignment, FailedBy, SignedRequest, Work, path, word};

/// A transfer without TLS may flip a bit once; twice is what is stored.
const DOWNLOADS: u32 = 2;
/// Without a byte for this long the connection counts as broken.
const SILENCE: Duration = Duration::from_secs(60);
const BUFFER: usize = 256 << 10;

/// A file is not there as promised.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("the place {0:?} of an input is not inside the folder of inputs")]
    Place(String),
    #[error("{what} cannot be written to the work folder: {source}; is the step's `workspace.size` enough?")]
    Write { what: String, source: io::Error },
    #[error("{what} is not what was stored: expected {expected}, got {got}; {remedy}")]
    Altered { what: String, expected: String, got: String, remedy: &'static str },
    #[error("{what} cannot be fetched: {said}")]
    Refused { what: String, by: FailedBy, said: String },
    #[error(transparent)]
    Renew(#[from] CallError),
    #[error("this attempt was called off while its inputs were fetched: {0}")]
    CalledOff(String),
}

impl FetchError {
    /// The word of the failure report.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Altered { .. } => "InputInvalid",
            Self::Refused { by: FailedBy::PlatformForGood, .. } => word::INPUT_MISSING,
            Self::Place(_) | Self::Write { .. } | Self::Refused { .. } | Self::Renew(_) | Self::CalledOff(_) => {
                "InputUnavailable"
            }
        }
    }

    /// Whose failure it is.
    pub(crate) fn failed_by(&self) -> FailedBy {
        match self {
            // Twice the same wrong bytes: that is what is stored.
            Self::Altered { .. } => FailedBy::PlatformForGood,
            Self::Refused { by, .. } => *by,
            Self::Renew(error) => error.failed_by(),
            Self::Place(_) | Self::Write { .. } => FailedBy::Agent,
            Self::CalledOff(_) => FailedBy::Platform,
        }
    }
}

/// A file that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// What it is, for people: `the input "archive"`.
    pub(crate) what: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Hex SHA-256, where it is known.
    pub(crate) sha256: Option<String>,
    /// Where the bytes are.
    pub(crate) source: SignedRequest,
    /// Where they go.
    pub(crate) place: PathBuf,
    /// What to do when it is not what was stored.
    pub(crate) remedy: &'static str,
}

/// Both peers a file may come from.
#[derive(Clone, Copy)]
pub(crate) struct Peers<'a> {
    pub(crate) gateway: &'a Gateway,
    pub(crate) transport: &'a Transport,
}

impl Peers<'_> {
    /// Fetches one file. A signed URL lives for a minute and a large file takes longer: `renew` gets a new one
    /// for the one that was refused.
    pub(crate) async fn fetch(
        self,
        mut wanted: Wanted,
        renew: impl AsyncFn(&SignedRequest) -> Result<SignedRequest, FetchError>,
    ) -> Result<(), FetchError> {
        let mut tries = Tries::default();
        let mut download = Download::begin(&wanted).await.map_err(|e| unwritable(&wanted, e))?;
        let mut wrong = 0;
        loop {
            let before = download.length;
            let broken = match download.go_on(self.transport, &wanted).await {
                Ok(()) => match download.check(&wanted).await {
                    Ok(()) => {
                        self.gateway.works_again();
                        return Ok(());
                    }
                    Err(altered) => {
                        wrong += 1;
                        if wrong == DOWNLOADS {
                            return Err(altered);
                        }
                        download.restart().await.map_err(|e| unwritable(&wanted, e))?;
                        continue;
                    }
                },
                Err(broken) => broken,
            };
            let (peer, fault) = match broken {
                Broken::Disk(source) => return Err(unwritable(&wanted, source)),
                Broken::Peer(peer, fault) => (peer, fault),
            };
            if download.length > before {
                tries = Tries::default();
            }
            if self.gateway.wait_after(&format!("fetch {}", wanted.what), peer, &fault, &mut tries).await
                == Decision::Stop
            {
                return Err(FetchError::Refused { what: wanted.what, by: fault.failed_by(peer), said: fault.said });
            }
            if matches!(fault.kind, Kind::Status { code: 400..=403, .. }) {
                wanted.source = renew(&wanted.source).await?;
            }
        }
    }
}

/// The assignment once more, for the sake of a fresh address in it. It comes with a new look at the fence.
pub(crate) async fn look_again(gateway: &Gateway) -> Result<Work, FetchError> {
    match gateway.get("renew the address of an input", path::ASSIGNMENT).await? {
        Assignment::Run(work) => Ok(*work),
        Assignment::AlreadyCommitted => Err(FetchError::CalledOff("the step has a committed result".to_owned())),
        Assignment::Stop { message } => Err(FetchError::CalledOff(message)),
    }
}

/// The assignment that was looked at again no longer names the file.
pub(crate) fn changed() -> FetchError {
    FetchError::CalledOff("the assignment has changed".to_owned())
}

fn unwritable(wanted: &Wanted, source: io::Error) -> FetchError {
    FetchError::Write { what: wanted.what.clone(), source }
}

/// A file that grows until it is whole, over as many connections as it takes.
struct Download {
    file: BufWriter<File>,
    hash: Sha256,
    length: u64,
}

enum Broken {
    Disk(io::Error),
    Peer(Peer, Fault),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl Download {
    async fn begin(wanted: &Wanted) -> io::Result<Self> {
        if let Some(parent) = wanted.place.parent() {
            tokio::fs::create_dir_all(parent).await?;
        }
        let file = File::create(&wanted.place).await?;
        let buffer = usize::try_from(wanted.size).unwrap_or(BUFFER).min(BUFFER);
        Ok(Self { file: BufWriter::with_capacity(buffer, file), hash: Sha256::new(), length: 0 })
    }

    async fn restart(&mut self) -> io::Result<()> {
        self.file.rewind().await?;
        self.file.get_mut().set_len(0).await?;
        self.hash = Sha256::new();
        self.length = 0;
        Ok(())
    }

    /// Continues where the last connection broke off, if the peer lets us.
    async fn go_on(&mut self, transport: &Transport, wanted: &Wanted) -> Result<(), Broken> {
        let local = |fault| Broken::Peer(Peer::Gateway, fault);
        let (peer, mut request) = transport.request(&wanted.source).map_err(local)?;
        if self.length > 0 {
            request = request.header(RANGE, format!("bytes={}-", self.length));
        }
        let quiet = || Fault::new(Kind::Unreachable, "no byte came for a minute");
        let mut answer = match timeout(SILENCE, send(peer, request)).await {
            Ok(answer) => answer.map_err(|fault| Broken::Peer(peer, fault))?,
            Err(_) => return Err(Broken::Peer(peer, quiet())),
        };
        if self.length > 0 && !continues(&answer, self.length) {
            self.restart().await?;
        }
        loop {
            let chunk = match timeout(SILENCE, answer.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break,
                Ok(Err(_)) if self.length == wanted.size => break,
                Ok(Err(error)) => return Err(Broken::Peer(peer, unreachable(&error))),
                Err(_) => return Err(Broken::Peer(peer, quiet())),
            };
            self.length += chunk.len() as u64;
            self.hash.update(&chunk);
            self.file.write_all(&chunk).await?;
            if self.length > wanted.size {
                break;
            }
        }
        self.file.flush().await?;
        Ok(())
    }

    async fn check(&mut self, wanted: &Wanted) -> Result<(), FetchError> {
        self.file.flush().await.map_err(|e| unwritable(wanted, e))?;
        let altered = |expected, got| {
            Err(FetchError::Altered { what: wanted.what.clone(), expected, got, remedy: wanted.remedy })
        };
        if self.length > wanted.size {
            return altered(format!("{} bytes", wanted.size), "more".to_owned());
        }
        if self.length < wanted.size {
            return altered(format!("{} bytes", wanted.size), format!("{}", self.length));
        }
        let Some(expected) = &wanted.sha256 else { return Ok(()) };
        let got = hex::encode(self.hash.clone().finalize());
        if got == *expected {
            return Ok(());
        }
        altered(format!("SHA-256 {expected}"), got)
    }
}

fn continues(answer: &reqwest::Response, from: u64) -> bool {
    answer.status() == StatusCode::PARTIAL_CONTENT
        && answer
            .headers()
            .get(CONTENT_RANGE)
            .and_then(|range| range.to_str().ok())
            .is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
}

/// A relative path that stays below its folder.
pub(crate) fn is_inside(path: &str) -> bool {
    let inside = |part: &str| !part.is_empty() && !matches!(part, "." | "..");
    !path.contains('\0') && path.split('/').all(inside)
}

/// The path below the folder, or an error that names it.
pub(crate) fn below(folder: &Path, path: &str) -> Result<PathBuf, FetchError> {
    if is_inside(path) { Ok(folder.join(path)) } else { Err(FetchError::Place(path.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_below_its_folder_and_never_out_of_it() {
        let folder = Path::new("/inputs");
        assert_eq!(below(folder, "archive").unwrap(), Path::new("/inputs/archive"));
        assert_eq!(below(folder, "pages/a/b.txt").unwrap(), Path::new("/inputs/pages/a/b.txt"));
        for bad in ["", "/etc/passwd", "..", "a/../../b", "a//b", "a/", "./a", "a\0b"] {
            assert!(matches!(below(folder, bad), Err(FetchError::Place(_))), "{bad:?}");
        }
    }
}
