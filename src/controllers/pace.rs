//! What every reconcile shares: a deadline, a back-off per object, one log line and one count per attempt.

use std::error::Error;
use std::future::Future;
use std::time::{Duration, Instant};

use kube::runtime::controller::Action;
use tokio::time::timeout;

use super::context::Reconciles;
use asynctask_runtime::backoff::Backoff;

/// An error that a metric and a condition can name.
pub(super) trait Reason: Error {
    /// A CamelCase word, one of few.
    fn reason(&self) -> &'static str;
}

/// What is to come after a reconcile that did all it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing, until something changes.
    Rest,
    /// Another look after this time.
    LookAgain(Duration),
    /// Another try with growing delays: what it waits for tells nobody when it changes.
    TryAgain,
}

/// Runs the reconciles of one controller.
#[derive(Debug)]
pub(super) struct Pace {
    controller: &'static str,
    deadline: Duration,
    backoff: Backoff,
    reconciles: Reconciles,
}

impl Pace {
    /// `deadline` bounds each attempt: the client repeats throttled requests by itself, and for long.
    pub(super) fn new(
        controller: &'static str,
        deadline: Duration,
        max_delay: Duration,
        reconciles: Reconciles,
    ) -> Self {
        Self { controller, deadline, backoff: Backoff::new(Duration::from_secs(1), max_delay), reconciles }
    }

    /// Runs one reconcile, unless the object's time has not come. `generation` is part of the key: who corrects a
    /// spec is answered at once.
    pub(super) async fn run<E: Reason>(
        &self,
        uid: &str,
        generation: Option<i64>,
        work: impl Future<Output = Result<Next, E>>,
    ) -> Action {
        self.run_within(self.deadline, uid, generation, work).await
    }

    /// The same with a deadline of its own.
    pub(super) async fn run_within<E: Reason>(
        &self,
        deadline: Duration,
        uid: &str,
        generation: Option<i64>,
        work: impl Future<Output = Result<Next, E>>,
    ) -> Action {
        let key = format!("{uid}/{}", generation.unwrap_or_default());
        if let Some(left) = self.backoff.remaining(&key, Instant::now()) {
            return Action::requeue(left);
        }
        let began = Instant::now();
        let outcome = timeout(deadline, work).await;
        let (result, next) = match &outcome {
            Ok(Ok(next)) => ("ok", *next),
            Ok(Err(error)) => {
                tracing::warn!(controller = self.controller, uid, reason = error.reason(), %error, "will be tried again");
                (error.reason(), Next::TryAgain)
            }
            Err(_) => {
                tracing::warn!(controller = self.controller, uid, seconds = deadline.as_secs(), "took too long");
                ("Deadline", Next::TryAgain)
            }
        };
        self.reconciles.observe(self.controller, result, began.elapsed());
        match next {
            Next::TryAgain => Action::requeue(self.backoff.failed(&key, Instant::now())),
            Next::LookAgain(after) => {
                self.backoff.forget(&key);
                Action::requeue(after)
            }
            Next::Rest => {
                self.backoff.forget(&key);
                Action::await_change()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kube::runtime::controller::Action;

    use super::{Next, Pace, Reason};
    use crate::context::Reconciles;
    use asynctask_runtime::metrics::Metrics;

    #[derive(Debug, thiserror::Error)]
    #[error("no answer")]
    struct NoAnswer;

    impl Reason for NoAnswer {
        fn reason(&self) -> &'static str {
            "NoAnswer"
        }
    }

    fn pace(metrics: &Metrics, deadline: Duration) -> Pace {
        Pace::new("store", deadline, Duration::from_secs(60), Reconciles::new(metrics))
    }

    #[tokio::test]
    async fn an_early_trigger_waits_but_a_corrected_spec_does_not() {
        let metrics = Metrics::new("operator");
        let pace = pace(&metrics, Duration::from_secs(5));
        let failed = pace.run("a", Some(1), async { Err(NoAnswer) }).await;
        assert_ne!(failed, Action::await_change());
        let early = pace.run("a", Some(1), async { Ok::<_, NoAnswer>(Next::Rest) }).await;
        assert_ne!(early, Action::await_change(), "it must not have run");
        let corrected = pace.run("a", Some(2), async { Ok::<_, NoAnswer>(Next::Rest) }).await;
        assert_eq!(corrected, Action::await_change());
        let text = metrics.encode().expect("text");
        for line in [
            r#"asynctask_reconciles_total{controller="store",result="NoAnswer"} 1"#,
            r#"asynctask_reconciles_total{controller="store",result="ok"} 1"#,
            r#"asynctask_reconcile_duration_seconds_count{controller="store"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[tokio::test]
    async fn a_reconcile_that_hangs_is_given_up_and_tried_again() {
        let metrics = Metrics::new("operator");
        let action = pace(&metrics, Duration::from_millis(5))
            .run("a", None, std::future::pending::<Result<Next, NoAnswer>>())
            .await;
        assert_ne!(action, Action::await_change());
        assert!(metrics.encode().expect("text").contains(r#"result="Deadline"} 1"#));
    }
}
