//! Signed requests, sent the way a pod or a browser sends them: with nothing but what was handed out.

use std::time::Duration;

use asynctask_operator::contract::wire::{SentPart, SignedRequest};
use asynctask_operator::storage::s3::{Encryption, S3Options, S3Store};
use asynctask_operator::storage::{
    Audience, Digest, GetShape, ObjectStore, PartLimits, PutLimits, PutMode, Signer, StoreError,
};
use bytes::Bytes;

use super::conformance::Room;
use super::content::{expected_large, large};
use super::streams::MEMORY;

const TTL: Duration = Duration::from_secs(60);
const CONTENT: &[u8] = b"course;grade\nDemo;A\n";

/// Status and body of an answer.
struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// Status and the beginning of the body.
    fn shown(&self) -> String {
        format!("{} {:?}", self.status, String::from_utf8_lossy(&self.body[..self.body.len().min(500)]))
    }
}

fn http() -> reqwest::Client {
    // Fails when another test was first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client")
}

async fn send(request: &SignedRequest, body: &[u8]) -> Answer {
    send_with(request, body, |builder| builder).await
}

async fn send_with(
    request: &SignedRequest,
    body: &[u8],
    change: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
) -> Answer {
    let method = request.method.parse().expect("a method");
    let mut builder = http().request(method, &request.url);
    for (name, value) in &request.headers {
        // The client counts for itself what it sends.
        if name != "content-length" {
            builder = builder.header(name, value);
        }
    }
    if !body.is_empty() {
        builder = builder.body(body.to_vec());
    }
    let answer = change(builder).send().await.expect("the store answers");
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Answer { status, headers, body: answer.bytes().await.expect("a body") }
}

fn limits(content: &[u8]) -> PutLimits {
    PutLimits {
        size: content.len() as u64,
        sha256: Digest::of(content),
        content_type: "text/csv".to_owned(),
        mode: PutMode::Create,
    }
}

fn attachment() -> GetShape {
    GetShape {
        content_disposition: "attachment; filename=\"note; \\\"a\\\".csv\"; filename*=UTF-8''n%C3%B6te.csv".to_owned(),
        content_type: "application/octet-stream".to_owned(),
    }
}

async fn signed_put(signer: &dyn Signer, key: &str, limits: &PutLimits) -> SignedRequest {
    signer.sign_put(key, limits, TTL, Audience::Internal).await.expect("signed")
}

pub(crate) async fn a_put_stores_once(store: &dyn ObjectStore, room: &Room) {
    let signer = store.signer().expect("this store signs");
    let key = room.key("object");
    let request = signed_put(signer, &key, &limits(CONTENT)).await;
    for header in ["content-length", "content-type", "if-none-match", "x-amz-checksum-sha256"] {
        assert!(request.headers.contains_key(header), "{header} must be sent as signed: {:?}", request.headers);
    }
    assert!(!format!("{request:?}").contains("Signature"), "{request:?}");
    assert_eq!(send(&request, CONTENT).await.status, 200);
    let meta = store.head(&key).await.expect("head");
    assert_eq!((meta.size, meta.sha256), (CONTENT.len() as u64, Some(Digest::of(CONTENT))));

    let replayed = send(&request, CONTENT).await;
    assert_eq!(replayed.status, 412, "a lost answer can be told from a refusal");
    store.delete(&[key]).await.expect("deleted");
}

pub(crate) async fn a_put_keeps_every_limit(store: &dyn ObjectStore, room: &Room) {
    let signer = store.signer().expect("this store signs");
    let key = room.key("object");
    let request = signed_put(signer, &key, &limits(CONTENT)).await;

    for dropped in ["content-type", "if-none-match", "x-amz-checksum-sha256"] {
        let mut request = request.clone();
        request.headers.remove(dropped);
        let status = send(&request, CONTENT).await.status;
        // MinIO calls a signed header that is not sent a malformed request.
        assert!(matches!(status, 400 | 403), "{status} without {dropped}");
    }
    let mut other_type = request.clone();
    other_type.headers.insert("content-type".to_owned(), "text/html".to_owned());
    assert_eq!(send(&other_type, CONTENT).await.status, 403, "another type");
    let mut other_sum = request.clone();
    let forged = b"course;grade\nDemo;B\n";
    other_sum.headers.insert("x-amz-checksum-sha256".to_owned(), Digest::of(forged).to_base64());
    assert_eq!(send(&other_sum, forged).await.status, 403, "another checksum");
    let mut other_key = request.clone();
    other_key.url = request.url.replacen("/object", "/theirs", 1);
    assert_eq!(send(&other_key, CONTENT).await.status, 403, "another key");

    assert_eq!(send(&request, b"course;grade\nDemo;A\nmore").await.status, 403, "a longer body");
    assert_eq!(send(&request, b"course").await.status, 403, "a truncated body");
    assert_eq!(send(&request, forged).await.status, 400, "an altered body of the same length");
    assert!(room.is_empty(store).await, "nothing refused was stored");
    assert_eq!(send(&request, CONTENT).await.status, 200, "and the honest one still is");
    store.delete(&[key]).await.expect("deleted");
}

pub(crate) async fn a_log_is_written_over(store: &dyn ObjectStore, room: &Room) {
    let signer = store.signer().expect("this store signs");
    let key = room.key("log");
    for content in [b"line 1\n".as_slice(), b"line 1\nline 2\n"] {
        let limits = PutLimits { mode: PutMode::Overwrite, ..limits(content) };
        assert_eq!(send(&signed_put(signer, &key, &limits).await, content).await.status, 200);
        assert_eq!(store.head(&key).await.expect("head").sha256, Some(Digest::of(content)));
    }
    store.delete(&[key]).await.expect("deleted");
}

pub(crate) async fn a_get_presents_as_signed(store: &dyn ObjectStore, room: &Room) {
    let signer = store.signer().expect("this store signs");
    let key = room.key("object");
    store.put(&key, Bytes::from_static(CONTENT), PutMode::Create).await.expect("put");
    let request = signer.sign_get(&key, &attachment(), TTL, Audience::Internal).await.expect("signed");
    assert!(request.headers.is_empty(), "a browser sends none: {:?}", request.headers);
    let answer = send(&request, b"").await;
    assert_eq!((answer.status, &answer.body[..]), (200, CONTENT));
    assert_eq!(answer.header("content-disposition"), attachment().content_disposition);
    assert_eq!(answer.header("content-type"), "application/octet-stream");

    let part = send_with(&request, b"", |builder| builder.header("range", "bytes=7-11")).await;
    assert_eq!((part.status, &part.body[..]), (206, &b"grade"[..]), "downloads can be resumed");

    let inline = SignedRequest { url: request.url.replace("=attachment", "=inline"), ..request.clone() };
    assert_ne!(inline.url, request.url);
    assert_eq!(send(&inline, b"").await.status, 403, "the shape is signed");
    let other_key = SignedRequest { url: request.url.replacen("/object", "/theirs", 1), ..request.clone() };
    assert_eq!(send(&other_key, b"").await.status, 403, "the key is signed");
    let write = SignedRequest { method: "PUT".to_owned(), ..request.clone() };
    assert_eq!(send(&write, CONTENT).await.status, 403, "the method is signed");
    store.delete(&[key]).await.expect("deleted");
}

/// Sends until the answer is 403; the wait is for the second the signature names, not for luck.
async fn until_refused(request: &SignedRequest, body: &[u8]) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let answer = send(request, body).await;
        if answer.status == 403 {
            return;
        }
        let late = tokio::time::Instant::now() >= deadline;
        assert!(!late, "still let in after its time; the server said last: {}", answer.shown());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) async fn requests_expire(store: &dyn ObjectStore, room: &Room) {
    let signer = store.signer().expect("this store signs");
    let key = room.key("object");
    store.put(&key, Bytes::from_static(CONTENT), PutMode::Create).await.expect("put");
    let short = Duration::from_secs(2);
    let get = signer.sign_get(&key, &attachment(), short, Audience::Internal).await.expect("signed");
    assert_eq!(send(&get, b"").await.status, 200);
    until_refused(&get, b"").await;
    let late = room.key("late");
    let put = signer.sign_put(&late, &limits(CONTENT), Duration::from_secs(1), Audience::Internal).await;
    // Both were signed for a time that is over once a request signed later for as long is refused.
    let put = put.expect("signed");
    let clock = signer.sign_get(&key, &attachment(), short, Audience::Internal).await.expect("signed");
    until_refused(&clock, b"").await;
    assert_eq!(send(&put, CONTENT).await.status, 403);
    assert!(matches!(store.head(&late).await, Err(StoreError::NotFound { .. })));
    assert!(signer.sign_get(&key, &attachment(), Duration::ZERO, Audience::Internal).await.is_err(), "no time at all");
    store.delete(&[key]).await.expect("deleted");
}

/// S3 wants 5 MiB in every part but the last.
fn part(number: u32) -> Vec<u8> {
    vec![u8::try_from(number).expect("few parts"); if number < 3 { 5 << 20 } else { 1000 }]
}

async fn signed_part(signer: &dyn Signer, key: &str, upload_id: &str, number: u32) -> SignedRequest {
    let content = part(number);
    let limits = PartLimits { number, size: content.len() as u64, sha256: Digest::of(&content) };
    signer.sign_part(key, upload_id, &limits, TTL, Audience::Internal).await.expect("signed")
}

async fn send_parts(signer: &dyn Signer, key: &str, upload_id: &str) -> Vec<SentPart> {
    let mut sent = Vec::new();
    for number in 1..=3 {
        let request = signed_part(signer, key, upload_id, number).await;
        let answer = send(&request, &part(number)).await;
        assert_eq!(answer.status, 200);
        let etag = answer.header("etag").to_owned();
        sent.push(SentPart { number, etag, sha256: Digest::of(&part(number)).to_string() });
    }
    sent
}

pub(crate) async fn parts_become_one_object(store: &dyn ObjectStore, room: &Room) {
    let signer = store.signer().expect("this store signs");
    let key = room.key("object");
    let upload_id = signer.start_multipart(&key, "text/csv").await.expect("started");
    let sent = send_parts(signer, &key, &upload_id).await;
    assert!(room.is_empty(store).await, "parts are no object yet");
    let stored = signer.stored_parts(&key, &upload_id).await.expect("listed");
    let of = |sent: &SentPart| (sent.number, part(sent.number).len() as u64, sent.etag.clone());
    let listed: Vec<_> = stored.into_iter().map(|part| (part.number, part.size, part.etag)).collect();
    assert_eq!(listed, sent.iter().map(of).collect::<Vec<_>>(), "what another process goes on with");
    signer.complete_multipart(&key, &upload_id, &sent).await.expect("completed");

    let whole: Vec<u8> = (1..=3).flat_map(part).collect();
    let meta = store.head(&key).await.expect("head");
    assert_eq!((meta.size, meta.sha256), (whole.len() as u64, None), "nobody vouches for the whole");
    let object = store.get(&key, None).await.expect("get");
    assert_eq!(super::content::digest_of(object).await, Digest::of(&whole));

    // The reply was lost: the caller asks again, and then looks.
    let gone = signer.stored_parts(&key, &upload_id).await.expect_err("no upload any more");
    assert!(matches!(gone, StoreError::NotFound { .. }), "{gone:?}");
    let again = signer.complete_multipart(&key, &upload_id, &sent).await;
    let told = matches!(again, Ok(()) | Err(StoreError::NotFound { .. } | StoreError::AlreadyExists { .. }));
    assert!(told, "{again:?}");
    assert_eq!(store.head(&key).await.expect("head").size, whole.len() as u64);
    store.delete(&[key]).await.expect("deleted");
}

pub(crate) async fn parts_keep_their_limits(store: &dyn ObjectStore, room: &Room) {
    let signer = store.signer().expect("this store signs");
    let key = room.key("object");
    let upload_id = signer.start_multipart(&key, "text/csv").await.expect("started");
    let request = signed_part(signer, &key, &upload_id, 3).await;
    let mut altered = part(3);
    altered[10] ^= 1;
    assert_eq!(send(&request, &altered).await.status, 400, "an altered part");
    assert_eq!(send(&request, &part(3)[1..]).await.status, 403, "a truncated part");
    let other_number = SignedRequest { url: request.url.replace("partNumber=3", "partNumber=1"), ..request.clone() };
    assert_ne!(other_number.url, request.url);
    assert_eq!(send(&other_number, &part(3)).await.status, 403, "the number is signed");

    let mut sent = send_parts(signer, &key, &upload_id).await;
    sent[1].etag = "\"0123456789abcdef0123456789abcdef\"".to_owned();
    let error = signer.complete_multipart(&key, &upload_id, &sent).await.expect_err("another part than was sent");
    assert!(matches!(error, StoreError::Altered { .. }), "{error:?}");
    for _ in 0..2 {
        signer.abort_multipart(&key, &upload_id).await.expect("thrown away, and again");
    }
    assert!(room.is_empty(store).await);
    let error = signer.complete_multipart(&key, &upload_id, &sent).await.expect_err("thrown away");
    assert!(matches!(error, StoreError::NotFound { .. }), "{error:?}");
}

pub(crate) async fn people_are_sent_to_the_public_name(store: &dyn ObjectStore, room: &Room) {
    let signer = store.signer().expect("this store signs");
    let key = room.key("object");
    let put = signer.sign_put(&key, &limits(CONTENT), TTL, Audience::Public).await.expect("signed");
    assert!(put.url.starts_with("http://localhost:"), "{put:?}");
    assert_eq!(send(&put, CONTENT).await.status, 200);
    let get = signer.sign_get(&key, &attachment(), TTL, Audience::Public).await.expect("signed");
    assert!(get.url.starts_with("http://localhost:"), "{get:?}");
    assert_eq!(&send(&get, b"").await.body[..], CONTENT);
    let internal = signer.sign_get(&key, &attachment(), TTL, Audience::Internal).await.expect("signed");
    assert!(internal.url.starts_with("http://127.0.0.1:"), "{internal:?}");
    let elsewhere = get.url.replace("localhost", "127.0.0.1");
    assert_eq!(send(&SignedRequest { url: elsewhere, ..get }, b"").await.status, 403, "the host is signed");
    store.delete(&[key]).await.expect("deleted");
}

#[tokio::test]
async fn objects_are_encrypted_as_asked_however_they_come() {
    let _shared = MEMORY.read().await;
    let server = super::stores::minio();
    for (encryption, header) in
        [(Encryption::Managed, "AES256"), (Encryption::Kms(Some("tests".to_owned())), "aws:kms")]
    {
        let options = S3Options { encryption: Some(encryption), ..super::minio_options(&server) };
        let store = S3Store::new(options).expect("valid options");
        let room = Room::new("encrypted", if header == "AES256" { "managed" } else { "kms" });
        let keys = ["put", "stream", "signed", "parts"].map(|name| room.key(name));
        store.put(&keys[0], Bytes::from_static(CONTENT), PutMode::Create).await.expect("put");
        let size = 17 << 20;
        store.put_stream(&keys[1], large(size), expected_large(size), PutMode::Create).await.expect("stored");
        let request = signed_put(&store, &keys[2], &limits(CONTENT)).await;
        assert_eq!(send(&request, CONTENT).await.status, 200);
        let upload_id = store.start_multipart(&keys[3], "text/csv").await.expect("started");
        let sent = send_parts(&store, &keys[3], &upload_id).await;
        store.complete_multipart(&keys[3], &upload_id, &sent).await.expect("completed");
        for key in &keys {
            let get = store.sign_get(key, &attachment(), TTL, Audience::Internal).await.expect("signed");
            let answer = send(&get, b"").await;
            assert_eq!((answer.status, answer.header("x-amz-server-side-encryption")), (200, header), "{key}");
        }
    }
}

#[tokio::test]
async fn parts_that_became_no_object_are_thrown_away_when_they_are_old() {
    let _shared = MEMORY.read().await;
    let server = super::seaweed();
    let store = super::s3(&server);
    let (ours, theirs) = (Room::new("abandoned", "ours"), Room::new("abandoned", "ours-too"));
    let mut begun = Vec::new();
    for key in [ours.key("a"), ours.key("b/c"), theirs.key("a")] {
        let upload_id = store.start_multipart(&key, "text/csv").await.expect("started");
        let sent = send_parts(&store, &key, &upload_id).await;
        begun.push((key, upload_id, sent));
    }
    let now = jiff::Timestamp::now();
    let hour = jiff::SignedDuration::from_hours(1);
    assert_eq!(store.abandon(&ours.prefix, now - hour).await.expect("asked"), 0, "they are younger");
    assert_eq!(store.abandon(&ours.prefix, now + hour).await.expect("asked"), 2, "not those of a neighbour");
    for (key, upload_id, sent) in &begun[..2] {
        let gone = store.complete_multipart(key, upload_id, sent).await.expect_err("thrown away");
        assert!(matches!(gone, StoreError::NotFound { .. }), "{gone:?}");
    }
    let (key, upload_id, sent) = &begun[2];
    store.complete_multipart(key, upload_id, sent).await.expect("the neighbour's is whole");
    store.delete(std::slice::from_ref(key)).await.expect("deleted");
}
