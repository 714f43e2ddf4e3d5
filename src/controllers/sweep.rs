//! What is left in a store and nobody deletes otherwise: uploads that no run uses, parts of uploads that were broken off,
//! what was still on its way when a run was deleted, and history records whose time is up.
//!
//! Nothing is guessed from absence: a run's keys are swept only where a marker says that they were deleted before, and
//! only in a store that says it is this cluster's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::civil::Date;
use k8s_openapi::jiff::tz::TimeZone;
use kube::api::{DeleteParams, ListParams};
use kube::core::DeserializeGuard;
use kube::{Api, ResourceExt};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::time::{MissedTickBehavior, interval};

use super::context::Context;
use super::task::{Emptied, require_owner};
use super::watches::PAGE;
use asynctask_api::condition::{READY, is_true};
use asynctask_api::{AsyncTask, OutputStore};
use asynctask_plan::keep::needs_uploads;
use asynctask_plan::queue::upload_lease;
use asynctask_runtime::client::{explain, is_status};
use asynctask_runtime::stores::{OpenStore, OpenStoreError};
use asynctask_storage::layout::{InvalidPart, Prefix, RECORD, UPLOAD_RECORD};
use asynctask_storage::records::{GoneRecord, HistoryDue, RECORD_MAX, RecordError, UploadRecord, decode};
use asynctask_storage::{StoreError, delete_prefix};

/// Longest time between two sweeps.
const SWEEP_AGAIN: Duration = Duration::from_secs(3600);
/// Keys looked at in one page.
const PAGE_OF_KEYS: usize = 1000;

/// Why a store was not swept to its end. What was deleted before stays deleted.
#[derive(Debug, thiserror::Error)]
pub(super) enum SweepError {
    #[error(transparent)]
    Open(#[from] OpenStoreError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "{count} records cannot be read and were passed over, the first is {key}: {source}. Bring them back, or delete them"
    )]
    Records { count: u64, key: String, source: RecordError },
    #[error(
        "uploads that were broken off cannot be looked for: {0}. The rest was swept; allow the store to list multipart \
         uploads, or give the bucket a lifecycle rule that aborts them"
    )]
    Parts(#[source] StoreError),
    #[error(transparent)]
    Key(#[from] InvalidPart),
    #[error(transparent)]
    Owner(#[from] Emptied),
    #[error("the runs of namespace {namespace} cannot be listed: {}", explain(.source))]
    Runs { namespace: String, source: kube::Error },
    #[error("Lease {name} in namespace {namespace} cannot be deleted: {}", explain(.source))]
    Lease { namespace: String, name: String, source: kube::Error },
}

/// Objects deleted, by what they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Swept {
    /// Uploads that no run uses.
    pub(super) uploads: u64,
    /// What came after its run was deleted.
    pub(super) late: u64,
    /// History records whose time is up.
    pub(super) history: u64,
}

/// What the runs of a namespace still need.
#[derive(Clone, Debug, Default)]
pub(super) struct Needed {
    /// UIDs of the runs.
    pub(super) runs: BTreeSet<String>,
    /// Ids of the uploads that are their inputs, as far as they or a retry may still read them; `None`: unknown, because
    /// a run cannot be read.
    pub(super) uploads: Option<BTreeSet<String>>,
}

/// Who knows the runs of this cluster.
#[async_trait]
pub(super) trait Runs: Sync {
    /// What those of a namespace still need.
    async fn needed(&self, namespace: &str) -> Result<Needed, SweepError>;

    /// An upload is gone, and with it who it served.
    async fn forget(&self, namespace: &str, upload: &str) -> Result<(), SweepError>;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct What {
    what: &'static str,
}

/// Runs until the process ends. `after` is how old something must be.
pub(super) async fn run(context: Arc<Context>, after: Duration) {
    let swept = Family::<What, Counter>::default();
    context.metrics.register("swept", "Things deleted from stores that nobody deletes otherwise", swept.clone());
    let mut again = interval((after / 4).clamp(Duration::from_secs(1), SWEEP_AGAIN));
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = context.stopping.cancelled() => return,
            _ = again.tick() => {}
        }
        let stores = match Api::<OutputStore>::all(context.client.clone()).list(&ListParams::default()).await {
            Ok(stores) => stores.items,
            Err(error) => {
                tracing::warn!(error = explain(&error), "OutputStores cannot be listed: nothing is swept now");
                continue;
            }
        };
        for store in stores.iter().filter(|store| is_ready(store)) {
            tokio::select! {
                () = context.stopping.cancelled() => return,
                () = look(&context, store, after, &swept) => {}
            }
        }
    }
}

fn is_ready(store: &OutputStore) -> bool {
    store.status.as_ref().is_some_and(|status| is_true(&status.conditions, READY))
}

async fn look(context: &Context, store: &OutputStore, after: Duration, counted: &Family<What, Counter>) {
    let name = store.name_any();
    let (mut swept, mut parts) = (Swept::default(), 0);
    let work = async {
        let open = context.stores.open(store).await?;
        require_owner(&open).await?;
        let now = Timestamp::now();
        let before = now.checked_sub(after).unwrap_or(Timestamp::MIN);
        let done = sweep(&open, context, before, now, &mut swept).await;
        // Last: not every service knows this call, and it is a right of its own.
        parts = open.store.abandon(open.layout.root(), before).await.map_err(SweepError::Parts)?;
        done
    };
    let outcome = work.await;
    let Swept { uploads, late, history } = swept;
    for (what, count) in [("upload", uploads), ("late", late), ("history", history), ("parts", parts)] {
        counted.get_or_create(&What { what }).inc_by(count);
    }
    if uploads + late + history + parts > 0 {
        tracing::info!(store = name, uploads, late, history, parts, "swept what was left over");
    }
    if let Err(error) = outcome {
        let error = error.to_string();
        tracing::warn!(store = name, error, "the store was not swept as a whole: it is tried again");
    }
}

#[async_trait]
impl Runs for Context {
    async fn needed(&self, namespace: &str) -> Result<Needed, SweepError> {
        let api = Api::<DeserializeGuard<AsyncTask>>::namespaced(self.client.clone(), namespace);
        let (mut needed, now) = (Needed { uploads: Some(BTreeSet::new()), ..Needed::default() }, Timestamp::now());
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = api.list(&params).await;
            let page = page.map_err(|source| SweepError::Runs { namespace: namespace.to_owned(), source })?;
            for guarded in page.items {
                needed.runs.extend(guarded.uid());
                match guarded.0 {
                    Ok(task) if needs_uploads(&task, now) => {
                        let uploads = task.spec.inputs.into_values().filter_map(|input| input.upload);
                        if let Some(known) = &mut needed.uploads {
                            known.extend(uploads);
                        }
                    }
                    Ok(_) => {}
                    Err(_) => needed.uploads = None,
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(needed),
            }
        }
    }

    async fn forget(&self, namespace: &str, upload: &str) -> Result<(), SweepError> {
        let name = upload_lease(upload);
        match Api::<Lease>::namespaced(self.client.clone(), namespace).delete(&name, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(error) if is_status(&error, 404) => Ok(()),
            Err(source) => Err(SweepError::Lease { namespace: namespace.to_owned(), name, source }),
        }
    }
}

/// Sweeps one store of what is older than `before`, and of history records that are due `now`. `runs` is asked once for
/// each namespace in which something may go. One record, or one namespace, that is in the way holds up no other.
///
/// # Errors
/// The store fails, or the first thing that was in the way; another sweep tries it again.
pub(super) async fn sweep(
    open: &OpenStore,
    runs: &dyn Runs,
    before: Timestamp,
    now: Timestamp,
    swept: &mut Swept,
) -> Result<(), SweepError> {
    let (mut unread, mut trouble) = (None, None);
    for namespace in open.store.folders(open.layout.root()).await? {
        // Names that are no namespace are none of ours: `_probe`, or somebody else's.
        let (Ok(uploads), Ok(gone)) = (open.layout.uploads_in(&namespace), open.layout.gone_in(&namespace)) else {
            continue;
        };
        let old_uploads =
            old(open, &uploads, UPLOAD_RECORD, &mut unread, |record: &UploadRecord| record.created_at < before).await?;
        let old_gone = old(open, &gone, RECORD, &mut unread, |record: &GoneRecord| record.deleted_at < before).await?;
        let due = due(open, &namespace, now, &mut unread).await?;
        if old_uploads.is_empty() && old_gone.is_empty() && due.is_empty() {
            continue;
        }
        let needed = match runs.needed(&namespace).await {
            Ok(needed) => needed,
            Err(error) => {
                trouble.get_or_insert(error);
                continue;
            }
        };
        let unused = |id: &String| needed.uploads.as_ref().is_some_and(|needed| !needed.contains(id));
        for (_, record) in old_uploads.into_iter().filter(|(_, record)| unused(&record.id)) {
            // The bytes first: without its record nobody would know how old they are.
            let keys = open.layout.upload(&namespace, &record.id)?;
            open.store.delete(&[keys.data()]).await?;
            open.store.delete(&[keys.record()]).await?;
            runs.forget(&namespace, &record.id).await?;
            swept.uploads += 1;
        }
        // A run that is there again, from a backup, keeps what it still has.
        for (marker, record) in old_gone.into_iter().filter(|(_, record)| !needed.runs.contains(&record.task_uid)) {
            let keys = open.layout.task(&namespace, &record.task_uid)?;
            swept.late += delete_prefix(open.store.as_ref(), keys.prefix()).await?;
            open.store.delete(&[marker]).await?;
        }
        // A run that lives on may write its record again.
        for (marker, record) in due.into_iter().filter(|(_, record)| !needed.runs.contains(&record.task_uid)) {
            let key = open.layout.history(&namespace, record.created_at, &record.name, &record.task_uid)?;
            open.store.delete(&[key]).await?;
            open.store.delete(&[marker]).await?;
            swept.history += 1;
        }
    }
    let unread = unread.map(|Unread { count, key, source }| SweepError::Records { count, key, source });
    trouble.or(unread).map_or(Ok(()), Err)
}

/// Records that cannot be read: how many, and the first.
struct Unread {
    count: u64,
    key: String,
    source: RecordError,
}

/// What says that a history record's time is up. Days to come are not looked into.
async fn due(
    open: &OpenStore,
    namespace: &str,
    now: Timestamp,
    unread: &mut Option<Unread>,
) -> Result<Vec<(String, HistoryDue)>, SweepError> {
    let (today, mut found) = (now.to_zoned(TimeZone::UTC).date(), Vec::new());
    for day in open.store.folders(&open.layout.due_in(namespace)?).await? {
        let Some(day) = day.parse::<Date>().ok().filter(|day| *day <= today) else { continue };
        let prefix = open.layout.due_on(namespace, day)?;
        found.extend(old(open, &prefix, RECORD, unread, |record: &HistoryDue| record.delete_at <= now).await?);
    }
    Ok(found)
}

/// The records below a prefix that are old enough, with their keys. Those that cannot be read are passed over.
async fn old<R: serde::de::DeserializeOwned>(
    open: &OpenStore,
    prefix: &Prefix,
    suffix: &str,
    unread: &mut Option<Unread>,
    is_old: impl Fn(&R) -> bool,
) -> Result<Vec<(String, R)>, SweepError> {
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = open.store.list(prefix, after.as_deref(), PAGE_OF_KEYS).await?;
        for key in page.objects.iter().map(|meta| &meta.key).filter(|key| key.ends_with(suffix)) {
            let bytes = match open.store.get_bytes(key, RECORD_MAX).await {
                Ok(bytes) => bytes,
                Err(StoreError::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            match decode::<R>(&bytes) {
                Ok(record) if is_old(&record) => found.push((key.clone(), record)),
                Ok(_) => {}
                Err(source) => {
                    let first = Unread { count: 0, key: key.clone(), source };
                    unread.get_or_insert(first).count += 1;
                }
            }
        }
        if !page.more {
            return Ok(found);
        }
        after = page.objects.into_iter().next_back().map(|meta| meta.key);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use async_trait::async_trait;
    use bytes::Bytes;
    use k8s_openapi::jiff::Timestamp;

    use super::{Needed, Runs, SweepError, Swept, sweep};
    use asynctask_runtime::stores::OpenStore;
    use asynctask_storage::digest::Digest;
    use asynctask_storage::memory::MemoryStore;
    use asynctask_storage::records::{GoneRecord, HistoryDue, UploadRecord, encode};
    use asynctask_storage::{Layout, PutMode};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn hour(hours: i64) -> Timestamp {
        Timestamp::from_second(hours * 3600).expect("in range")
    }

    struct World {
        open: OpenStore,
        needed: Needed,
        forgotten: Mutex<Vec<String>>,
    }

    #[async_trait]
    impl Runs for World {
        async fn needed(&self, _: &str) -> Result<Needed, SweepError> {
            Ok(self.needed.clone())
        }

        async fn forget(&self, _: &str, upload: &str) -> Result<(), SweepError> {
            self.forgotten.lock().expect("no panic").push(upload.to_owned());
            Ok(())
        }
    }

    impl World {
        fn new() -> Self {
            let layout = Layout::new("p").expect("valid");
            let store = Arc::new(MemoryStore::new());
            let open = OpenStore { store, layout, ttl: Duration::from_secs(60), ca: None };
            let needed = Needed { uploads: Some(BTreeSet::new()), ..Needed::default() };
            Self { open, needed, forgotten: Mutex::default() }
        }

        async fn put(&self, key: &str, bytes: Bytes) {
            self.open.store.put(key, bytes, PutMode::Overwrite).await.expect("put");
        }

        async fn upload(&self, namespace: &str, id: &str, created_at: Timestamp) {
            let keys = self.open.layout.upload(namespace, id).expect("valid");
            let record = UploadRecord {
                id: id.to_owned(),
                uploader: "alice".to_owned(),
                namespace: namespace.to_owned(),
                definition: "d".to_owned(),
                input: "archive".to_owned(),
                size: 1,
                sha256: Digest::of(b"x"),
                media_type: None,
                multipart: None,
                created_at,
                complete: true,
            };
            self.put(&keys.record(), encode(&record)).await;
            self.put(&keys.data(), Bytes::from_static(b"x")).await;
        }

        async fn gone(&self, namespace: &str, uid: &str, deleted_at: Timestamp) {
            let key = self.open.layout.gone(namespace, uid).expect("valid");
            self.put(&key, encode(&GoneRecord { task_uid: uid.to_owned(), deleted_at })).await;
        }

        async fn object(&self, key: &str) {
            self.put(key, Bytes::from_static(b"x")).await;
        }

        async fn swept(&self, at: Timestamp) -> Swept {
            let (swept, outcome) = self.swept_as_far(at).await;
            outcome.expect("swept");
            swept
        }

        async fn swept_as_far(&self, at: Timestamp) -> (Swept, Result<(), SweepError>) {
            let mut swept = Swept::default();
            let outcome = sweep(&self.open, self, at.checked_sub(DAY).expect("in range"), at, &mut swept).await;
            (swept, outcome)
        }

        async fn keys(&self) -> Vec<String> {
            let page = self.open.store.list(self.open.layout.root(), None, 1000).await.expect("listed");
            page.objects.into_iter().map(|meta| meta.key).collect()
        }
    }

    #[tokio::test]
    async fn an_upload_goes_when_it_is_old_and_no_run_uses_it() {
        let mut world = World::new();
        for (namespace, id, created) in [("a", "old", 0), ("a", "used", 0), ("a", "young", 20), ("ab", "other", 30)] {
            world.upload(namespace, id, hour(created)).await;
        }
        world.needed.uploads = Some(BTreeSet::from(["used".to_owned()]));
        assert_eq!(world.swept(hour(23)).await, Swept::default(), "none is a day old");
        assert_eq!(world.swept(hour(25)).await, Swept { uploads: 1, ..Swept::default() });
        let keys = world.keys().await;
        assert_eq!(keys.len(), 6, "{keys:?}");
        assert!(!keys.iter().any(|key| key.contains("/old/")), "bytes and record: {keys:?}");
        assert_eq!(*world.forgotten.lock().expect("no panic"), ["old"]);
        world.needed.uploads = Some(BTreeSet::new());
        assert_eq!(world.swept(hour(60)).await, Swept { uploads: 3, ..Swept::default() });
        assert!(world.keys().await.is_empty());
    }

    #[tokio::test]
    async fn only_what_was_deleted_before_is_swept_and_never_a_neighbour() {
        let mut world = World::new();
        for key in [
            "p/a/u-1/s/000000/pod/log",
            "p/a/u-10/s/000000/pod/log",
            "p/ab/u-1/s/000000/pod/log",
            "p/a/u-2/x",
            "p/_owner",
        ] {
            world.object(key).await;
        }
        world.gone("a", "u-1", hour(0)).await;
        world.gone("a", "u-2", hour(10)).await;
        assert_eq!(world.swept(hour(25)).await, Swept { late: 1, ..Swept::default() });
        let left =
            ["p/_owner", "p/a/_gone/u-2.json", "p/a/u-10/s/000000/pod/log", "p/a/u-2/x", "p/ab/u-1/s/000000/pod/log"];
        assert_eq!(world.keys().await, left, "keys of runs without a marker stay, whether the run is there or not");

        // The run is there again: etcd was restored from a backup.
        world.needed.runs = BTreeSet::from(["u-2".to_owned()]);
        assert_eq!(world.swept(hour(100)).await, Swept::default());
        assert_eq!(world.keys().await, left);
        world.needed.runs.clear();
        assert_eq!(world.swept(hour(100)).await, Swept { late: 1, ..Swept::default() });
        assert_eq!(world.swept(hour(200)).await, Swept::default(), "a second sweep finds nothing");
    }

    #[tokio::test]
    async fn a_history_record_goes_when_its_time_is_up_and_its_run_is_gone() {
        let mut world = World::new();
        let layout = world.open.layout.clone();
        let record_of = |uid: &str| layout.history("a", hour(1), "run", uid).expect("a key");
        for (uid, due) in [("u-1", 30), ("u-2", 30), ("u-3", 60)] {
            let record = HistoryDue {
                name: "run".to_owned(),
                task_uid: uid.to_owned(),
                created_at: hour(1),
                delete_at: hour(due),
            };
            world.put(&world.open.layout.due("a", hour(due), uid).expect("valid"), encode(&record)).await;
            world.object(&record_of(uid)).await;
        }
        world.object(&record_of("u-4")).await;
        world.needed.runs = BTreeSet::from(["u-2".to_owned()]);
        assert_eq!(world.swept(hour(29)).await, Swept::default(), "on the day, but before the hour");
        assert_eq!(world.swept(hour(31)).await, Swept { history: 1, ..Swept::default() });
        let keys = world.keys().await;
        assert!(!keys.iter().any(|key| key.contains("u-1")), "record and date are gone: {keys:?}");
        assert_eq!(keys.len(), 5, "kept: of a run that is there, of one whose time is not up, of one that has none");
        world.needed.runs.clear();
        assert_eq!(world.swept(hour(100)).await, Swept { history: 2, ..Swept::default() });
        assert_eq!(world.keys().await, [record_of("u-4")]);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_passed_over_counted_and_named() {
        let mut world = World::new();
        world.put("p/a/_uploads/u/record", Bytes::from_static(b"not ours")).await;
        world.put("p/a/_gone/u.json", Bytes::from_static(br#"{"version": 99}"#)).await;
        world.upload("a", "old", hour(0)).await;
        world.upload("b", "old", hour(0)).await;
        world.needed.uploads = None;
        let (swept, _) = world.swept_as_far(hour(100)).await;
        assert_eq!(swept, Swept::default(), "an unreadable run may need any upload");
        world.needed.uploads = Some(BTreeSet::new());
        let (swept, outcome) = world.swept_as_far(hour(100)).await;
        assert_eq!(swept, Swept { uploads: 2, ..Swept::default() }, "beside it, and in other namespaces");
        let error = outcome.expect_err("two were not read").to_string();
        assert!(error.contains("2 records") && error.contains("p/a/_uploads/u/record"), "{error}");
        assert_eq!(world.keys().await.len(), 2, "and they are left");
    }
}
