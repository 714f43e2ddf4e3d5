//! Uploads in parts, in a store that signs: just enough of S3 stands in for it. The whole of it is in `tests/stores`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use serde_json::{Value, json};

use super::fake::World;
use asynctask_storage::Digest;

const UPLOADS: &str = "/api/v1/namespaces/studio/uploads";
const DEFINITION: &str = "/apis/asynctask.dev/v1alpha1/namespaces/studio/taskdefinitions/course-import";
const REVISION: &str = "/apis/asynctask.dev/v1alpha1/namespaces/studio/taskrevisions/course-import-1";
const STORE: &str = "/apis/asynctask.dev/v1alpha1/outputstores/volume";
const SECRET: &str = "/api/v1/namespaces/asynctask-system/secrets/keys";
/// A byte more than is sent in one piece.
const SIZE: u64 = (64 << 20) + 1;

/// Objects by path, and how many uploads in parts were begun.
#[derive(Default)]
struct Bucket {
    objects: Mutex<HashMap<String, Bytes>>,
    begun: Mutex<u32>,
}

async fn serve(
    State(bucket): State<Arc<Bucket>>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Result<Bytes, (StatusCode, &'static str)> {
    let query = uri.query().unwrap_or_default();
    if method == Method::POST && query.contains("uploads") {
        *bucket.begun.lock().expect("no panic") += 1;
        return Ok("<InitiateMultipartUploadResult><UploadId>u-1</UploadId></InitiateMultipartUploadResult>".into());
    }
    if method == Method::GET && query.contains("uploadId=u-1") {
        let part = "<Part><PartNumber>2</PartNumber><ETag>\"e\"</ETag><Size>16777216</Size></Part>";
        return Ok(format!("<ListPartsResult><IsTruncated>false</IsTruncated>{part}</ListPartsResult>").into());
    }
    let mut objects = bucket.objects.lock().expect("no panic");
    if method == Method::PUT {
        objects.insert(uri.path().to_owned(), body);
        return Ok(Bytes::new());
    }
    let missing = "<Error><Code>NoSuchKey</Code></Error>";
    objects.get(uri.path()).cloned().ok_or((StatusCode::NOT_FOUND, missing))
}

/// A world whose store is such a bucket, and which takes files of [`SIZE`].
async fn signing() -> (World, Arc<Bucket>) {
    let bucket = Arc::new(Bucket::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let app = axum::Router::new().fallback(serve).with_state(Arc::clone(&bucket));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let world = World::new();
    let s3 = json!({"bucket": "outputs", "endpoint": endpoint, "region": "here", "pathStyle": true, "credentialsSecret": {"name": "keys"}});
    world.cluster.edit(STORE, |store| store["spec"] = json!({"s3": s3, "default": true}));
    let keys = json!({"accessKeyId": "YQ==", "secretAccessKey": "Yg=="});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "data": keys});
    world.cluster.set(SECRET, secret);
    world.cluster.edit(DEFINITION, |it| it["spec"]["inputs"][0]["maxSize"] = json!("1Gi"));
    world.cluster.edit(REVISION, |it| it["spec"]["content"]["inputs"][0]["maxSize"] = json!("1Gi"));
    (world, bucket)
}

async fn begin(world: &World) -> Value {
    let (input, sha256) = ("archive", Digest::of(b"").to_string());
    let asked = json!({"definition": "course-import", "input": input, "size": SIZE, "sha256": sha256, "mediaType": "application/gzip"});
    let begun = world.call("alice", "POST", UPLOADS, Some(asked)).await;
    assert_eq!(begun.status, StatusCode::CREATED, "{}", begun.text());
    begun.json()
}

#[tokio::test]
async fn an_upload_that_was_broken_off_is_told_with_the_parts_that_came() {
    let (world, bucket) = signing().await;
    let begun = begin(&world).await;
    let path = format!("{UPLOADS}/{}", begun["id"].as_str().expect("an id"));
    let seen = world.call("alice", "GET", &path, None).await;
    assert_eq!(seen.status, StatusCode::OK, "{}", seen.text());
    let seen = seen.json();
    assert_eq!(seen["upload"]["plan"], begun["plan"], "{seen:#}");
    assert_eq!(seen["stored"], false);
    assert_eq!(seen["parts"][0]["number"], 2, "{seen:#}");
    assert_eq!(*bucket.begun.lock().expect("no panic"), 1);
    world.cluster.grant("bob", "create asynctasks/uploads");
    assert_eq!(world.call("bob", "GET", &path, None).await.status, StatusCode::NOT_FOUND);
}

/// Such a record was written before the id was kept in it.
#[tokio::test]
async fn reading_an_upload_whose_parts_nobody_knows_begins_no_other() {
    let (world, bucket) = signing().await;
    let begun = begin(&world).await;
    for record in bucket.objects.lock().expect("no panic").values_mut() {
        let mut fields: Value = serde_json::from_slice(record).expect("a record");
        fields.as_object_mut().expect("an object").remove("multipart").expect("the id is kept");
        *record = fields.to_string().into();
    }
    let path = format!("{UPLOADS}/{}", begun["id"].as_str().expect("an id"));
    let seen = world.call("alice", "GET", &path, None).await;
    assert_eq!((seen.status, seen.json()["title"].clone()), (StatusCode::CONFLICT, json!("UploadUnknown")));
    assert_eq!(*bucket.begun.lock().expect("no panic"), 1, "a GET writes nothing");
}
