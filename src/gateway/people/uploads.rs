//! Uploads: files that will be inputs. The bytes go to the store by signed requests, or through here where the store
//! cannot take them; an upload belongs to its uploader.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use uuid::Uuid;

use crate::authorize::Access;
use crate::identity::Caller;
use crate::problem::Refusal;
use crate::request::{self, LIST, Names, Payload};
use crate::stores::stores;
use crate::target::{self, Target};
use crate::transfer::OPAQUE;
use crate::{Gateway, Shared};
use asynctask_api::names::subresource::UPLOADS;
use asynctask_api::{OutputStore, TaskDefinitionSpec};
use asynctask_contract::people::{Problem, UploadCompletion, UploadRequest, UploadStarted, UploadView};
use asynctask_contract::wire::{PartsReply, PartsRequest, SentPart, UploadPlan};
use asynctask_plan::definition::{ValidatedInput, validate};
use asynctask_plan::shards::ShardSet;
use asynctask_plan::stores::{choose, is_open};
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::digest::{Digest, Expected, InvalidDigest};
use asynctask_storage::layout::UploadKeys;
use asynctask_storage::records::{RECORD_MAX, UploadRecord, decode, encode};
use asynctask_storage::{Audience, PutMode, StoreError, UploadShape, plan_upload};

/// How long a signed request for an uploader is good for: a part of some tens of MiB over a slow line.
const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// Begin an upload
///
/// Needs the right to `create` `asynctasks/uploads` in the namespace. Announce the file; the answer says how to send
/// its bytes. Then `complete` it, and name its id as input of a run.
#[utoipa::path(
    post, path = "/api/v1/namespaces/{namespace}/uploads", tag = "uploads", operation_id = "beginUpload",
    params(("namespace" = String, Path, description = "Namespace")),
    request_body = UploadRequest,
    responses((status = 201, body = UploadStarted), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn begin(
    State(gateway): State<Shared>,
    caller: Caller,
    Names(namespace): Names<String>,
    Payload(asked): Payload<UploadRequest>,
) -> Result<(StatusCode, Json<UploadStarted>), Refusal> {
    let namespace = request::namespace(&namespace)?;
    gateway.authorizer.require(&caller, Access::namespace("create", namespace).of(UPLOADS)).await?;
    let revision = gateway.catalog.current(namespace, &asked.definition, None).await?;
    let sha256 = expected_digest(&asked)?;
    require_acceptable(&revision.spec.content, &asked)?;
    let open = chosen(&gateway, namespace, revision.spec.content.store.as_deref()).await?;
    let record = UploadRecord {
        id: Uuid::new_v4().to_string(),
        uploader: caller.person.user.clone(),
        namespace: namespace.to_owned(),
        definition: asked.definition,
        input: asked.input,
        size: asked.size,
        sha256,
        media_type: asked.media_type,
        multipart: None,
        created_at: jiff::Timestamp::now(),
        complete: false,
    };
    let mut upload = Upload { keys: keys(&open, namespace, &record.id)?, open, record };
    let plan = upload.plan().await?;
    if let UploadPlan::Multipart { upload_id, .. } = &plan {
        upload.record.multipart = Some(upload_id.clone());
    }
    upload.open.store.put(&upload.keys.record(), encode(&upload.record), PutMode::Create).await?;
    Ok((StatusCode::CREATED, Json(upload.started(plan))))
}

/// See how far an upload has come
///
/// One's own, to go on with it where it was broken off: the parts that are stored, and the plan with requests that are signed
/// anew. An upload that is not completed in time (the chart's `sweepAfter`) is thrown away.
#[utoipa::path(
    get, path = "/api/v1/namespaces/{namespace}/uploads/{id}", tag = "uploads", operation_id = "readUpload",
    params(("namespace" = String, Path, description = "Namespace"), ("id" = String, Path, description = "Upload")),
    responses((status = 200, body = UploadView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn read(
    State(gateway): State<Shared>,
    caller: Caller,
    Names((namespace, id)): Names<(String, String)>,
) -> Result<Json<UploadView>, Refusal> {
    let upload = Upload::of(&gateway, &caller, &namespace, &id).await?;
    let mut stored = upload.record.complete;
    let mut parts = Vec::new();
    let plan = match plan_upload(upload.record.size) {
        UploadShape::Multipart { part_size, .. } if upload.open.store.signer().is_some() => {
            // An older release kept no id. Reading begins nothing, so it is lost.
            let upload_id = upload.record.multipart.clone().ok_or_else(target::upload_unknown)?;
            if !stored {
                let found = upload.target().stored(&upload_id).await?;
                (stored, parts) = (found.is_none(), found.unwrap_or_default());
            }
            UploadPlan::Multipart { upload_id, part_size }
        }
        _ => upload.plan().await?,
    };
    Ok(Json(UploadView { upload: upload.started(plan), stored, parts }))
}

fn expected_digest(asked: &UploadRequest) -> Result<Digest, Refusal> {
    asked.sha256.parse().map_err(|error: InvalidDigest| Refusal::invalid("InvalidDigest", format!("sha256: {error}")))
}

/// The definition takes such a file.
fn require_acceptable(definition: &TaskDefinitionSpec, asked: &UploadRequest) -> Result<(), Refusal> {
    let valid = validate(definition).map_err(|_| Refusal::Defect("a revision holds an invalid definition".into()))?;
    let input = valid.inputs.iter().find(|input| input.name == asked.input);
    let input = input.ok_or_else(|| {
        let known: Vec<&str> = valid.inputs.iter().map(|input| input.name.as_str()).collect();
        let shown: String = asked.input.chars().take(63).collect();
        let message = format!("TaskDefinition {} has no input {shown:?}, it has {known:?}", asked.definition);
        Refusal::invalid("UnknownInput", message)
    })?;
    require_fit(input, asked)
}

fn require_fit(input: &ValidatedInput, asked: &UploadRequest) -> Result<(), Refusal> {
    if asked.size > input.max_size {
        let message =
            format!("input {} takes at most {} bytes, the file has {}", input.name, input.max_size, asked.size);
        return Err(Refusal::invalid("InputTooLarge", message));
    }
    if let Some(given) = &asked.media_type {
        request::media_type(given)?;
    }
    let essence = |text: &str| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let given = asked.media_type.as_deref().map(essence);
    if input.media_types.is_empty() || given.is_some_and(|given| input.media_types.iter().any(|m| essence(m) == given))
    {
        return Ok(());
    }
    let message = format!("input {} takes {:?}: name one of them in mediaType", input.name, input.media_types);
    Err(Refusal::invalid("MediaTypeNotAccepted", message))
}

/// The store a run of this definition would use.
async fn chosen(gateway: &Gateway, namespace: &str, wanted: Option<&str>) -> Result<OpenStore, Refusal> {
    let (stores, labels) = stores(gateway, namespace).await?;
    let store = choose(&stores, wanted, &labels)
        .map_err(|error| Refusal::Conflict { word: "StoreNotReady", message: error.to_string() })?;
    Ok(gateway.stores.open(store).await?)
}

fn keys(open: &OpenStore, namespace: &str, id: &str) -> Result<UploadKeys, Refusal> {
    open.layout.upload(namespace, id).map_err(|_| Refusal::NotFound)
}

/// What is known of an upload. One that is not there and an id that can be none are alike.
pub(super) async fn record(gateway: &Gateway, namespace: &str, id: &str) -> Result<UploadRecord, Refusal> {
    let id: Uuid = id.parse().map_err(|_| Refusal::NotFound)?;
    Upload::find(gateway, namespace, &id.to_string()).await.map(|found| found.record)
}

/// A begun upload and where it is.
struct Upload {
    open: OpenStore,
    keys: UploadKeys,
    record: UploadRecord,
}

impl Upload {
    /// The caller's own upload. One that is not there and one of somebody else are alike.
    async fn of(gateway: &Gateway, caller: &Caller, namespace: &str, id: &str) -> Result<Self, Refusal> {
        let namespace = request::namespace(namespace)?;
        gateway.authorizer.require(caller, Access::namespace("create", namespace).of(UPLOADS)).await?;
        let id: Uuid = id.parse().map_err(|_| Refusal::NotFound)?;
        let found = Self::find(gateway, namespace, &id.to_string()).await?;
        let own = found.record.uploader == caller.person.user && found.record.namespace == namespace;
        if !own {
            caller.trail.refused();
        }
        own.then_some(found).ok_or(Refusal::NotFound)
    }

    /// The id does not say which store it is in, so that it stays a plain UUID; there are few stores to look into.
    async fn find(gateway: &Gateway, namespace: &str, id: &str) -> Result<Self, Refusal> {
        let (stores, labels) = stores(gateway, namespace).await?;
        let mut unusable = None;
        for store in stores.iter().filter(|store| is_open(store, &labels)) {
            match Self::look(gateway, store, namespace, id).await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(refusal) => unusable = Some(refusal),
            }
        }
        // It may be in the one that could not be asked.
        Err(unusable.unwrap_or(Refusal::NotFound))
    }

    async fn look(gateway: &Gateway, store: &OutputStore, namespace: &str, id: &str) -> Result<Option<Self>, Refusal> {
        let open = gateway.stores.open(store).await?;
        let keys = keys(&open, namespace, id)?;
        match open.store.get_bytes(&keys.record(), RECORD_MAX).await {
            Ok(bytes) => Ok(Some(Self { record: decode(&bytes)?, keys, open })),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn expected(&self) -> Expected {
        Expected { size: self.record.size, sha256: self.record.sha256 }
    }

    fn target(&self) -> Target<'_> {
        Target { open: &self.open, key: self.keys.data(), audience: Audience::Public, lifetime: LIFETIME }
    }

    /// How its bytes are sent. Of a large file it begins an upload in parts.
    async fn plan(&self) -> Result<UploadPlan, Refusal> {
        let UploadRecord { id, namespace, media_type, .. } = &self.record;
        let media_type = request::media_type(media_type.as_deref().unwrap_or(OPAQUE))?;
        let proxied = format!("/api/v1/namespaces/{namespace}/uploads/{id}/content");
        self.target().plan(self.expected(), media_type, PutMode::Create, &proxied).await
    }

    fn started(&self, plan: UploadPlan) -> UploadStarted {
        let ca = self.open.store.signer().and(self.open.ca.clone());
        UploadStarted { id: self.record.id.clone(), plan, ca }
    }

    /// All bytes are in the store, as long as announced and with the announced content where the store knows it.
    async fn require_stored(&self) -> Result<(), Refusal> {
        let invalid = |message: &str| Err(Refusal::invalid("NotStored", message));
        match self.open.store.head(&self.keys.data()).await {
            Ok(meta) if meta.size != self.record.size => {
                invalid("the stored file is not as long as announced: begin a new upload")
            }
            Ok(meta) if meta.sha256.is_some_and(|stored| stored != self.record.sha256) => {
                invalid("the stored file has not the announced content: begin a new upload")
            }
            Ok(_) => Ok(()),
            Err(StoreError::NotFound { .. }) => {
                invalid("the file is not in the store yet: send its bytes as the plan says")
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Send the bytes
///
/// Only for stores that take no bytes from outside: the plan of `beginUpload` names this path then.
#[utoipa::path(
    put, path = "/api/v1/namespaces/{namespace}/uploads/{id}/content", tag = "uploads", operation_id = "sendUpload",
    params(("namespace" = String, Path, description = "Namespace"), ("id" = String, Path, description = "Upload")),
    request_body(content_type = "application/octet-stream", description = "The file, exactly as announced"),
    responses(
        (status = 204, description = "Stored"),
        (status = 412, description = "Stored before", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Other bytes than announced; nothing was stored", body = Problem, content_type = "application/problem+json"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn receive(
    State(gateway): State<Shared>,
    caller: Caller,
    Names((namespace, id)): Names<(String, String)>,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let upload = Upload::of(&gateway, &caller, &namespace, &id).await?;
    target::take(&upload.open, &upload.keys.data(), body, upload.expected(), PutMode::Create).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ask for the URLs of parts
///
/// Up to 100 at once, each good for 15 minutes.
#[utoipa::path(
    post, path = "/api/v1/namespaces/{namespace}/uploads/{id}/parts", tag = "uploads", operation_id = "signUploadParts",
    params(("namespace" = String, Path, description = "Namespace"), ("id" = String, Path, description = "Upload")),
    request_body = PartsRequest,
    responses((status = 200, body = PartsReply), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn parts(
    State(gateway): State<Shared>,
    caller: Caller,
    Names((namespace, id)): Names<(String, String)>,
    Payload(asked): Payload<PartsRequest>,
) -> Result<Json<PartsReply>, Refusal> {
    let upload = Upload::of(&gateway, &caller, &namespace, &id).await?;
    require_cut(upload.record.size, &asked)?;
    if upload.record.complete {
        return Err(Refusal::Stored);
    }
    Ok(Json(PartsReply { requests: upload.target().sign_parts(&asked).await? }))
}

/// The parts are those of the plan, so that nobody stores more than they announced.
fn require_cut(size: u64, asked: &PartsRequest) -> Result<(), Refusal> {
    let wrong = |message: String| Refusal::invalid("InvalidPart", message);
    let UploadShape::Multipart { part_size, parts } = plan_upload(size) else {
        return Err(wrong("a file of this size is sent in one piece: follow the plan you were given".into()));
    };
    for part in &asked.parts {
        let last = size - part_size * u64::from(parts - 1);
        let wanted = if part.number == parts { last } else { part_size };
        if !(1..=parts).contains(&part.number) || part.size != wanted {
            return Err(wrong(format!("the file has {parts} parts of {part_size} bytes, the last one of {last}")));
        }
    }
    Ok(())
}

/// Every part is named: with fewer the store would make a file of them that is not the one announced, and what was sent would be
/// lost.
fn require_all(size: u64, sent: &[SentPart]) -> Result<(), Refusal> {
    let UploadShape::Multipart { parts, .. } = plan_upload(size) else { return Ok(()) };
    let missing: ShardSet = (1..=parts).filter(|number| sent.iter().all(|part| part.number != *number)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the file has {parts} parts, and {missing} are not named: send what is missing, then complete with all of them. Nothing is lost"
    );
    Err(Refusal::invalid("PartsMissing", message))
}

/// Complete an upload
///
/// With its parts if it had any. Doing it twice is doing it once.
#[utoipa::path(
    post, path = "/api/v1/namespaces/{namespace}/uploads/{id}/complete", tag = "uploads", operation_id = "completeUpload",
    params(("namespace" = String, Path, description = "Namespace"), ("id" = String, Path, description = "Upload")),
    request_body = UploadCompletion,
    responses(
        (status = 204, description = "Complete: it can be an input now"),
        (status = 422, description = "Parts are missing, and nothing was changed; or the bytes in the store are not the announced ones", body = Problem, content_type = "application/problem+json"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn complete(
    State(gateway): State<Shared>,
    caller: Caller,
    Names((namespace, id)): Names<(String, String)>,
    Payload(asked): Payload<UploadCompletion, LIST>,
) -> Result<StatusCode, Refusal> {
    let mut upload = Upload::of(&gateway, &caller, &namespace, &id).await?;
    if upload.record.complete {
        return Ok(StatusCode::NO_CONTENT);
    }
    if let Some(upload_id) = &asked.upload_id {
        require_all(upload.record.size, &asked.parts)?;
        upload.target().complete(upload_id, &asked.parts).await?;
    }
    upload.require_stored().await?;
    upload.record.complete = true;
    upload.open.store.put(&upload.keys.record(), encode(&upload.record), PutMode::Overwrite).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use asynctask_contract::wire::PartToSign;

    fn input() -> ValidatedInput {
        ValidatedInput {
            name: "archive".into(),
            required: true,
            media_types: vec!["application/gzip".into()],
            max_size: 1000,
            once: false,
        }
    }

    fn asked(size: u64, media_type: Option<&str>) -> UploadRequest {
        UploadRequest {
            definition: "d".into(),
            input: "archive".into(),
            size,
            sha256: Digest::of(b"").to_string(),
            media_type: media_type.map(str::to_owned),
        }
    }

    #[test]
    fn a_file_fits_its_input_or_is_refused_with_what_would() {
        assert!(require_fit(&input(), &asked(1000, Some("application/gzip"))).is_ok());
        assert!(require_fit(&input(), &asked(0, Some("Application/GZIP; x=y"))).is_ok());
        let refused = |asked| require_fit(&input(), &asked).expect_err("refused").to_string();
        assert!(refused(asked(1001, Some("application/gzip"))).contains("at most 1000 bytes"));
        assert!(refused(asked(1, Some("text/html"))).contains("application/gzip"));
        assert!(refused(asked(1, None)).contains("application/gzip"));
        let any = ValidatedInput { media_types: Vec::new(), ..input() };
        assert!(require_fit(&any, &asked(1, None)).is_ok());
    }

    #[test]
    fn only_the_parts_of_the_plan_are_signed() {
        let size = (64 << 20) + 1;
        let part = |number, size| PartsRequest {
            file: None,
            upload_id: "u".into(),
            parts: vec![PartToSign { number, size, sha256: Digest::of(b"").to_string() }],
        };
        assert!(require_cut(size, &part(1, 16 << 20)).is_ok());
        assert!(require_cut(size, &part(5, 1)).is_ok());
        for (number, bytes) in [(0, 16 << 20), (1, (16 << 20) + 1), (5, 2), (6, 1), (u32::MAX, 1)] {
            assert!(require_cut(size, &part(number, bytes)).is_err(), "{number} {bytes}");
        }
        assert!(require_cut(64 << 20, &part(1, 64 << 20)).is_err(), "sent in one piece");
    }
}
