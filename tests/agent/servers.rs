//! The other side: `/agent/v1` as the contract says, and a store that insists on what was signed.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use asynctask_contract::wire::{
    CANCELED, NewFile, PartsReply, PartsRequest, Segment, Segments, SignedRequest, UploadPlan,
};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::server::TlsStream;

use crate::world::{Call, Fault, Object, Shared, get, sign};

/// Objects above this are not kept, only hashed.
const KEPT: usize = 1 << 20;

pub(crate) struct Servers {
    pub(crate) gateway: String,
    pub(crate) authority: String,
}

struct Secure {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

impl axum::serve::Listener for Secure {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, from) = axum::serve::Listener::accept(&mut self.tcp).await;
            // A client that does not trust us goes away here.
            if let Ok(stream) = self.tls.accept(stream).await {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// A new authority's certificate and an acceptor with a certificate of it for 127.0.0.1.
pub(crate) fn authority() -> (String, TlsAcceptor) {
    let mut root = CertificateParams::new(vec![]).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate().unwrap();
    let pem = root.self_signed(&root_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    (pem, TlsAcceptor::from(Arc::new(config)))
}

pub(crate) async fn start(shared: &Shared) -> Servers {
    let (authority, tls) = authority();
    let bind = || TcpListener::bind("127.0.0.1:0");
    let (gateway, plain, secure) = (bind().await.unwrap(), bind().await.unwrap(), bind().await.unwrap());
    let url = |scheme: &str, listener: &TcpListener| format!("{scheme}://{}", listener.local_addr().unwrap());
    let servers = Servers { gateway: url("https", &gateway), authority };
    {
        let mut state = shared.lock();
        state.plain = url("http", &plain);
        state.secure = url("https", &secure);
    }
    let store = {
        let shared = shared.clone();
        Router::new().fallback(move |request: Request| store(shared.clone(), request, true))
    };
    let routes = {
        let shared = shared.clone();
        Router::new().fallback(move |request: Request| gate(shared.clone(), request))
    };
    tokio::spawn(axum::serve(plain, store.clone()).into_future());
    tokio::spawn(axum::serve(Secure { tcp: secure, tls: tls.clone() }, store).into_future());
    tokio::spawn(axum::serve(Secure { tcp: gateway, tls }, routes).into_future());
    servers
}

/// What the test planned for this call.
async fn fault(shared: &Shared, what: &str) -> Option<Fault> {
    let fault = {
        let mut state = shared.lock();
        let at = state.faults.iter().position(|(path, _)| what.contains(path.as_str()));
        at.map(|at| state.faults.remove(at).1)
    };
    match fault {
        Some(Fault::Hold(release)) => {
            release.notified().await;
            None
        }
        other => other,
    }
}

fn problem(status: u16, detail: &str) -> Response {
    titled("Refused", status, detail)
}

fn titled(title: &str, status: u16, detail: &str) -> Response {
    let body = serde_json::json!({"title": title, "status": status, "detail": detail}).to_string();
    (StatusCode::from_u16(status).unwrap(), [("content-type", "application/problem+json")], body).into_response()
}

fn note(shared: &Shared, what: &str, headers: &HeaderMap, body: serde_json::Value) {
    let range = headers.get("range").map(|range| range.to_str().unwrap().to_owned());
    shared.lock().calls.push(Call { what: what.to_owned(), body, range });
    shared.touch();
}

async fn gate(shared: Shared, request: Request) -> Response {
    let asked = request.uri().path_and_query().map_or("/", |asked| asked.as_str());
    let what = format!("{} {asked}", request.method());
    let token = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if token != Some(&format!("Bearer {}", shared.lock().token)) {
        return problem(401, "the token is not valid any more");
    }
    if request.uri().path().starts_with("/agent/v1/bytes/") {
        return store(shared, request, false).await;
    }
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, 1 << 20).await.unwrap();
    let body = serde_json::from_slice(&bytes).unwrap_or_default();
    note(&shared, &what, &parts.headers, body);
    let planned = fault(&shared, &what).await;
    match planned {
        Some(Fault::Status(status)) => return problem(status, "as the test wishes"),
        Some(Fault::Refused(status, word)) => return titled(word, status, "as the test wishes"),
        Some(Fault::Redirect) => return redirect(),
        Some(Fault::Canceled) => return titled(CANCELED, 409, "the run is to be cancelled"),
        _ => {}
    }
    let answer = answer(&shared, &what, &bytes);
    match planned {
        Some(Fault::DoneBut(status)) => problem(status, "the answer is lost"),
        _ => answer,
    }
}

fn answer(shared: &Shared, what: &str, body: &Bytes) -> Response {
    let json = |value: String| ([("content-type", "application/json")], value).into_response();
    if let Some(asked) = what.strip_prefix("GET /agent/v1/segments?") {
        return json(serde_json::to_string(&list(shared, asked)).unwrap());
    }
    match what {
        "GET /agent/v1/assignment" => {
            let mut state = shared.lock();
            let assignment = match state.assignments.len() {
                1 => state.assignments[0].clone(),
                _ => state.assignments.pop_front().unwrap(),
            };
            json(serde_json::to_string(&assignment).unwrap())
        }
        "POST /agent/v1/files" => {
            json(serde_json::to_string(&plan(shared, serde_json::from_slice(body).unwrap())).unwrap())
        }
        "POST /agent/v1/files/parts" => {
            let ask: PartsRequest = serde_json::from_slice(body).unwrap();
            let file = ask.file.unwrap();
            let key = |number| format!("parts/{}/{}/{number}", file.output, file.seq);
            let requests =
                ask.parts.iter().map(|part| put(shared, &key(part.number), part.size, &part.sha256, false)).collect();
            json(serde_json::to_string(&PartsReply { requests }).unwrap())
        }
        "POST /agent/v1/files/complete"
        | "POST /agent/v1/stage"
        | "POST /agent/v1/progress"
        | "POST /agent/v1/commit"
        | "POST /agent/v1/failure" => StatusCode::NO_CONTENT.into_response(),
        _ => problem(404, "no such route"),
    }
}

/// A page of the segments of an output.
fn list(shared: &Shared, asked: &str) -> Segments {
    let (output, from) = asked.strip_prefix("output=").and_then(|asked| asked.split_once("&from=")).unwrap();
    let state = shared.lock();
    let (keys, from) = (&state.segments[output], from.parse().unwrap());
    let to = keys.len().min(from + state.segments_a_page);
    let segments = keys[from..to].iter().map(|key| {
        let Object { size, sha256, .. } = &state.objects[key];
        Segment { size: *size, sha256: sha256.clone(), source: get(&state.plain, key) }
    });
    Segments { segments: segments.collect(), next: (to < keys.len()).then_some(to as u32) }
}

fn plan(shared: &Shared, file: NewFile) -> UploadPlan {
    let (from, part_size) = {
        let state = shared.lock();
        (state.multipart_from, state.part_size)
    };
    if file.size >= from {
        return UploadPlan::Multipart { upload_id: "upload-1".into(), part_size };
    }
    let once = file.output != "log";
    UploadPlan::Single { request: put(shared, &format!("{}/{}", file.output, file.seq), file.size, &file.sha256, once) }
}

fn put(shared: &Shared, key: &str, size: u64, sha256: &str, once: bool) -> SignedRequest {
    let state = shared.lock();
    let base = if state.proxied { "" } else { &state.plain };
    let mut headers = BTreeMap::from([
        ("content-length".to_owned(), size.to_string()),
        ("x-amz-checksum-sha256".to_owned(), sha256.to_owned()),
    ]);
    if once {
        headers.insert("if-none-match".to_owned(), "*".to_owned());
    }
    SignedRequest { method: "PUT".into(), url: sign(base, key), headers }
}

fn redirect() -> Response {
    (StatusCode::TEMPORARY_REDIRECT, [("location", "/elsewhere")]).into_response()
}

/// A store holds what is signed to the letter, and must never see the pod's token.
async fn store(shared: Shared, request: Request, foreign: bool) -> Response {
    let path = request.uri().path().to_owned();
    let key = path.trim_start_matches("/agent/v1/bytes").trim_start_matches('/').to_owned();
    let what = format!("{} store {key}", request.method());
    if foreign && request.headers().contains_key("authorization") {
        shared.lock().crimes.push(format!("{what} carried the token"));
    }
    if key.starts_with("elsewhere") {
        shared.lock().crimes.push("a redirect was followed".into());
    }
    let (parts, body) = request.into_parts();
    note(&shared, &what, &parts.headers, serde_json::Value::Null);
    let planned = fault(&shared, &what).await;
    match planned {
        Some(Fault::Redirect) => return redirect(),
        Some(Fault::Status(status)) => {
            let secret =
                format!("<Error><Code>AsPlanned</Code><StringToSign>{path}?{:?}</StringToSign></Error>", parts.uri);
            return (StatusCode::from_u16(status).unwrap(), secret).into_response();
        }
        _ => {}
    }
    if parts.method == "GET" {
        return read(&shared, &key, &parts.headers, matches!(planned, Some(Fault::Half)));
    }
    let answer = write(&shared, &key, &parts.headers, body).await;
    match planned {
        Some(Fault::DoneBut(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        _ => answer,
    }
}

fn read(shared: &Shared, key: &str, headers: &HeaderMap, half: bool) -> Response {
    let state = shared.lock();
    let Some(object) = state.objects.get(key) else {
        return (StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>").into_response();
    };
    let from: usize = match headers.get("range").and_then(|range| range.to_str().ok()) {
        Some(range) => range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap(),
        None => 0,
    };
    let bytes = Bytes::copy_from_slice(&object.bytes[from..]);
    let answer = Response::builder().header("content-length", bytes.len());
    let answer = match from {
        0 => answer,
        _ => answer
            .status(StatusCode::PARTIAL_CONTENT)
            .header("content-range", format!("bytes {from}-{}/{}", object.size - 1, object.size)),
    };
    let body = if half {
        let pieces = [Ok(bytes.slice(..bytes.len() / 2)), Err(io::Error::other("the cable was cut"))];
        Body::from_stream(futures::stream::iter(pieces))
    } else {
        Body::from(bytes)
    };
    answer.body(body).unwrap()
}

async fn write(shared: &Shared, key: &str, headers: &HeaderMap, body: Body) -> Response {
    if headers.contains_key("if-none-match") && shared.lock().objects.contains_key(key) {
        return StatusCode::PRECONDITION_FAILED.into_response();
    }
    let mut hash = Sha256::new();
    let mut object = Object { size: 0, sha256: String::new(), bytes: vec![] };
    let mut body = body.into_data_stream();
    while let Some(chunk) = body.next().await {
        let Ok(chunk) = chunk else { return StatusCode::BAD_REQUEST.into_response() };
        hash.update(&chunk);
        object.size += chunk.len() as u64;
        if object.bytes.len() < KEPT {
            object.bytes.extend_from_slice(&chunk);
        }
    }
    object.sha256 = hex::encode(hash.finalize());
    if headers.get("x-amz-checksum-sha256").and_then(|sum| sum.to_str().ok()) != Some(&object.sha256) {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let etag = format!("\"{}\"", &object.sha256[..8]);
    shared.lock().objects.insert(key.to_owned(), object);
    shared.touch();
    (StatusCode::OK, [("etag", etag)]).into_response()
}
