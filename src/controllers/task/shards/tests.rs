//! Shards against a store in memory.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::json;

use super::reading::{Place, READS};
use super::{Source, due, keys, seal, tally};
use crate::task::results::Reader;
use asynctask_api::task::StepStatus;
use asynctask_contract::wire::{CommittedFile, FailedBy, FailureReport, ItemCounts};
use asynctask_plan::snapshot::{JobEnd, JobFact, Trouble};
use asynctask_plan::status::ShardSeal;
use asynctask_plan::tally::Tally;
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::layout::Prefix;
use asynctask_storage::layout::StepKeys;
use asynctask_storage::memory::MemoryStore;
use asynctask_storage::records::{
    self, CommitRecord, FailureRecord, Manifest, ManifestPage, SealedShard, VERSION, encode,
};
use asynctask_storage::{Digest, Expected, Incoming, Layout, Meta, Object, ObjectStore, Page, PutMode, StoreError};

const RUN: &str = "run-2";
const BEFORE: &str = "run-1";
const STEP: &str = "send";

/// A store that counts, and can refuse.
#[derive(Debug, Default)]
struct Counted {
    inner: MemoryStore,
    gets: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    puts_left: std::sync::Mutex<Option<usize>>,
    backwards: bool,
}

impl Counted {
    /// A put beyond the number allowed is refused.
    fn allow_puts(&self, number: Option<usize>) {
        *self.puts_left.lock().expect("no panic") = number;
    }
}

#[async_trait]
impl ObjectStore for Counted {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<(), StoreError> {
        if let Some(left) = self.puts_left.lock().expect("no panic").as_mut() {
            if *left == 0 {
                let (endpoint, action, code) = ("memory".into(), "write".into(), "503".into());
                return Err(StoreError::Unavailable { endpoint, action, code });
            }
            *left -= 1;
        }
        self.inner.put(key, bytes, mode).await
    }

    async fn put_stream(
        &self,
        key: &str,
        bytes: Incoming<'_>,
        expected: Expected,
        mode: PutMode,
    ) -> Result<(), StoreError> {
        self.inner.put_stream(key, bytes, expected, mode).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, StoreError> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        // A store takes its time: others can be asked meanwhile.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        self.inner.get(key, range).await
    }

    async fn head(&self, key: &str) -> Result<Meta, StoreError> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &Prefix, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let mut page = self.inner.list(prefix, after, limit).await?;
        if self.backwards {
            page.objects.reverse();
        }
        Ok(page)
    }

    async fn folders(&self, prefix: &Prefix) -> Result<Vec<String>, StoreError> {
        self.inner.folders(prefix).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        self.inner.delete(keys).await
    }
}

struct World {
    store: Arc<Counted>,
    open: OpenStore,
}

async fn world() -> World {
    world_of(Counted::default()).await
}

async fn world_of(store: Counted) -> World {
    let store = Arc::new(store);
    let layout = Layout::new("p").expect("a prefix");
    store.inner.put(&layout.owner(), Bytes::from_static(b"{}"), PutMode::Create).await.expect("the mark");
    let open = OpenStore { store: Arc::<Counted>::clone(&store), layout, ttl: Duration::from_secs(60), ca: None };
    World { store, open }
}

fn file(output: &str, seq: u32, size: u64) -> CommittedFile {
    let (path, sha256) = (format!("{output}-{seq}.csv"), Digest::of(b"x").to_string());
    CommittedFile { output: output.into(), seq, path, size, sha256, media_type: None }
}

fn committed(run: &str, shard: u32, pod_uid: &str) -> CommitRecord {
    let items = ItemCounts { attempted: 10, failed: 1, skipped: 0, reasons: BTreeMap::new() };
    CommitRecord {
        version: VERSION,
        task_uid: run.into(),
        step: STEP.into(),
        attempt: 1,
        pod_uid: pod_uid.into(),
        shard,
        files: vec![file("rows", 0, u64::from(shard) + 1), file("log", 0, 5)],
        emitted: None,
        items: Some(items),
        warning: None,
        image: None,
        committed_at: Timestamp::UNIX_EPOCH,
    }
}

fn refused(shard: u32, pod_uid: &str, code: &str, second: i64) -> FailureRecord {
    let report = FailureReport {
        code: code.into(),
        message: format!("{code} happened"),
        link: None,
        exit_code: 65,
        failed_by: Some(FailedBy::Program),
        stopped_by: None,
        stage: None,
        log_tail: String::new(),
        log: Some(file("log", 0, 7)),
    };
    FailureRecord {
        version: VERSION,
        task_uid: RUN.into(),
        step: STEP.into(),
        attempt: 1,
        shard,
        pod_uid: pod_uid.into(),
        report,
        failed_at: Timestamp::from_second(second).expect("a time"),
    }
}

impl World {
    fn keys(&self, run: &str) -> StepKeys {
        keys(&self.open, "studio", run, STEP).expect("keys")
    }

    async fn put(&self, key: &str, bytes: Bytes) {
        self.store.inner.put(key, bytes, PutMode::Overwrite).await.expect("stored");
    }

    async fn commit(&self, shard: u32, pod_uid: &str) {
        self.commit_as(&committed(RUN, shard, pod_uid), shard, pod_uid).await;
    }

    async fn commit_as(&self, record: &CommitRecord, shard: u32, pod_uid: &str) {
        let key = self.keys(RUN).attempt(shard, pod_uid).expect("keys").commit();
        self.put(&key, encode(record)).await;
    }

    async fn fail(&self, shard: u32, pod_uid: &str, code: &str, second: i64) {
        let key = self.keys(RUN).attempt(shard, pod_uid).expect("keys").failure();
        self.put(&key, encode(&refused(shard, pod_uid, code, second))).await;
    }

    fn place<'a>(&'a self, run: &'a str) -> Place<'a> {
        let reader = Reader { open: &self.open, uid: run, step: STEP };
        Place { reader, namespace: "studio".into(), keys: self.keys(run) }
    }

    async fn tally(&self, total: u32) -> Result<Tally, Trouble> {
        tally(&self.place(RUN), None, total).await
    }

    async fn seal(&self, total: u32) -> ShardSeal {
        seal(&self.place(RUN), None, total).await.expect("sealed")
    }

    async fn manifest(&self, sealed: &ShardSeal) -> Manifest {
        let digest = sealed.manifest.parse().expect("a digest");
        let bytes = self.store.get_bytes(&self.keys(RUN).manifest(digest), records::RECORD_MAX).await;
        Manifest::open(&bytes.expect("it is there"), digest).expect("a manifest")
    }

    async fn pages(&self, sealed: &ShardSeal) -> Vec<ManifestPage> {
        let mut pages = Vec::new();
        for page in self.manifest(sealed).await.pages {
            let bytes = self.store.get_bytes(&self.keys(RUN).manifest(page.sha256), records::RECORD_MAX).await;
            let read = ManifestPage::open(&bytes.expect("it is there"), page.sha256).expect("a page");
            assert_eq!((read.shards[0].shard, read.shards.len()), (page.first, page.shards as usize));
            pages.push(read);
        }
        pages
    }

    async fn shards(&self, sealed: &ShardSeal) -> Vec<SealedShard> {
        self.pages(sealed).await.into_iter().flat_map(|page| page.shards).collect()
    }
}

#[tokio::test]
async fn each_shard_counts_once_and_what_left_no_word_is_lost() {
    let world = world().await;
    world.commit(0, "a").await;
    world.fail(1, "a", "InvalidEmail", 1).await;
    world.fail(3, "a", "Broken", 1).await;
    world.commit(3, "b").await;
    world.commit(9, "a").await;
    let tally = world.tally(5).await.expect("a sum");
    assert_eq!((tally.committed, tally.failed.to_string(), tally.lost().to_string()), (2, "1".into(), "2,4".into()));
    assert_eq!(tally.items().map(|items| (items.attempted, items.succeeded)), Some((20, 18)));
    let sealed = world.shards(&world.seal(5).await).await;
    assert_eq!(sealed.iter().map(|shard| shard.shard).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!((sealed[3].pod_uid.as_str(), &sealed[3].failure), ("b", &None));
    assert_eq!((sealed[2].pod_uid.as_str(), sealed[2].attempt, sealed[2].files.len()), ("", 0, 0));
}

#[tokio::test]
async fn of_several_commits_of_a_shard_the_smallest_pod_uid_wins_if_it_is_one_of_ours() {
    let world = world().await;
    world.commit(0, "c").await;
    world.commit(0, "b").await;
    let foreign = CommitRecord { task_uid: "other".into(), ..committed(RUN, 0, "a") };
    world.commit_as(&foreign, 0, "a").await;
    world.commit_as(&committed(RUN, 7, "a0"), 0, "a0").await;
    world.put(&world.keys(RUN).attempt(0, "a1").expect("keys").commit(), Bytes::from_static(b"{")).await;
    let mut broken = committed(RUN, 0, "a2");
    broken.files[0].sha256 = "none".into();
    world.commit_as(&broken, 0, "a2").await;
    let sealed = world.seal(1).await;
    assert_eq!(world.shards(&sealed).await[0].pod_uid, "b");
    assert_eq!(sealed.outputs["rows"], (1, 1));
    assert_eq!(world.tally(1).await, Ok(sealed.tally));
}

#[tokio::test]
async fn the_last_word_of_a_shard_that_failed_counts_and_its_log_is_sealed() {
    let world = world().await;
    world.fail(0, "a", "Late", 9).await;
    world.fail(0, "b", "Early", 1).await;
    let log = world.keys(RUN).attempt(1, "z").expect("keys").log();
    world.put(&log, Bytes::from_static(b"killed")).await;
    let sealed = world.seal(2).await;
    let shards = world.shards(&sealed).await;
    assert_eq!(shards[0].failure.as_ref().map(|failure| failure.code.as_str()), Some("Late"));
    assert_eq!((shards[0].files[0].path.as_str(), shards[0].files[0].size), ("0/log-0.csv", 7));
    assert_eq!(shards[0].files[0].key, world.keys(RUN).attempt(0, "a").expect("keys").log());
    assert_eq!((shards[1].files[0].key.as_str(), shards[1].files[0].size), (log.as_str(), 6));
    assert_eq!((shards[1].files[0].sha256, shards[1].files[0].seq), (Digest::of(b"killed"), 1));
    assert_eq!((sealed.tally.failed.to_string(), sealed.tally.lost().to_string()), ("0".into(), "1".into()));
    assert_eq!(sealed.outputs["log"], (2, 13));
}

#[tokio::test]
async fn nothing_is_decided_on_a_record_of_a_newer_release() {
    let world = world().await;
    world.commit(0, "a").await;
    world.commit_as(&CommitRecord { version: VERSION + 1, ..committed(RUN, 1, "a") }, 1, "a").await;
    let trouble = world.tally(2).await.expect_err("too new");
    assert_eq!(trouble.reason, "RecordTooNew");
}

#[tokio::test]
async fn nothing_there_is_believed_only_of_a_store_with_our_mark() {
    let world = world().await;
    assert_eq!(world.tally(3).await.expect("a sum").lost().to_string(), "0-2");
    let owner = world.open.layout.owner();
    world.store.delete(&[owner]).await.expect("deleted");
    assert_eq!(world.tally(3).await.expect_err("emptied").reason, "StoreEmptied");
}

#[tokio::test]
async fn a_store_that_lists_backwards_is_refused() {
    let world = world_of(Counted { backwards: true, ..Counted::default() }).await;
    world.commit(0, "a").await;
    world.commit(1, "a").await;
    assert_eq!(world.tally(2).await.expect_err("unordered").reason, "StoreUnordered");
}

#[tokio::test]
async fn files_are_counted_over_all_shards_and_lie_in_a_folder_for_each() {
    let world = world().await;
    for shard in 0..3 {
        let files = vec![file("rows", 1, 2), file("rows", 0, 1)];
        world.commit_as(&CommitRecord { files, ..committed(RUN, shard, "a") }, shard, "a").await;
    }
    let sealed = world.seal(3).await;
    let shards = world.shards(&sealed).await;
    let seen: Vec<_> =
        shards.iter().flat_map(|shard| &shard.files).map(|file| (file.seq, file.path.as_str())).collect();
    let (first, second) = ("rows-0.csv", "rows-1.csv");
    let path = |shard: u32, name: &str| format!("{shard}/{name}");
    let paths: Vec<String> = (0..3).flat_map(|shard| [path(shard, first), path(shard, second)]).collect();
    assert_eq!(seen, (0..).zip(paths.iter().map(String::as_str)).collect::<Vec<_>>());
    let last = &shards[2].files[1];
    assert_eq!(last.key, world.keys(RUN).attempt(2, "a").expect("keys").file("rows", 1).expect("a key"));
    assert_eq!(sealed.outputs, BTreeMap::from([("rows".to_owned(), (6, 9))]));
}

#[tokio::test]
async fn pages_hold_a_thousand_shards_or_about_a_thousand_files() {
    let world = world().await;
    for shard in 0..3 {
        let files = (0..400).map(|seq| file("rows", seq, 1)).collect();
        world.commit_as(&CommitRecord { files, ..committed(RUN, shard, "a") }, shard, "a").await;
    }
    let sealed = world.seal(2003).await;
    let manifest = world.manifest(&sealed).await;
    let sizes: Vec<_> = manifest.pages.iter().map(|page| (page.first, page.shards, page.failed)).collect();
    assert_eq!(sizes, [(0, 2, 0), (2, 1000, 999), (1002, 1000, 1000), (2002, 1, 1)]);
    assert_eq!(manifest.pages[0].outputs["rows"].files, 800);
    assert_eq!((manifest.files.len(), manifest.pod_uid.as_str()), (0, ""));
    assert_eq!(world.shards(&sealed).await.len(), 2003);
}

#[tokio::test]
async fn whoever_seals_again_after_a_crash_half_way_writes_the_same() {
    let (world, other) = (world().await, world().await);
    for shard in 0..1500 {
        world.commit(shard, "a").await;
        other.commit(shard, "a").await;
    }
    // Two pages and the manifest: every put may be the last one.
    for puts in 0..3 {
        world.store.allow_puts(Some(puts));
        let trouble = seal(&world.place(RUN), None, 1500).await.expect_err("a put is refused");
        assert_eq!(trouble.reason, "StoreUnavailable");
        let listed = world.store.list(world.keys(RUN).attempts_prefix(), Some("p/studio/run-2/send/m"), 10).await;
        assert_eq!(listed.expect("a listing").objects.len(), puts, "no manifest without its pages");
    }
    world.store.allow_puts(None);
    let sealed = world.seal(1500).await;
    assert_eq!(sealed, other.seal(1500).await);
    assert_eq!(sealed, world.seal(1500).await);
}

#[tokio::test]
async fn shards_that_succeeded_in_the_run_that_is_continued_count_as_they_were_sealed() {
    let world = world().await;
    for shard in [0, 1, 3] {
        let key = world.keys(BEFORE).attempt(shard, "old").expect("keys").commit();
        world.put(&key, encode(&committed(BEFORE, shard, "old"))).await;
    }
    let before = seal(&world.place(BEFORE), None, 5).await.expect("sealed");
    let source = Source { uid: BEFORE.into(), manifest: before.manifest.parse().expect("a digest") };
    let first = tally(&world.place(RUN), Some(&source), 5).await.expect("a sum");
    assert_eq!((first.committed, first.lost().to_string()), (3, "2,4".into()));

    world.commit(1, "new").await;
    world.commit(2, "new").await;
    world.fail(3, "new", "Broken", 1).await;
    world.fail(4, "new", "Broken", 1).await;
    let sealed = seal(&world.place(RUN), Some(&source), 5).await.expect("sealed");
    assert_eq!((sealed.tally.committed, sealed.tally.failed.to_string()), (4, "4".into()));
    let shards = world.shards(&sealed).await;
    let pods: Vec<_> = shards.iter().map(|shard| shard.pod_uid.as_str()).collect();
    assert_eq!(pods, ["old", "new", "new", "old", "new"]);
    let rows = |shard: usize| &shards[shard].files[1];
    assert_eq!(rows(0).key, world.keys(BEFORE).attempt(0, "old").expect("keys").file("rows", 0).expect("a key"));
    assert_eq!((rows(3).seq, rows(3).path.as_str()), (3, "3/rows-0.csv"));
}

#[tokio::test]
async fn a_sealed_page_that_is_gone_is_no_shard_without_a_result() {
    let world = world().await;
    let key = world.keys(BEFORE).attempt(0, "old").expect("keys").commit();
    world.put(&key, encode(&committed(BEFORE, 0, "old"))).await;
    let before = seal(&world.place(BEFORE), None, 1).await.expect("sealed");
    let manifest: Digest = before.manifest.parse().expect("a digest");
    let source = Source { uid: BEFORE.into(), manifest };
    let root = world.keys(BEFORE).manifest(manifest);
    let pages = world.store.list(world.keys(BEFORE).attempts_prefix(), None, 10).await.expect("a listing").objects;
    let page = pages.into_iter().map(|meta| meta.key).find(|key| key.contains("manifest-") && *key != root);
    world.store.delete(&[page.expect("a page")]).await.expect("deleted");
    assert!(tally(&world.place(RUN), Some(&source), 1).await.is_err());
}

#[tokio::test]
async fn ten_thousand_shards_are_read_few_at_a_time() {
    let world = world().await;
    for shard in 0..10_000 {
        world.commit(shard, "a").await;
    }
    let began = Instant::now();
    let sealed = world.seal(10_000).await;
    println!("10,000 commits sealed in {:?}", began.elapsed());
    assert_eq!((sealed.tally.committed, sealed.tally.without_result()), (10_000, 0));
    assert_eq!(world.store.gets.load(Ordering::SeqCst), 10_000);
    let most = world.store.most_at_once.load(Ordering::SeqCst);
    assert!((2..=READS).contains(&most), "{most} at once");
    assert_eq!(world.manifest(&sealed).await.pages.len(), 20, "a page has two files of each of 500 shards");
}

fn job(attempt: u32, end: Option<JobEnd>) -> JobFact {
    JobFact {
        name: "j".into(),
        uid: "u".into(),
        ours: true,
        step: STEP.into(),
        attempt,
        revision: None,
        created: None,
        started: None,
        suspended: false,
        ready: false,
        deleting: false,
        end,
        indexes: None,
    }
}

#[test]
fn shards_are_added_up_when_no_pod_can_commit_any_more() {
    let step = |fields: serde_json::Value| {
        let mut step = json!({"name": STEP});
        step.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        serde_json::from_value::<StepStatus>(step).expect("a step")
    };
    let now = Timestamp::from_second(100).expect("a time");
    let due = |fields, jobs: &[JobFact]| due(&step(fields), jobs, now);
    let (at_work, ended) = (job(1, None), job(1, Some(JobEnd::Succeeded)));
    let running = json!({"state": "Running", "attempt": 1});
    assert_eq!(due(running.clone(), std::slice::from_ref(&at_work)), None);
    assert_eq!(due(running.clone(), std::slice::from_ref(&ended)), Some(JobEnd::Succeeded));
    assert_eq!(due(running, &[]), Some(JobEnd::Gone));
    let retrying = |until: &str| json!({"state": "Retrying", "attempt": 1, "until": until});
    assert_eq!(due(retrying("1970-01-01T00:01:41Z"), std::slice::from_ref(&ended)), None);
    assert_eq!(due(retrying("1970-01-01T00:01:40Z"), std::slice::from_ref(&ended)), Some(JobEnd::Succeeded));
    let adopted = json!({"name": "before", "uid": BEFORE});
    assert_eq!(due(json!({"state": "Waiting"}), &[]), None);
    assert_eq!(due(json!({"state": "Waiting", "adopted": adopted}), &[]), Some(JobEnd::Gone));
    assert_eq!(due(json!({"state": "Waiting", "attempt": 1}), &[at_work]), None, "held, and its pods still end");
    assert_eq!(due(json!({"state": "Complete", "attempt": 1}), &[ended]), None);
}
