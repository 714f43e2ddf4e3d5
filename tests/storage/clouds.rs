//! What Google's and Azure's services refuse, and what it looks like to us.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use asynctask_operator::storage::cloud::{AzureCredential, AzureOptions, CloudStore, GoogleOptions};
use asynctask_operator::storage::probe::probe;
use asynctask_operator::storage::{Layout, ObjectStore as _, PutMode, RetryClass, StoreError};
use bytes::Bytes;

use super::refusals::{CANARY, errors_of};
use super::stores::{self, AZURITE_ACCOUNT, LOOPBACK};
use super::streams::MEMORY;
use super::{azure_options, google_options};

/// A key as Azure's are, of nobody.
fn wrong_key() -> AzureCredential {
    AzureCredential::AccountKey("Q0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZ".to_owned())
}

#[tokio::test]
async fn wrong_credentials_of_azure_are_named_with_the_store() {
    let _shared = MEMORY.read().await;
    let server = stores::azure(LOOPBACK);
    let wrong = AzureOptions { credential: Some(wrong_key()), ..azure_options(&server) };
    let token = AzureCredential::SasToken(format!("sv=2021-12-02&sr=c&sp=rwdl&se=2020-01-01T00:00:00Z&sig={CANARY}"));
    let expired = AzureOptions { credential: Some(token), ..azure_options(&server) };
    for options in [wrong, expired] {
        for error in errors_of(&CloudStore::azure(&options).expect("valid options")).await {
            assert_eq!(
                (error.reason(), error.retry_class()),
                ("PermissionDenied", RetryClass::Configuration),
                "{error:?}"
            );
            assert!(error.to_string().contains(&server.endpoint), "{error}");
        }
    }
}

#[tokio::test]
async fn a_missing_bucket_or_container_is_named() {
    let _shared = MEMORY.read().await;
    let (google, azure) = (stores::google(LOOPBACK), stores::azure(LOOPBACK));
    let bucket = GoogleOptions { bucket: "no-such-bucket".to_owned(), ..google_options(&google) };
    let container = AzureOptions { container: "no-such-container".to_owned(), ..azure_options(&azure) };
    let layout = Layout::new("p").expect("valid");
    for (store, words) in [
        (CloudStore::google(&bucket), "bucket no-such-bucket at http://"),
        (CloudStore::azure(&container), "container no-such-container at http://"),
    ] {
        let store = store.expect("valid options");
        let error = probe(&store, &layout, "cluster-a").await.expect_err("nowhere to write");
        assert_eq!((error.reason(), error.retry_class()), ("LocationNotFound", RetryClass::Configuration), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// Passes connections on to a server. Once armed, it breaks the next one that says something.
fn breaking(server: &str) -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let server = server.trim_start_matches("http://").to_owned();
    let armed = Arc::new(AtomicBool::new(false));
    let breaks = Arc::clone(&armed);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let upstream = TcpStream::connect(&server).expect("the server listens");
            let ways = [(&client, &upstream, Some(Arc::clone(&breaks))), (&upstream, &client, None)];
            for (from, to, breaks) in ways {
                let (from, to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
                std::thread::spawn(move || pass(from, to, breaks.as_deref()));
            }
        }
    });
    (address, armed)
}

fn pass(mut from: TcpStream, mut to: TcpStream, breaks: Option<&AtomicBool>) {
    let mut buffer = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if breaks.is_some_and(|armed| armed.swap(false, SeqCst)) || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// A server closes a connection that was idle for long, and now and then just as the next request is on its way.
#[tokio::test]
async fn a_deletion_whose_connection_breaks_is_tried_again() {
    let _shared = MEMORY.read().await;
    let (google, azure) = (stores::google(LOOPBACK), stores::azure(LOOPBACK));
    let (to_google, breaks_google) = breaking(&google.endpoint);
    let (to_azure, breaks_azure) = breaking(&azure.endpoint);
    let google = GoogleOptions { endpoint: Some(to_google), ..google_options(&google) };
    let azure = AzureOptions { endpoint: Some(format!("{to_azure}/{AZURITE_ACCOUNT}")), ..azure_options(&azure) };
    for (store, breaks) in [(CloudStore::google(&google), breaks_google), (CloudStore::azure(&azure), breaks_azure)] {
        let store = store.expect("valid options");
        store.put("broken/key", Bytes::from_static(b"x"), PutMode::Create).await.expect("put");
        breaks.store(true, SeqCst);
        store.delete(&["broken/key".to_owned()]).await.expect("deleted");
        assert!(!breaks.load(SeqCst), "the connection broke");
        let error = store.head("broken/key").await.expect_err("it is gone");
        assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_dead_address_is_unreachable() {
    let _shared = MEMORY.read().await;
    let (google, azure) = (stores::google(LOOPBACK), stores::azure(LOOPBACK));
    let (_held, free) = stores::free(LOOPBACK);
    let dead = Some(format!("http://{free}"));
    let google = GoogleOptions { endpoint: dead.clone(), ..google_options(&google) };
    let azure = AzureOptions { endpoint: dead, credential: Some(wrong_key()), ..azure_options(&azure) };
    for store in [CloudStore::google(&google), CloudStore::azure(&azure)] {
        for error in errors_of(&store.expect("valid options")).await {
            assert_eq!((error.reason(), error.retry_class()), ("StoreUnreachable", RetryClass::Transient), "{error:?}");
            assert!(error.to_string().contains("onnection refused"), "{error}");
        }
    }
}
