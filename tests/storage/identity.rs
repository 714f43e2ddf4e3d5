//! A store without keys of its own: whom the pod is taken for. MinIO's security token service is the one that is asked;
//! it takes the tokens of an issuer of ours, as AWS takes those of a cluster.
//!
//! The SDK reads the environment of its process, so each test runs itself again in a process with what a pod would have.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use asynctask_operator::storage::limits::limits;
use asynctask_operator::storage::probe::probe;
use asynctask_operator::storage::s3::{S3Options, S3Store};
use asynctask_operator::storage::{Layout, ObjectStore, RetryClass, StoreError};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::stores::{BUCKET, LOOPBACK, Server, minio_with};

/// Set where a test runs in its own process: where the store is.
const STORE: &str = "IDENTITY_TEST_STORE";
/// Of our issuer: who its tokens are for, and what they are signed with.
const AUDIENCE: &str = "sts.amazonaws.com";
const SIGNED_WITH: &str = "CANARY-of-the-issuer";
const TOKEN_TIME: i64 = 3600;

/// Serves a router for as long as the test runs; its address.
async fn serve(router: axum::Router) -> String {
    let listener = tokio::net::TcpListener::bind((LOOPBACK, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await.expect("served") });
    format!("http://{address}")
}

/// What a service account's token looks like to the service.
fn token(signed_with: &str) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let now = Timestamp::now().as_second();
    let head = part(json!({"alg": "HS256", "typ": "JWT", "kid": AUDIENCE}));
    let claims = part(json!({
        "sub": "system:serviceaccount:asynctask-system:asynctask-gateway", "aud": AUDIENCE, "azp": AUDIENCE,
        "iat": now, "exp": now + TOKEN_TIME, "policy": "readwrite",
    }));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, signed_with.as_bytes());
    let signature = ring::hmac::sign(&key, format!("{head}.{claims}").as_bytes());
    format!("{head}.{claims}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The service in front of `server`: MinIO does not name the role that was taken, and the SDK wants to know.
async fn sts(server: &Server) -> String {
    let to = server.endpoint.clone();
    let answer = |form: String| async move {
        let asked = client().post(&to).header("content-type", "application/x-www-form-urlencoded").body(form);
        let answer = asked.send().await.expect("it answers");
        let (status, text) = (answer.status(), answer.text().await.expect("a text"));
        let role = "<Arn>arn:aws:sts::123456789012:assumed-role/tasks/pod</Arn>";
        (status, text.replace("<Arn></Arn>", role))
    };
    serve(axum::Router::new().route("/", post(answer))).await
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

/// MinIO that trusts our issuer.
async fn trusting() -> Server {
    let keys = get(|| async { axum::Json(json!({"keys": []})) });
    let issuer = serve(axum::Router::new().route("/keys", keys)).await;
    let document = json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")});
    let discovery = get(|| async move { axum::Json(document) });
    let url = serve(axum::Router::new().route("/.well-known/openid-configuration", discovery)).await;
    let url = format!("{url}/.well-known/openid-configuration");
    let started = tokio::task::spawn_blocking(move || {
        minio_with(&[
            ("MINIO_IDENTITY_OPENID_CONFIG_URL", &url),
            ("MINIO_IDENTITY_OPENID_CLIENT_ID", AUDIENCE),
            ("MINIO_IDENTITY_OPENID_CLIENT_SECRET", SIGNED_WITH),
            ("MINIO_IDENTITY_OPENID_CLAIM_NAME", "policy"),
        ])
    });
    let server = started.await.expect("started");
    let begun = Instant::now();
    // It answers before it has read who it is to trust, and until then wants role names of its own kind.
    while !trusts(&server).await {
        assert!(begun.elapsed() < Duration::from_secs(60), "it trusts nobody");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server
}

async fn trusts(server: &Server) -> bool {
    let (token, role) = (token(SIGNED_WITH), "arn:aws:iam::123456789012:role/tasks");
    let form = format!(
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleSessionName=pod&RoleArn={role}&WebIdentityToken={token}"
    );
    let asked = client().post(&server.endpoint).header("content-type", "application/x-www-form-urlencoded");
    asked.body(form).send().await.is_ok_and(|answer| answer.status().is_success())
}

/// The store, in the process that is to open it.
fn inside() -> Option<S3Store> {
    let endpoint = std::env::var(STORE).ok()?;
    let options = S3Options {
        endpoint: Some(endpoint),
        public_endpoint: None,
        region: "us-east-1".to_owned(),
        bucket: BUCKET.to_owned(),
        path_style: true,
        keys: None,
        ca_bundle: None,
        encryption: None,
        signs: true,
    };
    Some(S3Store::new(options).expect("valid options"))
}

/// Runs a test of this file in a process with these variables and no other of the kind.
async fn again(test: &'static str, server: &Server, variables: Vec<(&'static str, String)>) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", &format!("identity::{test}"), "--nocapture"]).env(STORE, &server.endpoint);
    // No machine of a test is a node of AWS.
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", "/nonexistent").envs(variables);
    let done = tokio::task::spawn_blocking(move || command.output().expect("run")).await.expect("joined");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
}

/// All that an OutputStore is asked for at first, signed requests included.
async fn works(store: &S3Store) {
    let layout = Layout::new("identity").expect("valid");
    probe(store, &layout, "cluster-a").await.expect("usable");
    let signer = store.signer().expect("it signs");
    let found = limits(store, signer, &layout, "cluster-a", None).await.expect("what was signed is honoured");
    assert!(found.length && found.checksum && found.parts, "{found:?}");
}

fn file(content: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("token");
    std::fs::write(&path, content).expect("written");
    let path = path.to_string_lossy().into_owned();
    (folder, path)
}

async fn web_identity(server: &Server, token_file: &str) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token_file.to_owned()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/tasks".to_owned()),
        ("AWS_ENDPOINT_URL_STS", sts(server).await),
    ]
}

#[tokio::test]
async fn a_service_accounts_token_is_enough() {
    if let Some(store) = inside() {
        return works(&store).await;
    }
    let server = trusting().await;
    let (_folder, token) = file(&token(SIGNED_WITH));
    again("a_service_accounts_token_is_enough", &server, web_identity(&server, &token).await).await;
}

#[tokio::test]
async fn a_token_of_another_issuer_is_refused_without_being_told() {
    if let Some(store) = inside() {
        let error = store.head("key").await.expect_err("not let in");
        let token = std::fs::read_to_string(std::env::var("AWS_WEB_IDENTITY_TOKEN_FILE").expect("set")).expect("read");
        println!("{error}");
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains("the service that gives this pod its keys"), "{error}");
        let parts: Vec<&str> = token.split('.').collect();
        assert!(parts.iter().all(|part| !format!("{error:?}").contains(part)), "{error:?}");
        return;
    }
    let server = trusting().await;
    let (_folder, token) = file(&token("another key"));
    again("a_token_of_another_issuer_is_refused_without_being_told", &server, web_identity(&server, &token).await)
        .await;
}

#[tokio::test]
async fn a_pod_that_is_nobody_is_told_what_is_missing() {
    if let Some(store) = inside() {
        let error = store.head("key").await.expect_err("nobody");
        println!("{error}");
        assert_eq!((error.reason(), error.retry_class()), ("InvalidConfiguration", RetryClass::Configuration));
        assert!(error.to_string().contains("no Secret with keys, and the pod has no identity"), "{error}");
        return;
    }
    let server = trusting().await;
    again("a_pod_that_is_nobody_is_told_what_is_missing", &server, Vec::new()).await;
}

/// Gives credentials to pods, as the agent of EKS Pod Identity does on each node.
struct NodeAgent {
    sts: String,
    given: AtomicUsize,
}

/// What pods of a node show to the agent.
const POD_TOKEN: &str = "CANARY-of-the-pod";
/// Longer than the time before the end of credentials at which the SDK asks for new ones.
const SHORT: i64 = 12;

async fn credentials(State(agent): State<Arc<NodeAgent>>, headers: HeaderMap) -> Result<axum::Json<Value>, StatusCode> {
    if headers.get("authorization").is_none_or(|token| token != POD_TOKEN) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    agent.given.fetch_add(1, Ordering::Relaxed);
    let form = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleSessionName", "pod"),
        ("WebIdentityToken", &token(SIGNED_WITH)),
    ];
    let form: Vec<String> = form.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let asked = client().post(&agent.sts).header("content-type", "application/x-www-form-urlencoded");
    let answer = asked.body(form.join("&")).send().await.expect("the service answers");
    let text = answer.text().await.expect("a text");
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {text}"));
        rest.split('<').next().unwrap_or_default().to_owned()
    };
    let end = Timestamp::from_second(Timestamp::now().as_second() + SHORT).expect("in range");
    Ok(axum::Json(json!({
        "AccessKeyId": element("AccessKeyId"), "SecretAccessKey": element("SecretAccessKey"),
        "Token": element("SessionToken"), "Expiration": end.to_string(),
    })))
}

#[tokio::test]
async fn a_pod_identity_is_enough_and_its_keys_are_renewed() {
    if let Some(store) = inside() {
        works(&store).await;
        // Until the first keys are about to end and longer.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(SHORT.unsigned_abs() / 2) {
            store.head("key").await.expect_err("there is none");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        return works(&store).await;
    }
    let server = trusting().await;
    let agent = Arc::new(NodeAgent { sts: server.endpoint.clone(), given: AtomicUsize::new(0) });
    let router = axum::Router::new().route("/v1/credentials", get(credentials)).with_state(Arc::clone(&agent));
    let url = serve(router).await;
    let (_folder, pod_token) = file(POD_TOKEN);
    let variables = vec![
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{url}/v1/credentials")),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", pod_token),
    ];
    again("a_pod_identity_is_enough_and_its_keys_are_renewed", &server, variables).await;
    let given = agent.given.load(Ordering::Relaxed);
    println!("keys were given {given} times");
    assert!(given >= 2, "asked {given} times");
}
