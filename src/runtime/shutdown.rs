//! How a process ends: stop intake → drain → let go of what others wait for.
//!
//! Every part of the process is a task of one [`Supervisor`]. A part that ends on its own ends the process: a dead
//! loop that nobody notices is an outage that nobody sees.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
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
    signals: Option<Signals>,
    /// Why the process is to end, once it is.
    why: Option<Result<(), SupervisorError>>,
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

    /// Waits for something that has to come first. `None` when the process is to end instead; then go on to
    /// [`Supervisor::run`], which knows why.
    pub async fn first<T>(&mut self, something: impl Future<Output = T>) -> Option<T> {
        if self.why.is_some() {
            return None;
        }
        tokio::select! {
            done = something => Some(done),
            why = self.ending() => { self.why = Some(why); None }
        }
    }

    /// Runs until a signal arrives or a part ends, then ends the others. Each of the two phases may take `patience`.
    ///
    /// # Errors
    /// The first reason to end that was not a signal.
    pub async fn run(mut self, patience: Duration) -> Result<(), SupervisorError> {
        let why = match self.why.take() {
            Some(why) => why,
            None => self.ending().await,
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

    async fn ending(&mut self) -> Result<(), SupervisorError> {
        let signals = match &mut self.signals {
            Some(signals) => signals,
            none => none.insert(Signals::listen().map_err(SupervisorError::Signals)?),
        };
        tokio::select! {
            name = signals.next() => { tracing::info!(signal = name, "ending"); Ok(()) }
            Some(ended) = self.parts.join_next() => Err(unexpected(ended)),
            Some(ended) = self.last.join_next() => Err(unexpected(ended)),
        }
    }
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
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

    #[tokio::test]
    async fn what_has_to_come_first_is_not_waited_for_once_a_part_ended() {
        let mut supervisor = Supervisor::new();
        assert_eq!(supervisor.first(async { 7 }).await, Some(7));
        supervisor.spawn("short", async { Err(std::io::Error::other("address in use")) });
        assert_eq!(supervisor.first(std::future::pending::<()>()).await, None);
        assert_eq!(supervisor.first(async { 7 }).await, None, "it stays so");
        let error = supervisor.run(PATIENCE).await.expect_err("a part failed");
        assert_eq!(error.to_string(), "short: address in use");
    }

    #[tokio::test]
    async fn a_part_that_does_not_drain_is_not_waited_for_for_ever() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn("stuck", std::future::pending::<Result<(), Infallible>>());
        let stopping = supervisor.stopping();
        supervisor.spawn("short", async move { Err(std::io::Error::other("first")) });
        let error = supervisor.run(Duration::from_millis(20)).await.expect_err("a part failed");
        assert_eq!(error.to_string(), "short: first");
        assert!(stopping.is_cancelled());
    }
}
