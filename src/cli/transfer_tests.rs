//! Uploads and downloads against a gateway and a store on loopback ports, with the faults of a bad line.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Request, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::task::AbortOnDropHandle;

use super::begun::Begun;
use super::download::{DownloadError, Outcome, to_file};
use super::gateway::Gateway;
use super::meter::Meter;
use super::upload::{UploadError, upload};
use asynctask_contract::people::{FileView, UploadRequest};

const TOKEN: &str = "token-canary";
const UPLOADS: &str = "/api/v1/namespaces/ns/uploads";
const SIGNATURE: &str = "X-Amz-Signature=canary";

/// What the line does to one answer of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Half of the bytes, then nothing.
    Cut,
    /// The URL has expired.
    Expired,
    /// The range is ignored.
    Whole,
    /// Busy.
    Busy,
    /// Written already.
    Taken,
    /// One byte is another.
    Altered,
}

/// One request as it arrived.
#[derive(Clone, Debug)]
struct Seen {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Default)]
struct World {
    content: Vec<u8>,
    faults: VecDeque<Fault>,
    seen: Vec<Seen>,
    part_size: Option<u64>,
    /// The gateway gives out no URL of a part.
    signs_no_part: bool,
    /// What the gateway says of an upload that was begun earlier.
    view: Option<Value>,
    relative: bool,
    address: Option<SocketAddr>,
}

type Shared = Arc<Mutex<World>>;

struct Bench {
    world: Shared,
    gateway: Gateway,
    dir: tempfile::TempDir,
    _server: AbortOnDropHandle<()>,
}

impl Bench {
    async fn new(content: &[u8], faults: &[Fault]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let world = Shared::new(Mutex::new(World {
            content: content.to_vec(),
            faults: faults.iter().copied().collect(),
            address: Some(address),
            ..World::default()
        }));
        let app = Router::new().fallback(answer).with_state(Arc::clone(&world));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.expect("served") });
        let gateway = Gateway::loopback(address, TOKEN);
        Self { world, gateway, dir: tempfile::tempdir().expect("a folder"), _server: AbortOnDropHandle::new(server) }
    }

    fn with(self, change: impl FnOnce(&mut World)) -> Self {
        change(&mut self.world.lock().expect("unpoisoned"));
        self
    }

    fn seen(&self, path: &str) -> Vec<Seen> {
        let world = self.world.lock().expect("unpoisoned");
        world.seen.iter().filter(|s| s.uri.path().starts_with(path)).cloned().collect()
    }

    /// What was sent to the store, in the order of the keys.
    fn stored(&self) -> Vec<String> {
        let mut paths: Vec<_> = self.seen("/store").iter().map(|seen| seen.uri.path().to_owned()).collect();
        paths.sort();
        paths
    }

    fn begun(&self) -> usize {
        self.seen(UPLOADS).iter().filter(|seen| seen.uri.path() == UPLOADS).count()
    }

    fn view(&self) -> FileView {
        let world = self.world.lock().expect("unpoisoned");
        FileView {
            path: "r/a.csv".into(),
            size: world.content.len() as u64,
            sha256: hex::encode(Sha256::digest(&world.content)),
            media_type: None,
            number: None,
            step: None,
        }
    }

    async fn download(&self, place: &Path, force: bool) -> Result<Outcome, DownloadError> {
        let link = self.gateway.path("ns", &["tasks", "t", "outputs", "o", "files", "0", "download"]);
        to_file(&self.gateway, link, &self.view(), place, force, &Meter::hidden()).await
    }

    async fn upload(&self) -> Result<String, UploadError> {
        let content = self.world.lock().expect("unpoisoned").content.clone();
        let file = self.dir.path().join("input");
        std::fs::write(&file, &content).expect("written");
        let request = UploadRequest {
            definition: "d".into(),
            input: "archive".into(),
            size: content.len() as u64,
            sha256: hex::encode(Sha256::digest(&content)),
            media_type: None,
        };
        let begun = Begun::inside(&self.dir.path().join("state"), "ns", &request).expect("a folder");
        upload(&self.gateway, "ns", &request, &file, &Arc::new(Meter::hidden()), begun).await
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).expect("readable");
        let mut names: Vec<_> =
            entries.map(|e| e.expect("an entry").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }
}

async fn answer(State(world): State<Shared>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 24).await.unwrap_or_default();
    let mut world = world.lock().expect("unpoisoned");
    let seen = Seen { method: parts.method, uri: parts.uri, headers: parts.headers, body };
    world.seen.push(seen.clone());
    let path = seen.uri.path().to_owned();
    if path.starts_with("/store") || path.ends_with("/content") {
        store(&mut world, &seen)
    } else if path.ends_with("/download") {
        let request = target(&world, "GET", "/store/object");
        let sha256 = hex::encode(Sha256::digest(&world.content));
        let file = json!({"path": "r/a.csv", "size": world.content.len(), "sha256": sha256});
        axum::Json(json!({"request": request, "file": file})).into_response()
    } else if path.ends_with("/uploads") {
        let plan = match world.part_size {
            Some(size) => json!({"kind": "Multipart", "uploadId": "m", "partSize": size}),
            None => json!({"kind": "Single", "request": target(&world, "PUT", "/store/object")}),
        };
        axum::Json(json!({"id": "7f3c", "plan": plan})).into_response()
    } else if path.ends_with("/uploads/7f3c") {
        match &world.view {
            Some(view) => axum::Json(view.clone()).into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        }
    } else if path.ends_with("/parts") && world.signs_no_part {
        StatusCode::FORBIDDEN.into_response()
    } else if path.ends_with("/parts") {
        let asked: Value = serde_json::from_slice(&seen.body).expect("JSON");
        let number = &asked["parts"][0]["number"];
        axum::Json(json!({"requests": [target(&world, "PUT", &format!("/store/part/{number}"))]})).into_response()
    } else {
        StatusCode::NO_CONTENT.into_response()
    }
}

fn target(world: &World, method: &str, path: &str) -> Value {
    let address = world.address.expect("known");
    let url = if world.relative { "/api/v1/content".to_owned() } else { format!("http://{address}{path}?{SIGNATURE}") };
    json!({"method": method, "url": url, "headers": {"x-signed": "as-said"}})
}

fn store(world: &mut World, seen: &Seen) -> Response {
    let fault = world.faults.pop_front();
    match fault {
        Some(Fault::Expired) => return StatusCode::FORBIDDEN.into_response(),
        Some(Fault::Busy) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Some(Fault::Taken) => return StatusCode::PRECONDITION_FAILED.into_response(),
        Some(Fault::Cut | Fault::Whole | Fault::Altered) | None => {}
    }
    if seen.method == Method::PUT {
        return ([("etag", format!("\"{}\"", seen.uri.path()))], StatusCode::OK).into_response();
    }
    let whole = world.content.len();
    let range = seen
        .headers
        .get("range")
        .and_then(|r| r.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let from: usize = range.filter(|_| fault != Some(Fault::Whole)).unwrap_or(0);
    let mut bytes = world.content[from..].to_vec();
    if fault == Some(Fault::Altered) {
        bytes[0] ^= 1;
    }
    let length = bytes.len();
    let mut chunks: Vec<Result<Bytes, std::io::Error>> = vec![Ok(bytes.into())];
    if fault == Some(Fault::Cut) {
        let half = chunks[0].as_ref().expect("bytes").slice(..length / 2);
        chunks = vec![Ok(half), Err(std::io::Error::other("cut"))];
    }
    // The server sends what it has whenever its body makes it wait.
    let body = Body::from_stream(stream::iter(chunks).then(async |chunk| {
        tokio::task::yield_now().await;
        chunk
    }));
    let status = if from > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let range = format!("bytes {from}-{}/{whole}", whole - 1);
    (status, [("content-length", length.to_string()), ("content-range", range)], body).into_response()
}

fn ranges(seen: &[Seen]) -> Vec<Option<String>> {
    seen.iter().map(|s| s.headers.get("range").map(|r| r.to_str().expect("ascii").to_owned())).collect()
}

#[tokio::test]
async fn a_download_goes_on_where_the_line_broke_with_a_new_ticket() {
    let content: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let bench = Bench::new(&content, &[Fault::Cut, Fault::Expired]).await;
    let place = bench.dir.path().join("a.csv");
    assert_eq!(bench.download(&place, false).await.expect("fetched"), Outcome::Written);
    assert_eq!(std::fs::read(&place).expect("there"), content);
    assert_eq!(bench.files(), ["a.csv"], "no partial file is left");
    let ranges = ranges(&bench.seen("/store"));
    assert_eq!(ranges.len(), 3);
    assert_eq!((ranges[0].as_deref(), &ranges[1]), (None, &ranges[2]));
    assert!(ranges[2].is_some());
    assert_eq!(bench.seen("/api/v1/namespaces/ns/tasks/t/outputs/o/files/0/download").len(), 3);
}

#[tokio::test]
async fn a_partial_file_of_an_earlier_command_is_taken_up_even_when_ranges_are_ignored() {
    for (faults, asked) in [(vec![], "bytes=4-"), (vec![Fault::Whole], "bytes=4-")] {
        let bench = Bench::new(b"0123456789", &faults).await;
        let place = bench.dir.path().join("a.csv");
        let part = bench.dir.path().join(format!("a.csv.{}.part", &bench.view().sha256[..12]));
        std::fs::write(&part, b"0123").expect("written");
        bench.download(&place, false).await.expect("fetched");
        assert_eq!(std::fs::read(&place).expect("there"), b"0123456789");
        assert_eq!(ranges(&bench.seen("/store")), [Some(asked.to_owned())]);
    }
}

#[tokio::test]
async fn bytes_that_do_not_match_are_kept_apart_and_told() {
    let bench = Bench::new(b"0123456789", &[Fault::Altered]).await;
    let place = bench.dir.path().join("a.csv");
    let error = bench.download(&place, false).await.expect_err("altered");
    assert!(matches!(error, DownloadError::Mismatch { .. }), "{error}");
    let files = bench.files();
    assert_eq!(files.len(), 1);
    assert!(files[0].ends_with(".part") && error.to_string().contains(&files[0]), "{error}");
}

#[tokio::test]
async fn a_file_that_exists_is_replaced_only_by_force() {
    let bench = Bench::new(b"new", &[]).await;
    let place = bench.dir.path().join("a.csv");
    std::fs::write(&place, b"old").expect("written");
    assert!(matches!(bench.download(&place, false).await, Err(DownloadError::Exists(_))));
    assert_eq!(std::fs::read(&place).expect("there"), b"old");
    assert_eq!(bench.download(&place, true).await.expect("forced"), Outcome::Written);
    assert_eq!(std::fs::read(&place).expect("there"), b"new");
    assert_eq!(bench.download(&place, false).await.expect("the same"), Outcome::Unchanged);
    assert_eq!(bench.seen("/store").len(), 1, "neither the refusal nor the same file costs a byte");
}

#[tokio::test]
async fn the_token_goes_to_the_gateway_and_never_to_a_store() {
    for relative in [false, true] {
        let bench = Bench::new(b"abc", &[]).await.with(|w| w.relative = relative);
        bench.download(&bench.dir.path().join("a"), false).await.expect("fetched");
        bench.upload().await.expect("sent");
        let token = format!("Bearer {TOKEN}");
        for seen in bench.seen("/") {
            let shown = seen.headers.get("authorization").map(|h| h.to_str().expect("ascii"));
            let expected = (!seen.uri.path().starts_with("/store")).then_some(token.as_str());
            assert_eq!(shown, expected, "{}", seen.uri);
        }
    }
}

#[tokio::test]
async fn an_upload_is_sent_again_while_the_store_is_busy() {
    let bench = Bench::new(b"hello", &[Fault::Busy]).await;
    assert_eq!(bench.upload().await.expect("sent"), "7f3c");
    let puts = bench.seen("/store");
    assert_eq!(puts.len(), 2);
    assert_eq!(
        (puts[1].body.as_ref(), &puts[1].headers["content-length"]),
        (b"hello".as_slice(), &"5".parse().expect("a value"))
    );
    assert_eq!(puts[1].headers["x-signed"], "as-said");
    assert!(!puts[1].headers.contains_key("transfer-encoding"), "a signed length is a sent length");
    assert_eq!(bench.seen("/api/v1/namespaces/ns/uploads/7f3c/complete").len(), 1);
}

#[tokio::test]
async fn a_replayed_put_that_finds_its_own_bytes_is_a_success() {
    let bench = Bench::new(b"hello", &[Fault::Busy, Fault::Taken]).await;
    assert_eq!(bench.upload().await.expect("sent"), "7f3c");
}

#[tokio::test]
async fn parts_have_their_own_checksums_and_are_completed_in_order() {
    let bench = Bench::new(b"aaaabbbbcc", &[Fault::Busy]).await.with(|w| w.part_size = Some(4));
    bench.upload().await.expect("sent");
    let mut bodies: Vec<_> = bench.seen("/store").into_iter().map(|s| (s.uri.path().to_owned(), s.body)).collect();
    bodies.sort();
    bodies.dedup();
    let expected = [("/store/part/1", "aaaa"), ("/store/part/2", "bbbb"), ("/store/part/3", "cc")];
    assert_eq!(bodies, expected.map(|(path, body)| (path.to_owned(), Bytes::from(body))));
    let complete = &bench.seen("/api/v1/namespaces/ns/uploads/7f3c/complete")[0];
    let told: Value = serde_json::from_slice(&complete.body).expect("JSON");
    let parts: Vec<_> = ["aaaa", "bbbb", "cc"]
        .iter()
        .zip(1..)
        .map(|(body, n)| {
            let sha256 = hex::encode(Sha256::digest(body));
            json!({"number": n, "etag": format!("\"/store/part/{n}\""), "sha256": sha256})
        })
        .collect();
    assert_eq!(told, json!({"uploadId": "m", "parts": parts}));
}

/// An upload in parts that is broken off before a part is sent, so that none of it comes late; then the gateway says this
/// of it.
async fn broken_off(view: Option<Value>) -> Bench {
    let bench = Bench::new(b"aaaabbbbcc", &[]).await.with(|w| (w.part_size, w.signs_no_part) = (Some(4), true));
    bench.upload().await.expect_err("no part can be sent");
    bench.with(|w| {
        (w.view, w.signs_no_part) = (view, false);
        w.seen.clear();
    })
}

fn begun(stored: bool, parts: &Value) -> Option<Value> {
    let plan = json!({"kind": "Multipart", "uploadId": "m", "partSize": 4});
    Some(json!({"upload": {"id": "7f3c", "plan": plan}, "stored": stored, "parts": parts}))
}

#[tokio::test]
async fn a_command_goes_on_with_the_upload_of_one_that_was_broken_off() {
    let parts = json!([{"number": 1, "size": 4, "etag": "one"}, {"number": 3, "size": 1, "etag": "short"}]);
    let bench = broken_off(begun(false, &parts)).await;
    bench.upload().await.expect("sent");

    assert_eq!(bench.stored(), ["/store/part/2", "/store/part/3"], "what is stored whole is not sent");
    let told: Value = serde_json::from_slice(&bench.seen(&format!("{UPLOADS}/7f3c/complete"))[0].body).expect("JSON");
    let etags: Vec<_> = told["parts"].as_array().expect("parts").iter().map(|part| &part["etag"]).collect();
    assert_eq!(etags, ["one", "\"/store/part/2\"", "\"/store/part/3\""]);
    assert_eq!(bench.begun(), 0);

    bench.upload().await.expect("sent");
    assert_eq!(bench.begun(), 1, "what is complete is not gone on with");
}

#[tokio::test]
async fn an_upload_that_was_given_up_is_begun_anew_and_one_that_is_stored_is_completed() {
    let given_up = broken_off(None).await;
    given_up.upload().await.expect("sent");
    assert_eq!((given_up.begun(), given_up.stored().len()), (1, 3));

    let stored = broken_off(begun(true, &json!([]))).await;
    stored.upload().await.expect("completed");
    let completed = stored.seen(&format!("{UPLOADS}/7f3c/complete"));
    assert_eq!((stored.begun(), completed.len()), (0, 1));
    assert_eq!(completed[0].body.as_ref(), b"{}");
}

#[tokio::test]
async fn no_error_shows_a_signed_url_or_a_token() {
    let refused = Bench::new(b"hello", &[Fault::Expired]).await;
    let mut told = vec![refused.upload().await.expect_err("refused").to_string()];
    let gone = Bench::new(b"hello", &[]).await.with(|w| {
        // A port nobody listens on any more.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        w.address = listener.local_addr().ok();
    });
    told.push(gone.upload().await.expect_err("nobody there").to_string());
    told.push(gone.download(&gone.dir.path().join("a"), false).await.expect_err("nobody there").to_string());
    for text in told {
        assert!(!text.contains("canary") && !text.contains("/store/"), "{text}");
        assert!(text.contains("the store"), "{text}");
    }
}
