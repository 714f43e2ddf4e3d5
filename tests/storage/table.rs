//! The table of `make test-stores`: what every store promises, tried on each.

use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;

use asynctask_operator::storage::ObjectStore;
use asynctask_operator::storage::memory::MemoryStore;
use asynctask_operator::storage::s3::{S3Options, S3Store};
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::conformance::Room;
use super::stores::LOOPBACK;
use super::streams::MEMORY;
use super::{conformance, signed, streams};

/// Tries a store in a room of its own; a panic is a broken promise.
type Trial = for<'a> fn(&'a dyn ObjectStore, &'a Room) -> LocalBoxFuture<'a, ()>;

macro_rules! promises {
    ($($module:ident::$name:ident),* $(,)?) => {
        [$((stringify!($name), (|store, room| Box::pin($module::$name(store, room))) as Trial)),*]
    };
}

/// Of every store.
const ALWAYS: &[(&str, Trial)] = &promises![
    conformance::what_is_put_is_got,
    conformance::a_taken_key_is_not_created_again,
    conformance::one_of_many_creators_wins,
    conformance::what_is_missing_is_not_found,
    conformance::ranges_are_cut_at_the_end,
    conformance::bounded_reads_refuse_larger_objects,
    conformance::pages_follow_each_other_and_cover_everything,
    conformance::folders_are_named_once_each,
    conformance::neighbours_are_never_touched,
    conformance::many_objects_are_deleted_in_batches,
    streams::an_honest_stream_is_stored,
    streams::a_dishonest_stream_leaves_nothing,
    streams::a_dishonest_stream_leaves_the_old_object,
    streams::a_large_stream_is_whole,
    streams::streams_side_by_side_do_not_disturb_each_other,
];

/// Of those that let others in by signed requests.
const SIGNED: &[(&str, Trial)] = &promises![
    signed::a_put_stores_once,
    signed::a_put_keeps_every_limit,
    signed::a_log_is_written_over,
    signed::a_get_presents_as_signed,
    signed::requests_expire,
    signed::parts_become_one_object,
    signed::parts_keep_their_limits,
    signed::people_are_sent_to_the_public_name,
];

/// How one store did: a mark for each promise, in their order.
async fn column(store: &dyn ObjectStore) -> Vec<&'static str> {
    let mut marks = Vec::new();
    for (name, trial) in ALWAYS.iter().chain(SIGNED) {
        if store.signer().is_none() && SIGNED.iter().any(|(signed, _)| signed == name) {
            marks.push("–");
            continue;
        }
        let room = Room::new("suite", &name.replace('_', "-"));
        let tried = AssertUnwindSafe(trial(store, &room)).catch_unwind().await;
        marks.push(if tried.is_ok() { "yes" } else { "NO" });
    }
    marks
}

#[tokio::test]
async fn every_store_keeps_every_promise() {
    let _shared = MEMORY.read().await;
    let (seaweed, minio) = (super::seaweed(), super::stores::minio());
    let (google, azure) = (super::stores::google(LOOPBACK), super::stores::azure(LOOPBACK));
    let (root, folder) = super::folder();
    let proxied = S3Options { signs: false, ..super::s3_options(&seaweed) };
    let encrypted = S3Store::new(super::minio_options(&minio)).expect("valid options");
    let stores: [(&str, Box<dyn ObjectStore>); 6] = [
        ("s3 SeaweedFS", Box::new(super::s3(&seaweed))),
        ("s3 MinIO, SSE-S3", Box::new(encrypted)),
        ("gcs", Box::new(super::google(&google))),
        ("azure", Box::new(super::azure(&azure))),
        ("filesystem", Box::new(folder)),
        ("memory", Box::new(MemoryStore::new())),
    ];
    assert!(
        S3Store::new(proxied).expect("valid options").signer().is_none(),
        "told to pass the gateway, s3 signs nothing"
    );
    let columns = futures::future::join_all(stores.iter().map(|(_, store)| column(store.as_ref()))).await;

    let mut table = "| promise |".to_owned();
    stores.iter().for_each(|(name, _)| write!(table, " {name} |").expect("a string grows"));
    write!(table, "\n|---|{}", "---|".repeat(stores.len())).expect("a string grows");
    for (row, (name, _)) in ALWAYS.iter().chain(SIGNED).enumerate() {
        write!(table, "\n| {} |", name.replace('_', " ")).expect("a string grows");
        columns.iter().for_each(|marks| write!(table, " {} |", marks[row]).expect("a string grows"));
    }
    println!("{table}");
    assert!(!table.contains("NO"), "a promise is broken, see the table");

    let left: Vec<_> = std::fs::read_dir(root.path()).expect("readable").flatten().map(|found| found.path()).collect();
    let staging = root.path().join("staging");
    assert_eq!(left, std::slice::from_ref(&staging), "no folder is left but that of streams on their way");
    assert_eq!(std::fs::read_dir(staging).expect("readable").count(), 0, "no half-written file is left");
}
