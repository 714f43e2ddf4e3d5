//! Outputs: what there is, and the way to the bytes of one file.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use kube::Api;

use crate::api::AsyncTask;
use crate::api::names::subresource::OUTPUTS;
use crate::contract::env::LOG_OUTPUT;
use crate::contract::people::{DownloadTicket, FileView, OutputList, OutputView, Problem};
use crate::contract::wire::SignedRequest;
use crate::gateway::authorize::Access;
use crate::gateway::disposition::attachment;
use crate::gateway::identity::Caller;
use crate::gateway::problem::Refusal;
use crate::gateway::request::{self, Names};
use crate::gateway::sealed::Sealed;
use crate::gateway::transfer::{Download, OPAQUE, private};
use crate::gateway::{Gateway, Shared};
use crate::runtime::stores::OpenStore;
use crate::storage::records::{Manifest, ManifestFile};
use crate::storage::{Audience, GetShape};

/// A task whose outputs the caller may read.
struct Readable {
    task: AsyncTask,
    namespace: String,
}

impl Readable {
    async fn authorised(gateway: &Gateway, caller: &Caller, namespace: &str, name: &str) -> Result<Self, Refusal> {
        let (namespace, name) = (request::namespace(namespace)?, request::object(name)?);
        gateway.authorizer.require(caller, Access::task("get", namespace, name).of(OUTPUTS)).await?;
        let read = Api::<AsyncTask>::namespaced(gateway.client.clone(), namespace).get_opt(name).await;
        let read = read.map_err(|source| Refusal::Kube { act: "read an AsyncTask", source })?;
        Ok(Self { task: read.ok_or(Refusal::NotFound)?, namespace: namespace.to_owned() })
    }

    /// The store of the run; `None` before it has one.
    async fn store(&self, gateway: &Gateway) -> Result<Option<OpenStore>, Refusal> {
        match self.task.status.as_ref().and_then(|status| status.store.as_ref()) {
            Some(store) => Ok(Some(gateway.stores.by_ref(store).await?)),
            None => Ok(None),
        }
    }

    /// The sealed result of each step that has one.
    async fn manifests(&self, gateway: &Gateway, open: &OpenStore) -> Result<Vec<Arc<Manifest>>, Refusal> {
        let steps = self.task.status.as_ref().map(|status| status.steps.as_slice()).unwrap_or_default();
        let mut manifests = Vec::new();
        for step in steps {
            if let Some(sealed) = Sealed::of(gateway, open, &self.task, step).await? {
                manifests.push(sealed.manifest());
            }
        }
        Ok(manifests)
    }

    /// Titles by name, in the order of the definition. Without its revision names have to do.
    async fn titles(&self, gateway: &Gateway) -> Result<Vec<(String, String)>, Refusal> {
        let Some(pinned) = self.task.status.as_ref().and_then(|status| status.revision.as_ref()) else {
            return Ok(Vec::new());
        };
        match gateway.catalog.pinned(&self.namespace, pinned).await {
            Ok(revision) => {
                let outputs = revision.spec.content.outputs.iter();
                let title = |name: &str, title: Option<&String>| title.cloned().unwrap_or_else(|| name.to_owned());
                Ok(outputs.map(|output| (output.name.clone(), title(&output.name, output.title.as_ref()))).collect())
            }
            Err(Refusal::Conflict { .. }) => Ok(Vec::new()),
            Err(refusal) => Err(refusal),
        }
    }
}

fn view(file: &ManifestFile) -> FileView {
    FileView {
        path: file.path.clone(),
        size: file.size,
        sha256: file.sha256.to_string(),
        media_type: file.media_type.clone(),
    }
}

/// Declared outputs in their order, then any whose declaration is no longer known, then the log.
fn arranged(manifests: &[Arc<Manifest>], titles: &[(String, String)]) -> Vec<OutputView> {
    let mut found: BTreeMap<&str, OutputView> = BTreeMap::new();
    for (manifest, file) in
        manifests.iter().flat_map(|manifest| manifest.files.iter().map(move |file| (manifest, file)))
    {
        let title = titles.iter().find(|(name, _)| *name == file.output).map(|(_, title)| title.as_str());
        let output = found.entry(&file.output).or_insert_with(|| OutputView {
            name: file.output.clone(),
            title: title.unwrap_or(if file.output == LOG_OUTPUT { "Log" } else { &file.output }).to_owned(),
            step: manifest.step.clone(),
            size: 0,
            files: Vec::new(),
        });
        output.size = output.size.saturating_add(file.size);
        output.files.push(view(file));
    }
    let place = |name: &str| match titles.iter().position(|(known, _)| known == name) {
        Some(position) => position,
        None if name == LOG_OUTPUT => usize::MAX,
        None => titles.len(),
    };
    let mut outputs: Vec<OutputView> = found.into_values().collect();
    outputs.sort_by_key(|output| place(&output.name));
    outputs
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
    let manifests = readable.manifests(&gateway, &open).await?;
    let titles = readable.titles(&gateway).await?;
    Ok(Json(OutputList { outputs: arranged(&manifests, &titles) }))
}

type FilePath = (String, String, String, usize);

/// One file of a sealed result.
struct Chosen {
    open: OpenStore,
    file: ManifestFile,
}

async fn choose(gateway: &Gateway, caller: &Caller, path: &FilePath) -> Result<Chosen, Refusal> {
    let (namespace, name, output, number) = path;
    let readable = Readable::authorised(gateway, caller, namespace, name).await?;
    let open = readable.store(gateway).await?.ok_or(Refusal::NotFound)?;
    let manifests = readable.manifests(gateway, &open).await?;
    let mut files = manifests.iter().flat_map(|manifest| &manifest.files).filter(|file| file.output == *output);
    let file = files.nth(*number).cloned().ok_or(Refusal::NotFound)?;
    Ok(Chosen { open, file })
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
        ("Range" = Option<String>, Header, description = "One range of bytes")
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
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let chosen = choose(&gateway, &caller, &path).await?;
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
        ("output" = String, Path, description = "Output"), ("number" = usize, Path, description = "Position in the output's list of files, from 0")
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
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let chosen = choose(&gateway, &caller, &path).await?;
    let signed = chosen.signed().await?;
    let expires_in = signed.as_ref().map(|_| chosen.open.ttl.as_secs());
    let request = signed.unwrap_or_else(|| SignedRequest {
        method: "GET".to_owned(),
        url: uri.path().to_owned(),
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
    use crate::storage::Digest;

    fn manifest(outputs: &[(&str, u64)]) -> Arc<Manifest> {
        let file = |(n, (output, size)): (usize, &(&str, u64))| ManifestFile {
            output: (*output).to_owned(),
            seq: u32::try_from(n).expect("small"),
            path: format!("{output}/{n}"),
            size: *size,
            sha256: Digest::of(b""),
            media_type: None,
            key: "k".into(),
        };
        let files = outputs.iter().enumerate().map(file).collect();
        Arc::new(Manifest {
            version: 1,
            task_uid: "t".into(),
            step: "s".into(),
            pod_uid: "p".into(),
            files,
            pages: vec![],
        })
    }

    #[test]
    fn outputs_come_in_the_order_of_the_definition_and_the_log_last() {
        let titles = [("report", "Report"), ("data", "Data")].map(|(name, title)| (name.to_owned(), title.to_owned()));
        let views = arranged(&[manifest(&[("data", 1), ("data", 2), ("log", 4), ("report", 8)])], &titles);
        let seen: Vec<_> = views.iter().map(|v| (v.name.as_str(), v.title.as_str(), v.size, v.files.len())).collect();
        assert_eq!(seen, [("report", "Report", 8, 1), ("data", "Data", 3, 2), ("log", "Log", 4, 1)]);
    }

    #[test]
    fn outputs_of_a_forgotten_definition_are_still_there() {
        let views = arranged(&[manifest(&[("data", 1), ("log", 4)])], &[]);
        assert_eq!(views.iter().map(|v| v.title.as_str()).collect::<Vec<_>>(), ["data", "Log"]);
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
