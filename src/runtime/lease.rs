//! The leader lease. It only saves work: every write is a compare-and-swap under a derived name, so two operators at
//! once do no harm. Losing it ends the process, which is simpler to reason about than a loop that sleeps.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use kube_lease_manager::{LeaseCreateMode, LeaseManager, LeaseManagerError, LeaseParams};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::client::explain;
use super::health::Readiness;

/// Seconds without a renewal after which another may take over.
const DURATION: u64 = 15;
/// Seconds before that in which it is renewed.
const GRACE: u64 = 5;
/// Between two tries to reach the API server.
const RETRY: Duration = Duration::from_secs(1);
/// Name of the need in readiness.
const NEED: &str = "lease";

/// The lease cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else holds it now.
    #[error("lease {0} went to another operator: this one ends, its successor carries on")]
    Lost(String),
    /// It could not be renewed in time, so somebody else may hold it.
    #[error("lease {name} could not be renewed for {GRACE}s: {}", words(.source))]
    NotRenewed {
        /// The lease.
        name: String,
        /// What the last try said.
        source: LeaseManagerError,
    },
    /// It could not be given back.
    #[error("lease {name} could not be released, the next operator waits until it runs out: {}", words(.source))]
    Release {
        /// The lease.
        name: String,
        /// What the client said.
        source: LeaseManagerError,
    },
}

/// A lease that this process holds.
#[derive(Debug)]
pub struct Held {
    name: String,
    manager: LeaseManager,
}

/// Where the lease is and who asks for it.
#[derive(Clone, Debug)]
pub struct LeaseSpec {
    /// Name of the Lease.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Who we are: the name of the pod.
    pub identity: String,
}

/// Waits until this process holds the lease. A process that stands by for a living holder counts as ready: it can
/// take over at any time, and a rolling update does not wait for ever.
pub async fn acquire(client: Client, spec: &LeaseSpec, readiness: &Readiness) -> Held {
    readiness.missing(NEED, format!("{} has not been read yet", spec.name));
    let manager = loop {
        match open(client.clone(), spec).await {
            Ok(manager) => break manager,
            Err(error) => report(readiness, spec, &error),
        }
        sleep(RETRY).await;
    };
    let leases = Api::<Lease>::namespaced(client, &spec.namespace);
    loop {
        if let Ok(Some(holder)) = leases.get(&spec.name).await.map(|l| l.spec.and_then(|s| s.holder_identity)) {
            tracing::info!(lease = spec.name, holder, "standing by");
            readiness.met(NEED, format!("standing by, {} is held by {holder}", spec.name));
        }
        match manager.changed().await {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => report(readiness, spec, &error),
        }
        sleep(RETRY).await;
    }
    tracing::info!(lease = spec.name, identity = spec.identity, "leading");
    readiness.met(NEED, format!("{} is held by this process", spec.name));
    Held { name: spec.name.clone(), manager }
}

fn report(readiness: &Readiness, spec: &LeaseSpec, error: &LeaseManagerError) {
    let error = words(error);
    tracing::warn!(lease = spec.name, error, "the lease cannot be had yet");
    readiness.missing(NEED, format!("{} cannot be had: {error}", spec.name));
}

async fn open(client: Client, spec: &LeaseSpec) -> Result<LeaseManager, LeaseManagerError> {
    let params = LeaseParams::new(&spec.identity, DURATION, GRACE).with_field_manager(&spec.identity);
    LeaseManager::new(client, &spec.name, &spec.namespace, params, LeaseCreateMode::AutoCreate).await
}

impl Held {
    /// Keeps the lease until `stop`, then gives it back, so that the next operator need not wait until it runs out.
    ///
    /// # Errors
    /// The lease was lost, or could not be renewed in time or given back.
    pub async fn keep(self, stop: CancellationToken) -> Result<(), LeaseError> {
        let lost = tokio::select! {
            () = stop.cancelled() => None,
            error = self.renew() => Some(error),
        };
        if let Some(error) = lost {
            return Err(error);
        }
        let release = timeout(Duration::from_secs(GRACE), self.manager.release()).await;
        match release {
            Ok(Err(source)) => Err(LeaseError::Release { name: self.name, source }),
            // Not given back in time it runs out by itself.
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// Returns only when the lease is lost. A renewal starts [`GRACE`] before the lease runs out, so from the first
    /// failed try there is that long to succeed.
    async fn renew(&self) -> LeaseError {
        let mut failing_since: Option<Instant> = None;
        loop {
            let began = Instant::now();
            match self.manager.changed().await {
                Ok(false) => return LeaseError::Lost(self.name.clone()),
                Ok(true) => failing_since = None,
                Err(source) => {
                    if began.elapsed() >= Duration::from_secs(DURATION - GRACE) {
                        // It slept before it failed, as it does only after a renewal that succeeded.
                        failing_since = None;
                    }
                    let since = *failing_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= Duration::from_secs(GRACE) {
                        return LeaseError::NotRenewed { name: self.name.clone(), source };
                    }
                    tracing::warn!(
                        lease = self.name,
                        error = words(&source),
                        "the lease was not renewed, trying again"
                    );
                }
            }
            sleep(RETRY).await;
        }
    }
}

fn words(error: &LeaseManagerError) -> String {
    match error {
        LeaseManagerError::KubeError(error) => explain(error),
        other => other.to_string(),
    }
}
