//! Outputs: what there is, and the way to the bytes of one file.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use kube::ResourceExt;
use serde::Deserialize;

use super::readable::{Readable, Results};
use crate::contract::env::LOG_OUTPUT;
use crate::contract::people::{DownloadTicket, FileView, OutputList, OutputView, Problem};
use crate::contract::wire::SignedRequest;
use crate::gateway::disposition::attachment;
use crate::gateway::identity::Caller;
use crate::gateway::problem::Refusal;
use crate::gateway::request::{Filters, Names};
use crate::gateway::sealed::{self, Sealed, status_of};
use crate::gateway::transfer::{Download, OPAQUE, private};
use crate::gateway::{Gateway, Shared};
use crate::runtime::stores::OpenStore;
use crate::storage::layout::{AttemptKind, StepKeys};
use crate::storage::records::ManifestFile;
use crate::storage::{Audience, Digest, GetShape, Meta};

/// Files of an output that are listed with it; more have to be asked for by their number.
const LISTED: usize = 1000;
/// Longest log that is measured before it is sent: above what an agent stores.
const LOG_MAX: u64 = 16 << 20;

fn view(file: &ManifestFile) -> FileView {
    FileView {
        path: file.path.clone(),
        size: file.size,
        sha256: file.sha256.to_string(),
        media_type: file.media_type.clone(),
    }
}

/// Every output with its first files: declared ones in their order, then any whose declaration is no longer known, then
/// the log.
async fn views(results: &Results<'_>) -> Result<Vec<OutputView>, Refusal> {
    let mut outputs: Vec<OutputView> = Vec::new();
    for (name, step, sealed) in results.given() {
        let place = match outputs.iter().position(|output| output.name == name) {
            Some(place) => place,
            None => {
                outputs.push(blank(results, name, step));
                outputs.len() - 1
            }
        };
        let (output, volume) = (&mut outputs[place], sealed.volume(name));
        output.size = output.size.saturating_add(volume.bytes);
        output.count = output.count.saturating_add(volume.files);
        let room = LISTED - output.files.len();
        output.files.extend(sealed.files(name, 0, room).await?.iter().map(view));
        output.more = output.count > output.files.len() as u64;
    }
    arrange(&mut outputs, &results.declared().iter().map(|output| output.name.as_str()).collect::<Vec<_>>());
    Ok(outputs)
}

fn blank(results: &Results<'_>, name: &str, step: &str) -> OutputView {
    let declared = results.declared().iter().find(|output| output.name == name);
    let unsaid = if name == LOG_OUTPUT { "Log" } else { name };
    OutputView {
        name: name.to_owned(),
        title: declared.and_then(|output| output.title.clone()).unwrap_or_else(|| unsaid.to_owned()),
        step: step.to_owned(),
        size: 0,
        count: 0,
        files: Vec::new(),
        more: false,
    }
}

fn arrange(outputs: &mut [OutputView], declared: &[&str]) {
    outputs.sort_by_key(|output| match declared.iter().position(|known| *known == output.name) {
        Some(position) => position,
        None if output.name == LOG_OUTPUT => usize::MAX,
        None => declared.len(),
    });
}

/// List outputs
///
/// Needs the right to `get` `asynctasks/outputs`. Empty while the run has no result.
#[utoipa::path(
    get, path = "/api/v1/namespaces/{namespace}/tasks/{name}/outputs", tag = "outputs", operation_id = "listOutputs",
    params(("namespace" = String, Path, description = "Namespace"), ("name" = String, Path, description = "Task")),
    responses((status = 200, body = OutputList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    State(gateway): State<Shared>,
    caller: Caller,
    Names((namespace, name)): Names<(String, String)>,
) -> Result<Json<OutputList>, Refusal> {
    let readable = Readable::authorised(&gateway, &caller, &namespace, &name).await?;
    let Some(open) = readable.store(&gateway).await? else { return Ok(Json(OutputList { outputs: Vec::new() })) };
    let results = readable.results(&gateway, &open).await?;
    Ok(Json(OutputList { outputs: views(&results).await? }))
}

type FilePath = (String, String, String, usize);

/// One file of a sealed result.
struct Chosen {
    open: OpenStore,
    file: ManifestFile,
}

/// Of the output `log`, whose.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Whose {
    /// Of the output `log` only: the step, also before the run has ended
    step: Option<String>,
    /// With `step`: the number of the shard
    shard: Option<u32>,
}

async fn choose(gateway: &Gateway, caller: &Caller, path: &FilePath, whose: &Whose) -> Result<Chosen, Refusal> {
    let (namespace, name, output, number) = path;
    let readable = Readable::authorised(gateway, caller, namespace, name).await?;
    let open = readable.store(gateway).await?.ok_or(Refusal::NotFound)?;
    let file = match &whose.step {
        Some(step) if output == LOG_OUTPUT && *number == 0 => log(gateway, &readable, &open, step, whose.shard).await?,
        Some(_) => {
            return Err(Refusal::BadRequest("`step` and `shard` choose a log: the output is `log`, its file 0".into()));
        }
        None if whose.shard.is_some() => return Err(Refusal::BadRequest("`shard` needs `step`".into())),
        None => {
            let results = readable.results(gateway, &open).await?;
            results.files(output, *number as u64, 1).await?.pop()
        }
    };
    Ok(Chosen { open, file: file.ok_or(Refusal::NotFound)? })
}

/// The log of a step, or of one of its shards: the sealed one, else one that a pod has left by now.
async fn log(
    gateway: &Gateway,
    readable: &Readable,
    open: &OpenStore,
    step: &str,
    shard: Option<u32>,
) -> Result<Option<ManifestFile>, Refusal> {
    let Some(status) = status_of(&readable.task, step) else { return Ok(None) };
    if let Some(sealed) = Sealed::of(gateway, open, &readable.task, status).await? {
        let Some(number) = shard.filter(|_| sealed.is_fan_out()) else { return sealed.file(LOG_OUTPUT, 0).await };
        let shards = sealed.shards(number..number.saturating_add(1)).await?;
        return Ok(shards.into_iter().flat_map(|shard| shard.files).find(|file| file.output == LOG_OUTPUT));
    }
    let keys = sealed::keys(open, &readable.namespace, &readable.task.uid().unwrap_or_default(), step)?;
    unsealed_log(open, &keys, shard.unwrap_or(0)).await
}

async fn unsealed_log(open: &OpenStore, keys: &StepKeys, shard: u32) -> Result<Option<ManifestFile>, Refusal> {
    let (mut found, mut after): (Option<Meta>, Option<String>) = (None, None);
    loop {
        let page = open.store.list(&keys.shard_prefix(shard), after.as_deref(), 1000).await?;
        let is_log = |meta: &Meta| keys.parse(&meta.key).is_some_and(|key| key.kind == AttemptKind::Log);
        after = page.objects.last().map(|meta| meta.key.clone());
        // Which of several pods came last is in no key; the longest log says most.
        found = page.objects.into_iter().filter(is_log).chain(found).max_by_key(|meta| meta.size);
        if !page.more || after.is_none() {
            break;
        }
    }
    let Some(Meta { key, size, .. }) = found.filter(|meta| meta.size <= LOG_MAX) else { return Ok(None) };
    // Nobody vouches for it yet, so it is measured as it is now.
    let sha256 = Digest::of(&open.store.get_bytes(&key, LOG_MAX).await?);
    let (output, path) = (LOG_OUTPUT.to_owned(), format!("{LOG_OUTPUT}.txt"));
    Ok(Some(ManifestFile { output, seq: 0, path, size, sha256, media_type: Some("text/plain".to_owned()), key }))
}

impl Chosen {
    /// The signed URL of the file, where the store has such.
    async fn signed(&self) -> Result<Option<SignedRequest>, Refusal> {
        let Some(signer) = self.open.store.signer() else { return Ok(None) };
        let shape = GetShape { content_disposition: attachment(&self.file.path), content_type: OPAQUE.to_owned() };
        Ok(Some(signer.sign_get(&self.file.key, &shape, self.open.ttl, Audience::Public).await?))
    }
}

fn see_other(location: &str) -> Result<Response, Refusal> {
    let mut headers = private();
    let location = HeaderValue::from_str(location).map_err(|_| Refusal::Defect("a URL that is no header".into()))?;
    headers.insert(LOCATION, location);
    Ok((StatusCode::SEE_OTHER, headers).into_response())
}

/// Whether the caller is a program that reads JSON, not a browser that follows.
fn prefers_json(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
    accepted.contains("application/json") && !accepted.contains("text/html")
}

/// Download a file
///
/// Needs the right to `get` `asynctasks/outputs`, each time. The link is stable and safe to keep: it lets nobody in.
/// Answers 303 to a short-lived URL of the store, or streams (ranges too) where the store cannot let others in.
#[utoipa::path(
    get, path = "/api/v1/namespaces/{namespace}/tasks/{name}/outputs/{output}/files/{number}/download", tag = "outputs",
    operation_id = "downloadFile",
    params(
        ("namespace" = String, Path, description = "Namespace"), ("name" = String, Path, description = "Task"),
        ("output" = String, Path, description = "Output"), ("number" = usize, Path, description = "Position in the output's list of files, from 0"),
        Whose, ("Range" = Option<String>, Header, description = "One range of bytes")
    ),
    responses(
        (status = 303, description = "At `Location`, for a minute at most; the URL is a key, keep it from logs"),
        (status = 200, description = "The file", content_type = "application/octet-stream"),
        (status = 206, description = "The range of it", content_type = "application/octet-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn download(
    State(gateway): State<Shared>,
    caller: Caller,
    Names(path): Names<FilePath>,
    Filters(whose): Filters<Whose>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let chosen = choose(&gateway, &caller, &path, &whose).await?;
    if let Some(signed) = chosen.signed().await? {
        return see_other(&signed.url);
    }
    let (store, file) = (&*chosen.open.store, &chosen.file);
    let disposition = attachment(&file.path);
    Download { store, key: &file.key, sha256: file.sha256, disposition: &disposition }.answer(&headers).await
}

/// Ask for the way to a file
///
/// As the GET of the same path, for programs: with `Accept: application/json` the answer is a ticket with the
/// request to make and the checksum to expect; else 303.
#[utoipa::path(
    post, path = "/api/v1/namespaces/{namespace}/tasks/{name}/outputs/{output}/files/{number}/download", tag = "outputs",
    operation_id = "requestDownload",
    params(
        ("namespace" = String, Path, description = "Namespace"), ("name" = String, Path, description = "Task"),
        ("output" = String, Path, description = "Output"), ("number" = usize, Path, description = "Position in the output's list of files, from 0"),
        Whose
    ),
    responses(
        (status = 200, body = DownloadTicket),
        (status = 303, description = "At `Location`, for a minute at most; the URL is a key, keep it from logs"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn ticket(
    State(gateway): State<Shared>,
    caller: Caller,
    Names(path): Names<FilePath>,
    Filters(whose): Filters<Whose>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let chosen = choose(&gateway, &caller, &path, &whose).await?;
    let signed = chosen.signed().await?;
    let expires_in = signed.as_ref().map(|_| chosen.open.ttl.as_secs());
    let request = signed.unwrap_or_else(|| SignedRequest {
        method: "GET".to_owned(),
        url: uri.path_and_query().map_or_else(|| uri.path(), |path| path.as_str()).to_owned(),
        headers: BTreeMap::new(),
    });
    if !prefers_json(&headers) {
        return see_other(&request.url);
    }
    // A path of the gateway is reached as the gateway itself was.
    let ca = expires_in.and(chosen.open.ca.clone());
    let ticket = DownloadTicket { request, expires_in, ca, file: view(&chosen.file) };
    Ok((private(), Json(ticket)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_come_in_the_order_of_the_definition_and_the_log_last() {
        let output = |name: &str| OutputView {
            name: name.into(),
            title: String::new(),
            step: "s".into(),
            size: 0,
            count: 0,
            files: Vec::new(),
            more: false,
        };
        let mut outputs = ["data", "log", "forgotten", "report"].map(output);
        arrange(&mut outputs, &["report", "data"]);
        assert_eq!(outputs.map(|output| output.name), ["report", "data", "forgotten", "log"]);
    }

    #[test]
    fn browsers_are_led_and_programs_are_told() {
        let with = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().expect("a header value"));
            prefers_json(&headers)
        };
        assert!(with("application/json"));
        assert!(!with("text/html,application/xhtml+xml,application/json;q=0.9"));
        assert!(!with("*/*") && !prefers_json(&HeaderMap::new()));
    }
}
