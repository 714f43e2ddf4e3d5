//! stdout and stderr of the program: passed through unchanged, and kept for the built-in output `log`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::child::Started;
use super::last_words::{LOOKED_AT, last_words};
use super::notice;
use super::outputs::Found;
use super::spool::Spool;
use super::upload::{UploadError, Uploader};
use asynctask_contract::env::LOG_OUTPUT;
use asynctask_contract::wire::CommittedFile;

/// An out-of-memory kill or a lost node leaves a log at most this old.
const FLUSH: Duration = Duration::from_secs(30);
/// Pipes held open by a process that left the program's group are not waited for any longer.
const STRAGGLERS: Duration = Duration::from_secs(2);
/// Bytes of the end that travel in a failure report and in the termination message.
const TAIL: usize = 2048;

/// The log of one attempt.
#[derive(Clone)]
pub(crate) struct Log {
    kept: Arc<Mutex<Kept>>,
    /// Held while a snapshot is on its way, so that an older one never overwrites a newer one.
    stored: Arc<tokio::sync::Mutex<Option<Stored>>>,
    snapshot: PathBuf,
}

struct Kept {
    spool: Spool,
    stderr: Vec<u8>,
    /// The disk is full or broken: the rest passes through without being kept.
    broken: bool,
}

struct Stored {
    total: u64,
    file: CommittedFile,
}

/// Ends when both streams have.
pub(crate) struct Pumps(Vec<oneshot::Receiver<()>>);

impl Log {
    pub(crate) fn new(scratch: &Path, limit: u64) -> io::Result<Self> {
        let kept = Kept { spool: Spool::new(scratch, limit)?, stderr: Vec::new(), broken: false };
        Ok(Self { kept: Arc::new(Mutex::new(kept)), stored: Arc::default(), snapshot: scratch.join("log") })
    }

    /// Begins to pass on and to keep what the program writes.
    ///
    /// Threads, not tasks: when the container runtime does not read, the program has to wait as it would without the
    /// agent, but signals and progress must not.
    pub(crate) fn pump(&self, program: Started) -> io::Result<Pumps> {
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        Ok(Pumps(vec![self.pump_one(program.stdout, stdout, false)?, self.pump_one(program.stderr, stderr, true)?]))
    }

    fn pump_one(
        &self,
        mut from: impl Read + Send + 'static,
        to: OwnedFd,
        errors: bool,
    ) -> io::Result<oneshot::Receiver<()>> {
        let (ended, end) = oneshot::channel();
        let kept = Arc::clone(&self.kept);
        let mut to = File::from(to);
        thread::Builder::new().name(if errors { "stderr" } else { "stdout" }.into()).spawn(move || {
            let mut buffer = vec![0; 32 << 10];
            loop {
                match from.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => {
                        // Nobody reads the pod's log: the stored one still counts.
                        let _ = to.write_all(&buffer[..length]);
                        lock(&kept).keep(&buffer[..length], errors);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            let _ = ended.send(());
        })?;
        Ok(end)
    }

    /// One line of the agent's own that belongs to what the program did.
    pub(crate) fn say(&self, sentence: impl std::fmt::Display) {
        notice(&sentence);
        // Not among the program's last words on stderr: those explain its failure.
        lock(&self.kept).keep(format!("asynctask-agent: {sentence}\n").as_bytes(), false);
    }

    /// The last lines, for a failure report.
    pub(crate) fn tail(&self) -> String {
        lock(&self.kept).spool.last(TAIL).unwrap_or_default()
    }

    /// What the program said last on stderr.
    pub(crate) fn last_words(&self) -> Option<String> {
        last_words(&lock(&self.kept).stderr)
    }

    /// Stores the log if it has changed since the last time. `None`: the program has written nothing.
    pub(crate) async fn store(&self, uploader: &Uploader) -> Result<Option<CommittedFile>, UploadError> {
        let mut stored = self.stored.lock().await;
        let total = lock(&self.kept).spool.total();
        match &*stored {
            _ if total == 0 => return Ok(None),
            Some(last) if last.total == total => return Ok(Some(last.file.clone())),
            _ => {}
        }
        let (total, size) =
            self.take_snapshot().map_err(|source| UploadError::Read { path: "the log".into(), source })?;
        let file = uploader
            .store(Found {
                output: LOG_OUTPUT.into(),
                seq: 0,
                path: "log.txt".into(),
                media_type: Some("text/plain".into()),
                size,
                file: self.snapshot.clone(),
            })
            .await?;
        *stored = Some(Stored { total, file: file.clone() });
        Ok(Some(file))
    }

    /// Stores the log again and again while the program runs. A failure is no reason to disturb the program.
    pub(crate) async fn keep_storing(self, uploader: Arc<Uploader>) {
        let mut ticks = interval_at(Instant::now() + FLUSH, FLUSH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Ok(Err(error)) = timeout(FLUSH, self.store(&uploader)).await {
                notice(format_args!("the log was not stored this time: {error}"));
            }
        }
    }

    fn take_snapshot(&self) -> io::Result<(u64, u64)> {
        let mut out = io::BufWriter::new(File::create(&self.snapshot)?);
        let mut kept = lock(&self.kept);
        kept.spool.copy_to(&mut out)?;
        let total = kept.spool.total();
        drop(kept);
        let size = out.into_inner().map_err(io::IntoInnerError::into_error)?.metadata()?.len();
        Ok((total, size))
    }
}

impl Kept {
    fn keep(&mut self, bytes: &[u8], errors: bool) {
        if errors {
            self.stderr.extend_from_slice(&bytes[bytes.len().saturating_sub(LOOKED_AT)..]);
            let surplus = self.stderr.len().saturating_sub(LOOKED_AT);
            self.stderr.drain(..surplus);
        }
        if self.broken {
            return;
        }
        if let Err(error) = self.spool.write(bytes) {
            self.broken = true;
            notice(format_args!("the stored log ends here, the work folder takes no more: {error}"));
        }
    }
}

impl Pumps {
    /// Waits for the last bytes.
    pub(crate) async fn end(self) {
        let all = async {
            for pump in self.0 {
                let _ = pump.await;
            }
        };
        if timeout(STRAGGLERS, all).await.is_err() {
            notice("a process that left the program's group still holds its stdout or stderr; the log ends here");
        }
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    // A panic ends the process, so nobody has seen half a write.
    kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
