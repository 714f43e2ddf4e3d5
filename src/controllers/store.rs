//! OutputStores: tried before any task depends on one, and again every few minutes.
//!
//! A store is also tried again, with growing delays up to a minute, while it is not Ready: a Secret that appears is
//! noticed that way, because watching Secrets would need more rights than reading one by name.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::OnceCell;

use super::context::{Context, reason};
use super::hold::{self, HoldError};
use super::pace::{Next, Pace, Reason};
use super::watches;
use asynctask_api::condition::{Claim, LIMITS_KEPT, READY, cut};
use asynctask_api::names::{FINALIZER_TASKS, MANAGER_OPERATOR};
use asynctask_api::store::{OutputStoreStatus, StoreLimits};
use asynctask_api::{AsyncTask, OutputStore};
use asynctask_runtime::client::explain;
use asynctask_runtime::stores::OpenStoreError;
use asynctask_storage::limits::{Limits, limits};
use asynctask_storage::probe::{ProbeError, probe};

/// Between two looks at a store that works.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// Longest delay between two tries of one that does not.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// Between two looks at what a store that is being deleted waits for.
const DELETE_AGAIN: Duration = Duration::from_secs(5);
/// Runs that are counted for the message.
const MOST_COUNTED: u32 = 100;
/// A probe that takes longer has failed.
const PROBE_DEADLINE: Duration = Duration::from_secs(30);
/// A reconcile that takes longer has failed: the probe, and time to say so.
const DEADLINE: Duration = Duration::from_secs(45);

/// Why nothing could be said about a store.
#[derive(Debug, thiserror::Error)]
enum StoreControllerError {
    #[error("namespace kube-system, whose UID names this cluster in a store, cannot be read: {}", explain(.0))]
    ClusterUid(#[source] kube::Error),
    #[error("namespace kube-system has no UID")]
    NoClusterUid,
    #[error("the runs with outputs in it cannot be listed: {}", explain(.0))]
    Runs(#[source] kube::Error),
    #[error(transparent)]
    Hold(#[from] HoldError),
    #[error("the status of OutputStore {name} cannot be written: {}", explain(.source))]
    Status { name: String, source: kube::Error },
}

impl Reason for StoreControllerError {
    fn reason(&self) -> &'static str {
        match self {
            Self::ClusterUid(_) | Self::NoClusterUid => "ClusterUid",
            Self::Runs(_) => "ListRuns",
            Self::Hold(_) => "WriteFinalizers",
            Self::Status { .. } => "WriteStatus",
        }
    }
}

/// Why a store is not Ready.
#[derive(Debug, thiserror::Error)]
enum NotReady {
    #[error(transparent)]
    Open(#[from] OpenStoreError),
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error("the store did not answer within {}s: check the endpoint and the network", PROBE_DEADLINE.as_secs())]
    Silent,
}

impl NotReady {
    fn reason(&self) -> &'static str {
        match self {
            Self::Open(error) => error.reason(),
            Self::Probe(error) => error.reason(),
            Self::Silent => "StoreUnreachable",
        }
    }
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    transfer: Option<&'static str>,
    /// Of a store that signs.
    limits: Option<Limits>,
    ready: Claim,
}

struct StoreController {
    context: Arc<Context>,
    pace: Pace,
    cluster_uid: OnceCell<String>,
}

/// Runs until the process ends.
pub(super) async fn run(context: Arc<Context>) {
    let pace = Pace::new("store", DEADLINE, MAX_DELAY, context.reconciles.clone());
    let state = Arc::new(StoreController { context: Arc::clone(&context), pace, cluster_uid: OnceCell::new() });
    watches::controller(Api::<DeserializeGuard<OutputStore>>::all(context.watches.clone()))
        .graceful_shutdown_on(context.stopping.clone().cancelled_owned())
        .run(reconcile, |_, never: &Infallible, _| match *never {}, state)
        .for_each(|_| std::future::ready(()))
        .await;
}

async fn reconcile(
    guarded: Arc<DeserializeGuard<OutputStore>>,
    state: Arc<StoreController>,
) -> Result<Action, Infallible> {
    let (uid, generation) = (guarded.uid().unwrap_or_default(), guarded.meta().generation);
    let store = match &guarded.0 {
        Ok(store) => store,
        Err(invalid) => {
            state.context.set_aside(&guarded.object_ref(&()), reason(guarded.meta(), &invalid.error)).await;
            return Ok(Action::await_change());
        }
    };
    Ok(state.pace.run(&uid, generation, state.look(store)).await)
}

impl StoreController {
    async fn look(&self, store: &OutputStore) -> Result<Next, StoreControllerError> {
        if store.meta().deletion_timestamp.is_some() {
            return self.end(store).await;
        }
        let cluster = self.cluster_uid.get_or_try_init(|| self.read_cluster_uid()).await?;
        let tried = tokio::time::timeout(PROBE_DEADLINE, self.try_store(store, cluster)).await;
        let outcome = tried.unwrap_or(Err(NotReady::Silent));
        if outcome.is_ok() {
            // Before the first run can be pinned to it.
            hold::hold(&self.stores(), store.meta(), FINALIZER_TASKS).await?;
        }
        let next = if outcome.is_ok() { Next::LookAgain(LOOK_AGAIN) } else { Next::TryAgain };
        self.report(store, &found(outcome, self.secret_of(store).as_deref())).await?;
        Ok(next)
    }

    /// Lets a deleted store go, or says what it waits for.
    async fn end(&self, store: &OutputStore) -> Result<Next, StoreControllerError> {
        if !hold::is_held(store.meta(), FINALIZER_TASKS) {
            return Ok(Next::Rest);
        }
        let here = format!("status.store.name={}", store.name_any());
        let params = ListParams::default().fields(&here).limit(MOST_COUNTED);
        let tasks = Api::<AsyncTask>::all(self.context.client.clone());
        let runs = tasks.list_metadata(&params).await.map_err(StoreControllerError::Runs)?.items;
        let Some(one) = runs.first() else {
            hold::release(&self.stores(), store.meta(), FINALIZER_TASKS).await?;
            return Ok(Next::Rest);
        };
        let at_least = if runs.len() as u64 == u64::from(MOST_COUNTED) { "at least " } else { "" };
        let why = format!(
            "it is being deleted and waits until no AsyncTask has outputs in it: {at_least}{}, one is {} in namespace {}. \
             Delete them; their outputs go with them",
            runs.len(),
            one.name_any(),
            one.namespace().unwrap_or_default(),
        );
        let ready = Claim::new(READY, Some(false), "Deleting", why);
        self.report(store, &Found { transfer: None, limits: None, ready }).await?;
        Ok(Next::LookAgain(DELETE_AGAIN))
    }

    fn stores(&self) -> Api<OutputStore> {
        Api::all(self.context.client.clone())
    }

    async fn try_store(&self, store: &OutputStore, cluster: &str) -> Result<Found, NotReady> {
        let open = self.context.stores.open(store).await?;
        probe(open.store.as_ref(), &open.layout, cluster).await?;
        let limits = match open.store.signer() {
            Some(signer) => Some(limits(open.store.as_ref(), signer, &open.layout, cluster, open.ca.as_deref()).await?),
            None => None,
        };
        Ok(works(&open.store.location(), limits, store.spec.filesystem.is_some()))
    }

    /// The Secret somebody mends when the store refuses us, with its place.
    fn secret_of(&self, store: &OutputStore) -> Option<String> {
        let (name, _) = store.spec.secret()?;
        Some(format!("Secret {name} in namespace {}", self.context.namespace))
    }

    async fn read_cluster_uid(&self) -> Result<String, StoreControllerError> {
        let namespaces = Api::<Namespace>::all(self.context.client.clone());
        let namespace = namespaces.get("kube-system").await.map_err(StoreControllerError::ClusterUid)?;
        namespace.uid().ok_or(StoreControllerError::NoClusterUid)
    }

    /// Writes the status if it says anything new, and an Event if Ready flipped.
    async fn report(&self, store: &OutputStore, found: &Found) -> Result<(), StoreControllerError> {
        let before = store.status.clone().unwrap_or_default();
        let status = status(found, &before, store.meta().generation, Timestamp::now());
        if status == before {
            return Ok(());
        }
        let name = store.name_any();
        let patch = json!({
            "apiVersion": OutputStore::api_version(&()), "kind": OutputStore::kind(&()), "status": status,
        });
        let params = PatchParams::apply(MANAGER_OPERATOR).force();
        let written = self.stores().patch_status(&name, &params, &Patch::Apply(&patch)).await;
        written.map_err(|source| StoreControllerError::Status { name, source })?;
        if flipped(&before, &status) {
            self.tell(store, &found.ready).await;
        }
        Ok(())
    }

    async fn tell(&self, store: &OutputStore, ready: &Claim) {
        let ok = ready.holds == Some(true);
        tracing::info!(uid = store.uid(), store = store.name_any(), ready = ok, reason = ready.reason, "store tried");
        let event = Event {
            type_: if ok { EventType::Normal } else { EventType::Warning },
            reason: ready.reason.clone(),
            note: Some(cut(&ready.message, 1024)),
            action: "Probe".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.context.events.publish(&event, &store.object_ref(&())).await {
            tracing::warn!(store = store.name_any(), error = explain(&error), "the Event cannot be written");
        }
    }
}

fn works(location: &str, limits: Option<Limits>, trial: bool) -> Found {
    let done = format!("{location}: written, read, listed and deleted");
    let (transfer, message) = match (limits.is_some(), trial) {
        (true, _) => ("Signed", format!("{done}; bytes go straight to and from it")),
        (false, false) => ("Proxied", format!("{done}; every byte passes through the gateway")),
        (false, true) => (
            "Proxied",
            format!(
                "{done}. For trial: one volume, no replication, and every byte passes through the gateway. Use an s3 \
                 store for real work"
            ),
        ),
    };
    Found { transfer: Some(transfer), limits, ready: Claim::new(READY, Some(true), "Probed", message) }
}

/// What went wrong, and for a refusal where the credentials come from.
fn mend(error: &NotReady, secret: Option<&str>) -> String {
    match secret {
        Some(secret) if error.reason() == "PermissionDenied" => format!("{error}; they come from {secret}"),
        _ => error.to_string(),
    }
}

fn found(outcome: Result<Found, NotReady>, secret: Option<&str>) -> Found {
    outcome.unwrap_or_else(|error| Found {
        transfer: None,
        limits: None,
        ready: Claim::new(READY, Some(false), error.reason(), mend(&error, secret)),
    })
}

/// `transfer` stays known while a store is away for a while.
fn status(found: &Found, before: &OutputStoreStatus, generation: Option<i64>, now: Timestamp) -> OutputStoreStatus {
    let limits = found.limits.map(|limits| {
        let Limits { length, checksum, once, attachment, parts, any_origin } = limits;
        StoreLimits { length, checksum, once, attachment, parts, any_origin }
    });
    let kept = found.limits.map(|limits| match limits.advice()[..] {
        [] => {
            Claim::new(LIMITS_KEPT, Some(true), "AllKept", "a signed request is good for what it was signed for alone")
        }
        ref advice => Claim::new(LIMITS_KEPT, Some(false), "SomeIgnored", advice.join("; ")),
    });
    let kept = match kept {
        Some(claim) => Some(claim.on(&before.conditions, generation, now)),
        // A store that is away has the limits it had.
        None if found.transfer.is_none() => before.conditions.iter().find(|c| c.type_ == LIMITS_KEPT).cloned(),
        None => None,
    };
    OutputStoreStatus {
        observed_generation: generation,
        transfer: found.transfer.map(str::to_owned).or_else(|| before.transfer.clone()),
        limits: limits.or(before.limits.filter(|_| found.transfer.is_none())),
        conditions: [found.ready.on(&before.conditions, generation, now)].into_iter().chain(kept).collect(),
    }
}

fn flipped(before: &OutputStoreStatus, after: &OutputStoreStatus) -> bool {
    let ready = |status: &OutputStoreStatus| {
        status.conditions.iter().find(|c| c.type_ == READY).map(|c| (c.status.clone(), c.reason.clone()))
    };
    ready(before) != ready(after)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::{Limits, NotReady, flipped, found, status, works};
    use asynctask_api::store::OutputStoreStatus;
    use asynctask_runtime::stores::OpenStoreError;

    const BEST: Limits =
        Limits { length: true, checksum: true, once: true, attachment: true, parts: true, any_origin: false };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn a_store_that_works_says_how_bytes_travel_and_warns_of_a_folder() {
        let signed = status(&works("s3://b", Some(BEST), false), &OutputStoreStatus::default(), Some(3), at(1));
        assert_eq!(signed.transfer.as_deref(), Some("Signed"));
        assert_eq!((signed.conditions[0].status.as_str(), signed.observed_generation), ("True", Some(3)));
        let proxied = status(&works("folder /x", None, true), &OutputStoreStatus::default(), Some(3), at(1));
        assert_eq!(proxied.transfer.as_deref(), Some("Proxied"));
        assert!(proxied.conditions[0].message.contains("For trial"), "{}", proxied.conditions[0].message);
        let cloud = works("container c", None, false).ready.message;
        assert!(cloud.contains("through the gateway") && !cloud.contains("trial"), "{cloud}");
    }

    #[test]
    fn a_store_that_keeps_less_than_was_signed_is_ready_and_there_is_advice() {
        let loose = Limits { checksum: false, any_origin: true, ..BEST };
        let said = status(&works("s3://b", Some(loose), false), &OutputStoreStatus::default(), Some(1), at(1));
        let [ready, kept] = &said.conditions[..] else { panic!("{:?}", said.conditions) };
        assert_eq!((ready.status.as_str(), kept.type_.as_str(), kept.status.as_str()), ("True", "LimitsKept", "False"));
        assert!(kept.message.contains("x-amz-checksum-sha256") && kept.message.contains("CORS"), "{}", kept.message);
        let best = status(&works("s3://b", Some(BEST), false), &said, Some(1), at(2));
        assert_eq!((best.conditions[1].status.as_str(), best.conditions[1].reason.as_str()), ("True", "AllKept"));
    }

    #[test]
    fn the_same_finding_changes_nothing_and_a_new_one_flips_ready() {
        let first = status(&works("s3://b", Some(BEST), false), &OutputStoreStatus::default(), Some(1), at(1));
        assert!(flipped(&OutputStoreStatus::default(), &first));
        assert_eq!(status(&works("s3://b", Some(BEST), false), &first, Some(1), at(9)), first, "no write without news");

        let missing =
            || OpenStoreError::SecretMissing { secret: "keys".to_owned(), namespace: "system".to_owned(), keys: "k" };
        let gone = status(&found(Err(NotReady::Open(missing())), None), &first, Some(1), at(9));
        assert!(flipped(&first, &gone));
        assert_eq!(gone.transfer.as_deref(), Some("Signed"), "how bytes travel is not forgotten");
        assert_eq!((gone.limits, gone.conditions.len()), (first.limits, 2), "nor what it keeps");
        let ready = &gone.conditions[0];
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "CredentialsMissing"));
        assert!(ready.message.contains("keys") && ready.message.contains("system"), "{}", ready.message);
        assert_eq!(ready.last_transition_time.0, at(9));
    }
}
