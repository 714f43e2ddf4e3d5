//! Inputs, streamed to files; what arrives is exactly what the assignment promises, or the program does not start.

use std::io;
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, RANGE};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt, BufWriter};
use tokio::time::timeout;

use super::client::{CallError, Fault, Gateway, Transport, send, unreachable};
use super::retry::{Decision, Kind, Peer, Tries};
use crate::contract::wire::{Assignment, InputSource, Work, path};

/// A transfer without TLS may flip a bit once; twice is what is stored.
const DOWNLOADS: u32 = 2;
/// Without a byte for this long the connection counts as broken.
const SILENCE: Duration = Duration::from_secs(60);
const BUFFER: usize = 256 << 10;

/// An input is not there as promised.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("the place {0:?} of an input is not inside the folder of inputs")]
    Place(String),
    #[error(
        "the input {name:?} cannot be written to the work folder: {source}; is the step's `workspace.size` enough?"
    )]
    Write { name: String, source: io::Error },
    #[error("the input {name:?} is not what was uploaded: expected {expected}, got {got}; upload it again")]
    Altered { name: String, expected: String, got: String },
    #[error("the input {name:?} cannot be fetched: {said}")]
    Refused { name: String, said: String },
    #[error(transparent)]
    Renew(#[from] CallError),
    #[error("this attempt was called off while its inputs were fetched: {0}")]
    CalledOff(String),
}

impl InputError {
    /// The word of the failure report.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Altered { .. } => "InputInvalid",
            Self::Place(_) | Self::Write { .. } | Self::Refused { .. } | Self::Renew(_) | Self::CalledOff(_) => {
                "InputUnavailable"
            }
        }
    }
}

/// Fetches each input to its place below `folder`.
pub(crate) async fn fetch(
    gateway: &Gateway,
    transport: &Transport,
    folder: &Path,
    work: &Work,
) -> Result<(), InputError> {
    for input in &work.inputs {
        fetch_one(gateway, transport, folder, input.clone()).await?;
    }
    Ok(())
}

async fn fetch_one(
    gateway: &Gateway,
    transport: &Transport,
    folder: &Path,
    mut input: InputSource,
) -> Result<(), InputError> {
    let mut tries = Tries::default();
    let place = folder.join(place(&input)?);
    if let Some(parent) = place.parent() {
        tokio::fs::create_dir_all(parent).await.map_err(|e| unwritable(&input, e))?;
    }
    let mut download = Download::begin(&place).await.map_err(|e| unwritable(&input, e))?;
    let mut wrong = 0;
    loop {
        let before = download.length;
        let broken = match download.go_on(transport, &input).await {
            Ok(()) => match download.check(&input).await {
                Ok(()) => {
                    gateway.works_again();
                    return Ok(());
                }
                Err(altered) => {
                    wrong += 1;
                    if wrong == DOWNLOADS {
                        return Err(altered);
                    }
                    download.restart().await.map_err(|e| unwritable(&input, e))?;
                    continue;
                }
            },
            Err(broken) => broken,
        };
        let (peer, fault) = match broken {
            Broken::Disk(source) => return Err(unwritable(&input, source)),
            Broken::Peer(peer, fault) => (peer, fault),
        };
        if download.length > before {
            tries = Tries::default();
        }
        if gateway.wait_after(&format!("fetch the input {:?}", input.name), peer, &fault, &mut tries).await
            == Decision::Stop
        {
            return Err(InputError::Refused { name: input.name, said: fault.said });
        }
        // A signed URL lives for a minute; a large file takes longer. The new one comes with a new look at the fence.
        if matches!(fault.kind, Kind::Status { code: 400..=403, .. }) {
            input = renew(gateway, &input).await?;
        }
    }
}

/// Where the input goes, relative to the folder of inputs and never out of it.
fn place(input: &InputSource) -> Result<&Path, InputError> {
    let text = input.path.as_ref().unwrap_or(&input.name);
    let inside = |part: &str| !part.is_empty() && !matches!(part, "." | "..");
    if !text.contains('\0') && text.split('/').all(inside) {
        Ok(Path::new(text))
    } else {
        Err(InputError::Place(text.clone()))
    }
}

async fn renew(gateway: &Gateway, input: &InputSource) -> Result<InputSource, InputError> {
    match gateway.get("renew the address of an input", path::ASSIGNMENT).await? {
        Assignment::Run(work) => work
            .inputs
            .into_iter()
            .find(|fresh| (&fresh.name, &fresh.path, &fresh.sha256) == (&input.name, &input.path, &input.sha256))
            .ok_or_else(|| InputError::CalledOff("the assignment has changed".to_owned())),
        Assignment::AlreadyCommitted => Err(InputError::CalledOff("the step has a committed result".to_owned())),
        Assignment::Stop { message } => Err(InputError::CalledOff(message)),
    }
}

fn unwritable(input: &InputSource, source: io::Error) -> InputError {
    InputError::Write { name: input.name.clone(), source }
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
    async fn begin(path: &Path) -> io::Result<Self> {
        let file = File::create(path).await?;
        Ok(Self { file: BufWriter::with_capacity(BUFFER, file), hash: Sha256::new(), length: 0 })
    }

    async fn restart(&mut self) -> io::Result<()> {
        self.file.rewind().await?;
        self.file.get_mut().set_len(0).await?;
        self.hash = Sha256::new();
        self.length = 0;
        Ok(())
    }

    /// Continues where the last connection broke off, if the peer lets us.
    async fn go_on(&mut self, transport: &Transport, input: &InputSource) -> Result<(), Broken> {
        let local = |fault| Broken::Peer(Peer::Gateway, fault);
        let (peer, mut request) = transport.request(&input.source).map_err(local)?;
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
                Ok(Err(_)) if self.length == input.size => break,
                Ok(Err(error)) => return Err(Broken::Peer(peer, unreachable(&error))),
                Err(_) => return Err(Broken::Peer(peer, quiet())),
            };
            self.length += chunk.len() as u64;
            self.hash.update(&chunk);
            self.file.write_all(&chunk).await?;
            if self.length > input.size {
                break;
            }
        }
        self.file.flush().await?;
        Ok(())
    }

    async fn check(&mut self, input: &InputSource) -> Result<(), InputError> {
        self.file.flush().await.map_err(|e| unwritable(input, e))?;
        let altered = |expected, got| Err(InputError::Altered { name: input.name.clone(), expected, got });
        if self.length > input.size {
            return altered(format!("{} bytes", input.size), "more".to_owned());
        }
        if self.length < input.size {
            return altered(format!("{} bytes", input.size), format!("{}", self.length));
        }
        let got = hex::encode(self.hash.clone().finalize());
        if got == input.sha256 {
            return Ok(());
        }
        altered(format!("SHA-256 {}", input.sha256), got)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::wire::SignedRequest;

    fn input(name: &str, path: Option<&str>) -> InputSource {
        let source = SignedRequest { method: "GET".into(), url: "/x".into(), headers: [].into() };
        InputSource { name: name.into(), path: path.map(str::to_owned), size: 0, sha256: String::new(), source }
    }

    #[test]
    fn an_input_goes_to_its_name_or_below_it_and_never_out_of_the_folder() {
        assert_eq!(place(&input("archive", None)).unwrap(), Path::new("archive"));
        assert_eq!(place(&input("pages", Some("pages/a/b.txt"))).unwrap(), Path::new("pages/a/b.txt"));
        for bad in ["", "/etc/passwd", "..", "a/../../b", "a//b", "a/", "./a", "a\0b"] {
            assert!(matches!(place(&input("a", Some(bad))), Err(InputError::Place(_))), "{bad:?}");
            assert!(bad == "a" || place(&input(bad, None)).is_err(), "{bad:?}");
        }
    }
}
