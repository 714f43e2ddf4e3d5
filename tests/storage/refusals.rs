//! What a real server refuses, and what it looks like to us: by meaning, in a sentence, without a secret.

use asynctask_operator::storage::limits::{Limits, limits};
use asynctask_operator::storage::probe::probe;
use asynctask_operator::storage::s3::{Keys, S3Options, S3Store};
use asynctask_operator::storage::{Layout, ObjectStore, PutMode, RetryClass, StoreError, delete_prefix};
use bytes::Bytes;

use super::seaweedfs::{Seaweed, SeaweedOptions};
use super::stores::{self, LOOPBACK};
use super::streams::MEMORY;
use super::{s3, s3_options, seaweed};

pub(crate) const CANARY: &str = "CANARY-SECRET-7f3c";

fn store(options: S3Options) -> S3Store {
    S3Store::new(options).expect("valid options")
}

/// Tries every call; each must fail, and none may say a secret.
pub(crate) async fn errors_of(store: &dyn ObjectStore) -> Vec<StoreError> {
    let layout = Layout::new("refused").expect("valid");
    let key = "refused/object";
    let mut errors = vec![
        store.put(key, Bytes::from_static(b"x"), PutMode::Overwrite).await.expect_err("put"),
        store.get(key, None).await.expect_err("get"),
        store.list(layout.root(), None, 10).await.expect_err("list"),
        store.delete(&[key.to_owned()]).await.expect_err("delete"),
    ];
    if let Some(signer) = store.signer() {
        errors.push(signer.start_multipart(key, "text/plain").await.expect_err("start an upload"));
    }
    for error in &errors {
        for shown in [error.to_string(), format!("{error:?}"), format!("{store:?}"), store.location()] {
            assert!(!shown.contains("CANARY") && !shown.contains("Signature=") && !shown.contains("sig="), "{shown}");
        }
    }
    errors
}

#[tokio::test]
async fn wrong_credentials_are_named_with_the_store() {
    let _shared = MEMORY.read().await;
    let server = seaweed();
    let wrong_secret = Keys::new(&*server.access_key, CANARY);
    let unknown_key = Keys::new(CANARY, &*server.secret_key);
    for keys in [wrong_secret, unknown_key] {
        let options = S3Options { keys: Some(keys), ..s3_options(&server) };
        for error in errors_of(&store(options)).await {
            assert!(matches!(error, StoreError::PermissionDenied { .. }), "{error:?}");
            assert_eq!(error.retry_class(), RetryClass::Configuration);
            assert!(error.to_string().contains(&server.endpoint), "{error}");
        }
    }
}

#[tokio::test]
async fn a_key_that_may_only_read_is_found_out_by_the_probe() {
    let _shared = MEMORY.read().await;
    let server = seaweed();
    let reader = store(S3Options {
        keys: Some(Keys::new(&*server.reader_access_key, &*server.reader_secret_key)),
        ..s3_options(&server)
    });
    let layout = Layout::new("reader").expect("valid");
    reader.list(layout.root(), None, 1).await.expect("it may list");
    let error = probe(&reader, &layout, "cluster-a").await.expect_err("it may not write");
    assert_eq!((error.reason(), error.retry_class()), ("PermissionDenied", RetryClass::Configuration));
    assert!(error.to_string().contains("refused to write"), "{error}");
}

#[tokio::test]
async fn a_missing_bucket_is_named() {
    let _shared = MEMORY.read().await;
    let server = seaweed();
    let missing = store(S3Options { bucket: "no-such-bucket".to_owned(), ..s3_options(&server) });
    let layout = Layout::new("p").expect("valid");
    let error = probe(&missing, &layout, "cluster-a").await.expect_err("no bucket");
    assert_eq!((error.reason(), error.retry_class()), ("LocationNotFound", RetryClass::Configuration));
    assert!(error.to_string().contains("bucket no-such-bucket at http://"), "{error}");
}

#[tokio::test]
async fn a_dead_address_is_unreachable() {
    let (_held, free) = stores::free(LOOPBACK);
    let options = S3Options {
        endpoint: Some(format!("http://{free}")),
        public_endpoint: None,
        region: "us-east-1".to_owned(),
        bucket: "tasks".to_owned(),
        path_style: true,
        keys: Some(Keys { session_token: Some(CANARY.to_owned()), ..Keys::new(CANARY, CANARY) }),
        ca_bundle: None,
        encryption: None,
        signs: true,
    };
    let unknown_host = S3Options { endpoint: Some("http://store.invalid".to_owned()), ..options.clone() };
    let mut errors = errors_of(&store(options)).await;
    errors.push(store(unknown_host).head("key").await.expect_err("no such host"));
    for error in errors {
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
        assert_eq!(error.retry_class(), RetryClass::Transient);
    }
}

#[tokio::test]
async fn a_certificate_is_trusted_by_the_bundle_alone() {
    let _shared = MEMORY.read().await;
    let made = |name: &str| {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    };
    let (certificate, key) = made("127.0.0.1");
    let server = Seaweed::start(&SeaweedOptions { tls: Some((certificate.clone(), key)), ..SeaweedOptions::default() });
    let over_tls = |ca_bundle| {
        let endpoint = server.tls_endpoint.clone();
        store(S3Options { endpoint, public_endpoint: None, ca_bundle, ..s3_options(&server) })
    };
    let layout = Layout::new("tls").expect("valid");
    let trusted = over_tls(Some(certificate.clone()));
    probe(&trusted, &layout, "cluster-a").await.expect("trusted");
    let signer = trusted.signer().expect("it signs");
    limits(&trusted, signer, &layout, "cluster-a", Some(&certificate))
        .await
        .expect("trusted by the probe's client, too");
    for ca_bundle in [None, Some(made("127.0.0.1").0)] {
        let error = probe(&over_tls(ca_bundle), &layout, "cluster-a").await.expect_err("not trusted");
        assert_eq!(error.reason(), "StoreUnreachable");
        assert!(error.to_string().contains("CA bundle"), "{error}");
    }
}

#[tokio::test]
async fn a_real_bucket_is_claimed_by_one_cluster() {
    let _shared = MEMORY.read().await;
    let server = seaweed();
    let store = s3(&server);
    let layout = Layout::new("claimed/prefix").expect("valid");
    probe(&store, &layout, "cluster-a").await.expect("usable");
    probe(&store, &layout, "cluster-a").await.expect("still ours");
    let error = probe(&store, &layout, "cluster-b").await.expect_err("theirs");
    assert_eq!(error.reason(), "StoreOwnedByOther");
    assert_eq!(delete_prefix(&store, layout.root()).await.expect("deleted"), 1, "only the claim was left");
}

#[tokio::test]
async fn real_servers_keep_what_was_signed_and_it_is_found_out_without_a_trace() {
    let _shared = MEMORY.read().await;
    let (seaweed, minio) = (seaweed(), super::stores::minio());
    let layout = Layout::new("limits").expect("valid");
    for store in [s3(&seaweed), store(super::minio_options(&minio))] {
        let signer = store.signer().expect("it signs");
        // Twice: what is left of a probe that was killed does not mislead the next one.
        for _ in 0..2 {
            let found = limits(&store, signer, &layout, "cluster-a", None).await.expect("probed");
            println!("{}: {found:?}", store.location());
            let Limits { length, checksum, once, attachment, parts, any_origin: _ } = found;
            assert!(length && checksum && once && attachment && parts, "{found:?}");
        }
        assert_eq!(delete_prefix(&store, layout.root()).await.expect("listed"), 0, "nothing is left");
    }
}

#[tokio::test]
async fn signed_requests_that_a_store_does_not_honour_are_an_error() {
    let _shared = MEMORY.read().await;
    let server = seaweed();
    let layout = Layout::new("limits-refused").expect("valid");
    let (ours, reader) = (
        s3(&server),
        store(S3Options {
            keys: Some(Keys::new(&*server.reader_access_key, &*server.reader_secret_key)),
            ..s3_options(&server)
        }),
    );
    let signer = reader.signer().expect("it signs");
    let error = limits(&ours, signer, &layout, "cluster-a", None).await.expect_err("it may only read");
    assert_eq!((error.reason(), error.retry_class()), ("PermissionDenied", RetryClass::Configuration));
    assert!(error.to_string().starts_with("signing failed: "), "{error}");
    assert!(!error.to_string().contains("Signature"), "{error}");
}
