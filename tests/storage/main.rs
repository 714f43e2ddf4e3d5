//! One suite for all stores: memory, a folder, and real servers of four makers.

#[path = "../support/seaweedfs.rs"]
mod seaweedfs;
#[path = "../support/stores.rs"]
mod stores;

mod clouds;
mod conformance;
mod content;
mod identity;
mod refusals;
mod signed;
mod streams;
mod table;

use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use asynctask_operator::storage::cloud::{AzureCredential, AzureOptions, CloudStore, GoogleOptions};
use asynctask_operator::storage::filesystem::FilesystemStore;
use asynctask_operator::storage::s3::{Encryption, Keys, S3Options, S3Store};
use seaweedfs::{Seaweed, SeaweedOptions};
use stores::{AZURITE_ACCOUNT, AZURITE_KEY, BUCKET, GOOGLE_KEY, Server};

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
        keys: Some(Keys::new(&*server.access_key, &*server.secret_key)),
        ca_bundle: None,
        encryption: None,
        signs: true,
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

fn google_options(server: &Server) -> GoogleOptions {
    GoogleOptions {
        bucket: BUCKET.to_owned(),
        endpoint: Some(server.endpoint.clone()),
        service_account_key: Some(GOOGLE_KEY.to_owned()),
        ca_bundle: None,
    }
}

fn google(server: &Server) -> CloudStore {
    CloudStore::google(&google_options(server)).expect("valid options")
}

fn azure(server: &Server) -> CloudStore {
    CloudStore::azure(&azure_options(server)).expect("valid options")
}

fn azure_options(server: &Server) -> AzureOptions {
    AzureOptions {
        account: AZURITE_ACCOUNT.to_owned(),
        container: BUCKET.to_owned(),
        endpoint: Some(format!("{}/{AZURITE_ACCOUNT}", server.endpoint)),
        credential: Some(AzureCredential::AccountKey(AZURITE_KEY.to_owned())),
        ca_bundle: None,
    }
}

fn minio_options(server: &Server) -> S3Options {
    S3Options {
        endpoint: Some(server.endpoint.clone()),
        public_endpoint: Some(server.endpoint.replace("127.0.0.1", "localhost")),
        region: "us-east-1".to_owned(),
        bucket: BUCKET.to_owned(),
        path_style: true,
        keys: Some(Keys::new("minio-admin", "minio-admin")),
        ca_bundle: None,
        encryption: Some(Encryption::Managed),
        signs: true,
    }
}
