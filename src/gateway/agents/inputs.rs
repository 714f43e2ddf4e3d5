//! What a step reads: uploads the run was given, and outputs that earlier steps have sealed.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;

use super::files::LIFETIME;
use super::{Attempt, Desk, revision};
use crate::api::TaskDefinitionSpec;
use crate::api::definition::StepInputSpec;
use crate::contract::wire::{InputSource, SignedRequest, path};
use crate::gateway::identity::Agent;
use crate::gateway::problem::Refusal;
use crate::gateway::request::{Filters, Names};
use crate::gateway::transfer::{Download, OPAQUE};
use crate::gateway::{Gateway, Shared};
use crate::storage::digest::Digest;
use crate::storage::records::{RECORD_MAX, UploadRecord, decode};
use crate::storage::{Audience, GetShape, StoreError};

/// One file a step reads.
struct Source {
    /// Name of the input.
    name: String,
    /// Where it goes below `$ASYNCTASK_INPUTS`, if not to the name.
    path: Option<String>,
    size: u64,
    sha256: Digest,
    key: String,
}

impl Source {
    /// As the agent is told. `proxied` is the path of the gateway that gives the bytes where the store cannot.
    async fn offer(self, desk: &Desk, proxied: String) -> Result<InputSource, Refusal> {
        let source = match desk.open.store.signer() {
            None => SignedRequest { method: "GET".to_owned(), url: proxied, headers: BTreeMap::new() },
            Some(signer) => {
                let shape = GetShape { content_disposition: "attachment".to_owned(), content_type: OPAQUE.to_owned() };
                signer.sign_get(&self.key, &shape, LIFETIME, Audience::Internal).await?
            }
        };
        let Self { name, path, size, sha256, key: _ } = self;
        Ok(InputSource { name, path, size, sha256: sha256.to_string(), source })
    }
}

/// All files the attempt reads: every upload of the run, and what its step takes from earlier ones.
pub(super) async fn sources(
    gateway: &Gateway,
    desk: &Desk,
    attempt: &Attempt,
    content: &TaskDefinitionSpec,
) -> Result<Vec<InputSource>, Refusal> {
    let mut sources = Vec::new();
    for (name, input) in &attempt.task.spec.inputs {
        let Some(id) = &input.upload else { continue };
        let upload = upload(desk, attempt, name, id).await?;
        sources.push(upload.offer(desk, format!("{}/{name}/content", path::INPUTS)).await?);
    }
    for input in taken(content, &attempt.step) {
        for (number, file) in sealed(gateway, desk, attempt, content, input).await?.into_iter().enumerate() {
            let proxied = format!("{}/{}/content?file={number}", path::INPUTS, input.name);
            sources.push(file.offer(desk, proxied).await?);
        }
    }
    Ok(sources)
}

/// What a step takes from outputs of earlier ones.
fn taken<'a>(content: &'a TaskDefinitionSpec, step: &str) -> &'a [StepInputSpec] {
    content.steps.iter().find(|known| known.name == step).map(|step| step.inputs.as_slice()).unwrap_or_default()
}

/// The files of the output that an input takes. None when its step has no result: an alternative that did not occur.
async fn sealed(
    gateway: &Gateway,
    desk: &Desk,
    attempt: &Attempt,
    content: &TaskDefinitionSpec,
    input: &StepInputSpec,
) -> Result<Vec<Source>, Refusal> {
    let Some(output) = content.outputs.iter().find(|output| output.name == input.output) else {
        return Ok(Vec::new());
    };
    let steps = attempt.task.status.as_ref().map(|status| status.steps.as_slice()).unwrap_or_default();
    let result = steps.iter().find(|step| step.name == output.step).and_then(|step| step.manifest.as_ref());
    let Some(result) = result else { return Ok(Vec::new()) };
    let manifest = gateway.catalog.manifest(&desk.open, &attempt.task, &output.step, result).await?;
    let files = manifest.files.iter().filter(|file| file.output == output.name);
    let source = |file: &crate::storage::records::ManifestFile| Source {
        name: input.name.clone(),
        path: Some(place(&input.name, &output.path, &file.path)),
        size: file.size,
        sha256: file.sha256,
        key: file.key.clone(),
    };
    Ok(files.map(source).collect())
}

/// Where a file of an output goes: an output that is one file becomes the input itself, a folder a folder of that name.
fn place(input: &str, declared: &str, file: &str) -> String {
    let folder = declared.trim_end_matches('/');
    match file.strip_prefix(folder).map(|below| below.trim_start_matches('/')) {
        Some("") => input.to_owned(),
        Some(below) => format!("{input}/{below}"),
        None => format!("{input}/{file}"),
    }
}

/// The upload an input names, if this run may read it: complete, by the run's owner, for this definition and input.
async fn upload(desk: &Desk, attempt: &Attempt, input: &str, id: &str) -> Result<Source, Refusal> {
    // One sentence for all of it: it must not tell a foreign upload from one that does not exist.
    let missing = || {
        let message = format!(
            "input {input:?}: there is no complete upload {id:?} of this run's owner for it: upload the file again"
        );
        Refusal::invalid("InputMissing", message)
    };
    let keys = desk.open.layout.upload(&attempt.namespace, id).map_err(|_| missing())?;
    let bytes = match desk.open.store.get_bytes(&keys.record(), RECORD_MAX).await {
        Ok(bytes) => bytes,
        Err(StoreError::NotFound { .. }) => return Err(missing()),
        Err(error) => return Err(error.into()),
    };
    let record: UploadRecord = decode(&bytes)?;
    let spec = &attempt.task.spec;
    let fits = record.complete
        && spec.owner.as_ref() == Some(&record.uploader)
        && record.namespace == attempt.namespace
        && record.definition == spec.definition.name
        && record.input == input;
    let (size, sha256) = (record.size, record.sha256);
    let source = Source { name: input.to_owned(), path: None, size, sha256, key: keys.data() };
    fits.then_some(source).ok_or_else(missing)
}

/// Which file of an input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Of an output, which of its files, from 0; absent: the input is an upload.
    file: Option<usize>,
}

/// `GET /agent/v1/inputs/{name}/content[?file=n]`
pub(super) async fn content(
    State(gateway): State<Shared>,
    agent: Agent,
    Names(name): Names<String>,
    Filters(which): Filters<Which>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let attempt = gateway.attempts.recent(&agent.pod).await?;
    agent.trail.asks("read", attempt.what());
    attempt.require_open()?;
    let desk = Desk::of(&gateway, &attempt).await?;
    let source = match which.file {
        None => {
            let input = attempt.task.spec.inputs.get(&name).ok_or(Refusal::NotFound)?;
            upload(&desk, &attempt, &name, input.upload.as_deref().ok_or(Refusal::NotFound)?).await?
        }
        Some(number) => {
            let revision = revision(&gateway, &attempt).await?;
            let content = &revision.spec.content;
            let input = taken(content, &attempt.step).iter().find(|input| input.name == name);
            let files = sealed(&gateway, &desk, &attempt, content, input.ok_or(Refusal::NotFound)?).await?;
            files.into_iter().nth(number).ok_or(Refusal::NotFound)?
        }
    };
    let Source { key, sha256, .. } = &source;
    Download { store: &*desk.open.store, key, sha256: *sha256, disposition: "attachment" }.answer(&headers).await
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn one_file_becomes_the_input_and_a_folder_a_folder() {
        for (declared, file, expected) in [
            ("report.json", "report.json", "given"),
            ("out/report.json", "out/report.json", "given"),
            ("pages", "pages/a.txt", "given/a.txt"),
            ("pages/", "pages/b/a.txt", "given/b/a.txt"),
        ] {
            assert_eq!(place("given", declared, file), expected, "{declared} {file}");
        }
    }
}
