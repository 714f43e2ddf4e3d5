//! What Google's and Azure's services refuse, and what it looks like to us.

use asynctask_operator::storage::cloud::{AzureCredential, AzureOptions, CloudStore, GoogleOptions};
use asynctask_operator::storage::probe::probe;
use asynctask_operator::storage::{Layout, RetryClass};

use super::refusals::{CANARY, errors_of};
use super::stores::{self, LOOPBACK};
use super::streams::MEMORY;
use super::{azure_options, google_options};

fn dead_address() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    format!("http://{free}")
}

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

#[tokio::test]
async fn a_dead_address_is_unreachable() {
    let _shared = MEMORY.read().await;
    let (google, azure) = (stores::google(LOOPBACK), stores::azure(LOOPBACK));
    let google = GoogleOptions { endpoint: Some(dead_address()), ..google_options(&google) };
    let azure = AzureOptions { endpoint: Some(dead_address()), credential: Some(wrong_key()), ..azure_options(&azure) };
    for store in [CloudStore::google(&google), CloudStore::azure(&azure)] {
        for error in errors_of(&store.expect("valid options")).await {
            assert_eq!((error.reason(), error.retry_class()), ("StoreUnreachable", RetryClass::Transient), "{error:?}");
            assert!(error.to_string().contains("onnection refused"), "{error}");
        }
    }
}
