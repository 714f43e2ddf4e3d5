//! How a process ends: stop intake → drain → let go of what others wait for.
//!
//! Every part of the process is a task of one [`Supervisor`]. A part that ends on its own ends the process: a dead
//! loop that nobody notices is an outage that nobody sees.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

type PartError = Box<dyn Error + Send + Sync>;
type Ended = (&'static str, Result<(), PartError>);

/// Why a process ended other than asked for.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// SIGTERM and SIGINT cannot be listened to.
    #[error("signals cannot be listened to: {0}")]
    Signals(#[source] std::io::Error),
    /// A part ended though nothing asked it to.
    #[error("{part} ended unexpectedly")]
    Ended {
        /// Its name.
        part: &'static str,
    },
    /// A part failed.
    #[error("{part}: {source}")]
    Failed {
        /// Its name.
        part: &'static str,
        /// What it said.
        source: PartError,
    },
    /// A part panicked.
    #[error("a part of the process panicked: {0}")]
    Panicked(#[source] JoinError),
    /// Draining took too long.
    #[error("still busy {}s after the process was asked to end", .0.as_secs())]
    DrainTimeout(Duration),
}

/// The parts of a process.
#[derive(Debug, Default)]
pub struct Supervisor {
    stopping: CancellationToken,
    drained: CancellationToken,
    parts: JoinSet<Ended>,
    last: JoinSet<Ended>,
}

impl Supervisor {
    /// No parts yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the process is to end: take nothing new, finish what was begun.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Cancelled when all parts have ended but those of [`Supervisor::spawn_last`].
    #[must_use]
    pub fn drained(&self) -> CancellationToken {
        self.drained.clone()
    }

    /// Starts a part. It has to end soon after [`Supervisor::stopping`], and never before.
    pub fn spawn<E: Into<PartError> + Send>(
        &mut self,
        part: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.parts.spawn(async move { (part, work.await.map_err(Into::into)) });
    }

    /// Starts a part that ends after all others, upon [`Supervisor::drained`]: the lease, which tells the next
    /// process that this one writes no more.
    pub fn spawn_last<E: Into<PartError> + Send>(
        &mut self,
        part: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.last.spawn(async move { (part, work.await.map_err(Into::into)) });
    }

    /// Runs until a signal arrives or a part ends, then ends the others. Each of the two phases may take `patience`.
    ///
    /// # Errors
    /// The first reason to end that was not a signal.
    pub async fn run(mut self, patience: Duration) -> Result<(), SupervisorError> {
        let asked = signalled()?;
        let why = tokio::select! {
            name = asked => { tracing::info!(signal = name, "ending"); Ok(()) }
            Some(ended) = self.parts.join_next() => Err(unexpected(ended)),
            Some(ended) = self.last.join_next() => Err(unexpected(ended)),
        };
        if let Err(error) = &why {
            tracing::error!(%error, "ending");
        }
        self.stopping.cancel();
        let drained = drain(&mut self.parts, patience).await;
        self.drained.cancel();
        let released = drain(&mut self.last, patience).await;
        why.and(drained).and(released)
    }
}

/// Waits for SIGTERM or SIGINT. Listening starts at once, not at the first poll.
fn signalled() -> Result<impl Future<Output = &'static str>, SupervisorError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(SupervisorError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(SupervisorError::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

fn unexpected(ended: Result<Ended, JoinError>) -> SupervisorError {
    match ended {
        Ok((part, Ok(()))) => SupervisorError::Ended { part },
        Ok((part, Err(source))) => SupervisorError::Failed { part, source },
        Err(panic) => SupervisorError::Panicked(panic),
    }
}

async fn drain(parts: &mut JoinSet<Ended>, patience: Duration) -> Result<(), SupervisorError> {
    let all = async {
        while let Some(ended) = parts.join_next().await {
            match ended {
                Ok((_, Ok(()))) => {}
                other => return Err(unexpected(other)),
            }
        }
        Ok(())
    };
    tokio::time::timeout(patience, all).await.unwrap_or(Err(SupervisorError::DrainTimeout(patience)))
}

#[cfg(test)]
mod tests {
    use super::{Supervisor, SupervisorError};
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn record(log: &Arc<Mutex<Vec<&'static str>>>, what: &'static str) {
        log.lock().expect("no panic").push(what);
    }

    #[tokio::test]
    async fn a_part_that_ends_ends_the_process_and_the_last_part_ends_last() {
        let mut supervisor = Supervisor::new();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stopping, drained) = (supervisor.stopping(), supervisor.drained());
        let (slow, lease) = (Arc::clone(&log), Arc::clone(&log));
        supervisor.spawn("slow", async move {
            stopping.cancelled().await;
            tokio::time::sleep(Duration::from_millis(30)).await;
            record(&slow, "drained");
            Ok::<_, Infallible>(())
        });
        supervisor.spawn_last("lease", async move {
            drained.cancelled().await;
            record(&lease, "released");
            Ok::<_, Infallible>(())
        });
        supervisor.spawn("short", async { Ok::<_, Infallible>(()) });
        let error = supervisor.run(PATIENCE).await.expect_err("a part ended");
        assert!(matches!(error, SupervisorError::Ended { part: "short" }), "{error}");
        assert_eq!(*log.lock().expect("no panic"), ["drained", "released"]);
    }

    #[tokio::test]
    async fn a_failing_part_is_named_with_its_words() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn_last("lease", async { Err(std::io::Error::other("lost to another operator")) });
        let error = supervisor.run(PATIENCE).await.expect_err("a part failed");
        assert_eq!(error.to_string(), "lease: lost to another operator");
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_does_not_drain_is_not_waited_for_for_ever() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn("stuck", std::future::pending::<Result<(), Infallible>>());
        let stopping = supervisor.stopping();
        supervisor.spawn("short", async move { Err(std::io::Error::other("first")) });
        let error = supervisor.run(PATIENCE).await.expect_err("a part failed");
        assert_eq!(error.to_string(), "short: first");
        assert!(stopping.is_cancelled());
    }
}
