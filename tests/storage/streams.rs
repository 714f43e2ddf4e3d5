//! Streams: checked while they pass, never held whole, nothing left of one that was refused.

use asynctask_operator::storage::filesystem::FilesystemStore;
use asynctask_operator::storage::{Difference, Expected, ObjectStore, PutMode, StoreError};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::RwLock;

use super::conformance::Room;
use super::content::{MIB, broken_after, digest_of, expected_large, large, part_of_large, small};
use super::stores::LOOPBACK;

const CONTENT: &[u8] = b"course;grade\nDemo;A\n";

/// As the pods of a fan-out send theirs: each key in a place where nothing was before.
pub(crate) async fn streams_side_by_side_do_not_disturb_each_other(store: &dyn ObjectStore, room: &Room) {
    let keys: Vec<String> = (0..300).map(|n| room.key(&format!("{n}/log"))).collect();
    let expected = Expected::of(CONTENT);
    let sent = keys.iter().map(|key| store.put_stream(key, small(CONTENT), expected, PutMode::Create));
    let sent: Vec<_> = futures::stream::iter(sent).buffer_unordered(2).collect().await;
    let failed: Vec<_> = sent.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{} of {}: {:?}", failed.len(), keys.len(), failed[0]);
    store.delete(&keys).await.expect("deleted");
}

pub(crate) async fn an_honest_stream_is_stored(store: &dyn ObjectStore, room: &Room) {
    let key = room.key("object");
    let expected = Expected::of(CONTENT);
    store.put_stream(&key, small(CONTENT), expected, PutMode::Create).await.expect("stored");
    let meta = store.head(&key).await.expect("head");
    assert_eq!((meta.size, meta.sha256), (expected.size, Some(expected.sha256)));
    assert_eq!(&store.get_bytes(&key, 100).await.expect("get")[..], CONTENT);

    let again = store.put_stream(&key, small(CONTENT), expected, PutMode::Create).await.expect_err("taken");
    assert!(matches!(again, StoreError::AlreadyExists { .. }), "{again:?}");
    store.put_stream(&key, small(b""), Expected::of(b""), PutMode::Overwrite).await.expect("replaced");
    assert_eq!(store.head(&key).await.expect("head").size, 0);
    store.delete(&[key]).await.expect("deleted");
}

async fn refuse(store: &dyn ObjectStore, key: &str) {
    let (shorter, longer, other) =
        (&CONTENT[..CONTENT.len() - 1], b"course;grade\nDemo;A\n!", b"course;grade\nDemo;B\n");
    let expected = Expected::of(CONTENT);
    for (sent, wanted) in [
        (small(shorter), "ends after 19 of 20"),
        (small(longer), "longer than the announced 20"),
        (small(other), "SHA-256"),
    ] {
        let error = store.put_stream(key, sent, expected, PutMode::Overwrite).await.expect_err(wanted);
        assert!(matches!(error, StoreError::Altered { .. }), "{error:?}");
        assert!(error.to_string().contains(wanted), "{error}");
    }
    let error = store.put_stream(key, broken_after(b"course"), expected, PutMode::Overwrite).await.expect_err("gone");
    assert!(matches!(error, StoreError::Interrupted { .. }), "{error:?}");
}

pub(crate) async fn a_dishonest_stream_leaves_nothing(store: &dyn ObjectStore, room: &Room) {
    let key = room.key("object");
    refuse(store, &key).await;
    // A large one is refused at its end, when all of it but the last part has been sent.
    let mut wrong = expected_large(20 * MIB);
    wrong.sha256 = Expected::of(CONTENT).sha256;
    let error = store.put_stream(&key, large(20 * MIB), wrong, PutMode::Create).await.expect_err("altered");
    assert!(matches!(error, StoreError::Altered { difference: Difference::Content { .. }, .. }), "{error:?}");
    assert!(matches!(store.head(&key).await, Err(StoreError::NotFound { .. })));
    assert!(room.is_empty(store).await);
}

pub(crate) async fn a_dishonest_stream_leaves_the_old_object(store: &dyn ObjectStore, room: &Room) {
    let key = room.key("object");
    store.put(&key, Bytes::from_static(b"older"), PutMode::Create).await.expect("put");
    refuse(store, &key).await;
    assert_eq!(&store.get_bytes(&key, 100).await.expect("get")[..], b"older");
    store.delete(&[key]).await.expect("deleted");
}

pub(crate) async fn a_large_stream_is_whole(store: &dyn ObjectStore, room: &Room) {
    let (key, size) = (room.key("object"), 33 * MIB + 7);
    let expected = expected_large(size);
    store.put_stream(&key, large(size), expected, PutMode::Create).await.expect("stored");
    assert_eq!(store.head(&key).await.expect("head").size, size);
    assert_eq!(digest_of(store.get(&key, None).await.expect("get")).await, expected.sha256);
    // Across the seam of two parts, and up to the end.
    for range in [16 * MIB - 5..16 * MIB + 5, size - 3..size] {
        let object = store.get(&key, Some(range.clone())).await.expect("get");
        let bytes: Vec<Bytes> = futures::TryStreamExt::try_collect(object.stream).await.expect("read");
        assert_eq!(bytes.concat(), part_of_large(size, range));
    }
    store.delete(&[key]).await.expect("deleted");
    assert!(room.is_empty(store).await);
}

/// Tests of one process share its memory: those that measure it run alone, the others hold this to read.
pub(crate) static MEMORY: RwLock<()> = RwLock::const_new(());

const HUGE: u64 = 96 * MIB;
/// One part of 16 MiB is in memory while it is sent, once in our hands and once on its way.
const ALLOWED: u64 = 48 * MIB;

#[tokio::test]
async fn a_huge_stream_passes_a_folder_in_constant_memory() {
    let _alone = MEMORY.write().await;
    let (_root, store) = super::folder();
    passes_in_constant_memory(&store).await;
}

#[tokio::test]
async fn a_huge_stream_passes_to_s3_in_constant_memory() {
    let _alone = MEMORY.write().await;
    let server = super::seaweed();
    passes_in_constant_memory(&super::s3(&server)).await;
}

#[tokio::test]
async fn a_huge_stream_passes_to_google_and_azure_in_constant_memory() {
    let _alone = MEMORY.write().await;
    let (google, azure) = (super::stores::google(LOOPBACK), super::stores::azure(LOOPBACK));
    passes_in_constant_memory(&super::google(&google)).await;
    passes_in_constant_memory(&super::azure(&azure)).await;
}

async fn passes_in_constant_memory(store: &dyn ObjectStore) {
    let key = "huge/object".to_owned();
    let expected = expected_large(HUGE);
    let before = restart_peak();
    store.put_stream(&key, large(HUGE), expected, PutMode::Create).await.expect("stored");
    assert_eq!(digest_of(store.get(&key, None).await.expect("get")).await, expected.sha256);
    let grown = peak().saturating_sub(before);
    assert!(grown < ALLOWED, "{HUGE} bytes made the process grow by {grown}");
    store.delete(&[key]).await.expect("deleted");
}

/// Forgets the highest memory use so far, and gives the present one.
fn restart_peak() -> u64 {
    std::fs::write("/proc/self/clear_refs", "5").expect("the kernel forgets the peak");
    peak()
}

fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel says it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[tokio::test]
async fn an_upload_that_is_given_up_leaves_no_file() {
    let _shared = MEMORY.read().await;
    let (root, store) = super::folder();
    let endless = futures::StreamExt::boxed(futures::StreamExt::chain(large(3 * MIB), futures::stream::pending()));
    let put = store.put_stream("object", endless, expected_large(4 * MIB), PutMode::Create);
    // The client goes away while its body is awaited: the server drops the future.
    tokio::select! {
        biased;
        stored = put => panic!("an endless stream was stored: {stored:?}"),
        () = staged(root.path(), true) => {}
    }
    staged(root.path(), false).await;
    assert!(matches!(store.head("object").await, Err(StoreError::NotFound { .. })));
}

/// Every file below a folder, with its size.
fn everything_in(folder: &std::path::Path) -> Vec<(std::path::PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => found.extend(everything_in(&entry.path())),
            meta => found.push((entry.path(), meta.map_or(0, |meta| meta.len()))),
        }
    }
    found
}

/// Waits until something is, or nothing is, in the staging folder.
async fn staged(root: &std::path::Path, wanted: bool) {
    let files = || std::fs::read_dir(root.join("staging")).is_ok_and(|mut found| found.next().is_some());
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while files() != wanted {
        let late = tokio::time::Instant::now() >= deadline;
        assert!(!late, "waited for staged == {wanted}; there is {:?}", everything_in(root));
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_digest_is_never_taken_for_another_content() {
    let _shared = MEMORY.read().await;
    let (root, store) = super::folder();
    store.put("object", Bytes::from_static(b"ours"), PutMode::Create).await.expect("put");
    // Somebody restores a backup below our feet.
    std::fs::write(root.path().join("objects/other"), b"theirs").expect("written");
    std::fs::rename(root.path().join("objects/other"), root.path().join("objects/object")).expect("moved");
    let meta = store.head("object").await.expect("head");
    assert_eq!((meta.size, meta.sha256), (6, None));
}

#[tokio::test]
async fn a_folder_that_is_not_mounted_is_no_store() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    for path in [std::path::Path::new("/nonexistent/volume"), file.path()] {
        let error = FilesystemStore::open(path).expect_err("no folder");
        assert_eq!(error.reason(), "LocationNotFound");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_key_cannot_leave_the_folder() {
    let (_root, store) = super::folder();
    for key in ["../escape", "a/../../escape", "/absolute", "a//b", "a/", "", ".", "a#1"] {
        let put = store.put(key, Bytes::from_static(b"x"), PutMode::Overwrite).await;
        assert!(matches!(put, Err(StoreError::Other { .. })), "{key:?}: {put:?}");
        assert!(store.get(key, None).await.is_err(), "{key:?}");
        assert!(store.delete(&[key.to_owned()]).await.is_err(), "{key:?}");
    }
}

#[tokio::test]
async fn what_a_killed_gateway_left_in_the_staging_folder_is_swept_when_it_is_old() {
    let (root, store) = super::folder();
    std::fs::create_dir(root.path().join("staging")).expect("made");
    std::fs::write(root.path().join("staging/left"), b"half").expect("written");
    let prefix = Room::new("any", "where").prefix;
    let now = jiff::Timestamp::now();
    let hour = jiff::SignedDuration::from_hours(1);
    assert_eq!(store.abandon(&prefix, now - hour).await.expect("asked"), 0, "somebody may still be writing it");
    assert_eq!(store.abandon(&prefix, now + hour).await.expect("asked"), 1);
    assert_eq!(std::fs::read_dir(root.path().join("staging")).expect("there").count(), 0);
}
