//! One suite for all stores: memory, a folder, and a real S3 server (SeaweedFS).

#[path = "../support/seaweedfs.rs"]
mod seaweedfs;

mod conformance;
mod content;
mod refusals;
mod signed;
mod streams;

use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use asynctask_operator::storage::filesystem::FilesystemStore;
use asynctask_operator::storage::memory::MemoryStore;
use asynctask_operator::storage::s3::{S3Options, S3Store};
use seaweedfs::{Seaweed, SeaweedOptions};
use streams::MEMORY;

/// One server for all tests that run at the same time; the last one to let go stops it.
fn seaweed() -> Arc<Seaweed> {
    static SHARED: LazyLock<Mutex<Weak<Seaweed>>> = LazyLock::new(Mutex::default);
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let started = Arc::new(Seaweed::start(&SeaweedOptions::default()));
        *shared = Arc::downgrade(&started);
        started
    })
}

fn s3_options(server: &Seaweed) -> S3Options {
    S3Options {
        endpoint: Some(server.endpoint.clone()),
        public_endpoint: Some(server.endpoint.replace("127.0.0.1", "localhost")),
        region: "us-east-1".to_owned(),
        bucket: server.bucket.clone(),
        path_style: true,
        access_key_id: server.access_key.clone(),
        secret_access_key: server.secret_key.clone(),
        session_token: None,
        ca_bundle: None,
    }
}

fn s3(server: &Seaweed) -> S3Store {
    S3Store::new(s3_options(server)).expect("valid options")
}

fn folder() -> (tempfile::TempDir, FilesystemStore) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = FilesystemStore::open(folder.path()).expect("it exists");
    (folder, store)
}

#[tokio::test]
async fn the_memory_store_conforms() {
    let _shared = MEMORY.read().await;
    conformance::suite(&MemoryStore::new(), "suite").await;
}

#[tokio::test]
async fn the_filesystem_store_conforms_and_leaves_only_its_objects() {
    let _shared = MEMORY.read().await;
    let (root, store) = folder();
    conformance::suite(&store, "suite").await;
    let left: Vec<_> = std::fs::read_dir(root.path()).expect("readable").flatten().map(|found| found.path()).collect();
    let staging = root.path().join("staging");
    assert_eq!(left, std::slice::from_ref(&staging), "no folder is left but that of streams on their way");
    assert_eq!(std::fs::read_dir(staging).expect("readable").count(), 0, "no half-written file is left");
}

#[tokio::test]
async fn the_s3_store_conforms_on_a_real_server() {
    let _shared = MEMORY.read().await;
    let server = seaweed();
    conformance::suite(&s3(&server), "suite").await;
}

#[tokio::test]
async fn signed_requests_keep_their_limits_on_a_real_server() {
    let _shared = MEMORY.read().await;
    let server = seaweed();
    signed::suite(&s3(&server), &server).await;
}
