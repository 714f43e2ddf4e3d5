//! What a step reads: files the run was given, be they uploads or outputs of other runs, and outputs that earlier steps
//! have sealed.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use kube::Api;
use serde::Deserialize;

use super::declared::Declared;
use super::source::Source;
use super::{Attempt, Desk};
use crate::identity::Agent;
use crate::problem::Refusal;
use crate::request::{self, Filters, Names};
use crate::sealed::{Sealed, status_of};
use crate::stores::require_open;
use crate::{Gateway, Shared};
use asynctask_api::AsyncTask;
use asynctask_api::definition::StepInputSpec;
use asynctask_api::task::{InputRef, OutputRef};
use asynctask_contract::wire::{InputSource, Limits, path, word};
use asynctask_plan::fanout::BuiltIn;
use asynctask_plan::inputs::may_read;
use asynctask_storage::StoreError;
use asynctask_storage::digest::Digest;
use asynctask_storage::records::{ManifestFile, RECORD_MAX, UploadRecord, decode};

/// One file a step reads.
struct Input {
    /// Name of the input.
    name: String,
    /// Where it goes below `$ASYNCTASK_INPUTS`, if not to the name.
    path: Option<String>,
    size: u64,
    sha256: Digest,
    source: Source,
}

impl Input {
    async fn offer(self, desk: &Desk, proxied: String) -> Result<InputSource, Refusal> {
        let source = self.source.request(desk, || proxied).await?;
        let Self { name, path, size, sha256, source: _ } = self;
        Ok(InputSource { name, path, size, sha256: sha256.to_string(), source })
    }
}

/// All files the attempt reads: what the run was given, and what its step takes from earlier ones.
pub(super) async fn sources(
    gateway: &Gateway,
    desk: &Desk,
    attempt: &Attempt,
    declared: &Declared,
) -> Result<Vec<InputSource>, Refusal> {
    let mut sources = Vec::new();
    for (name, reference) in attempt.task.spec.inputs.iter().filter(|(name, _)| is_read(declared, name)) {
        if let Some(input) = given(gateway, desk, attempt, name, reference).await? {
            sources.push(input.offer(desk, format!("{}/{name}/content", path::INPUTS)).await?);
        }
    }
    for taken in &declared.step().inputs {
        let files = sealed(gateway, desk, attempt, declared, taken).await?;
        for (number, file) in files.into_iter().enumerate() {
            let proxied = format!("{}/{}/content?file={number}", path::INPUTS, taken.name);
            sources.push(input(taken, file).offer(desk, proxied).await?);
        }
    }
    Ok(sources)
}

/// Whether a step reads an input of the run. All steps of the author do that name no others, but for the shards of an input: each has its
/// items instead, and 100,000 copies of the whole would be fetched for nothing.
fn is_read(declared: &Declared, input: &str) -> bool {
    match &declared.step().built_in {
        Some(BuiltIn::Split { input: cut }) => cut == input,
        Some(BuiltIn::Assemble { .. }) => false,
        None if declared.step().run_inputs.as_ref().is_some_and(|named| named.iter().all(|name| name != input)) => {
            false
        }
        None => {
            declared.planner().and_then(|planner| planner.built_in.as_ref()).is_none_or(|built_in| match built_in {
                BuiltIn::Split { input: cut } => cut != input,
                BuiltIn::Assemble { .. } => true,
            })
        }
    }
}

/// The file an input of the run names.
async fn given(
    gateway: &Gateway,
    desk: &Desk,
    attempt: &Attempt,
    name: &str,
    reference: &InputRef,
) -> Result<Option<Input>, Refusal> {
    match (&reference.upload, &reference.output) {
        (Some(id), _) => upload(desk, attempt, name, id).await.map(Some),
        (None, Some(output)) => other_run(gateway, attempt, name, output).await.map(Some),
        (None, None) => Ok(None),
    }
}

fn input(taken: &StepInputSpec, file: Placed) -> Input {
    let Placed { path, file: ManifestFile { size, sha256, key, .. } } = file;
    Input { name: taken.name.clone(), path: Some(path), size, sha256, source: Source::own(key) }
}

/// A file and where it goes.
struct Placed {
    path: String,
    file: ManifestFile,
}

/// The files of the output that an input takes. None when its step has no result: an alternative that did not occur.
async fn sealed(
    gateway: &Gateway,
    desk: &Desk,
    attempt: &Attempt,
    declared: &Declared,
    input: &StepInputSpec,
) -> Result<Vec<Placed>, Refusal> {
    let definition = declared.definition();
    let Some(output) = definition.outputs.iter().find(|output| output.name == input.output) else {
        return Ok(Vec::new());
    };
    let Some(giver) = definition.giver(output) else { return Ok(Vec::new()) };
    let Some(sealed) = Sealed::of_step(gateway, &desk.open, &attempt.task, &giver.name).await? else {
        return Ok(Vec::new());
    };
    let (count, most) = (sealed.volume(&output.name).files, Limits::default().files);
    if count > u64::from(most) {
        let message = format!(
            "input {:?}: output {:?} has {count} files, and a step is given at most {most}: append them to one",
            input.name, output.name
        );
        return Err(Refusal::invalid("TooManyFiles", message));
    }
    let files = sealed.files(&output.name, 0, most as usize).await?;
    let placed = |file: ManifestFile| Placed { path: place(&input.name, &output.path, &file.path), file };
    Ok(files.into_iter().map(placed).collect())
}

/// Where a file of an output goes: an output that is one file becomes the input itself, a folder a folder of that name.
fn place(input: &str, declared: &str, file: &str) -> String {
    let folder = declared.trim_end_matches('/');
    // The list of failed items has no path of its own to be a folder of.
    let below = if folder.is_empty() { Some("") } else { file.strip_prefix(folder) };
    match below.map(|below| below.trim_start_matches('/')) {
        Some("") => input.to_owned(),
        Some(below) => format!("{input}/{below}"),
        None => format!("{input}/{file}"),
    }
}

/// The upload an input names, if this run may read it: complete, by the run's owner, for this definition and input.
async fn upload(desk: &Desk, attempt: &Attempt, input: &str, id: &str) -> Result<Input, Refusal> {
    // One sentence for all of it: it must not tell a foreign upload from one that does not exist.
    let missing = || {
        let message = format!(
            "input {input:?}: there is no complete upload {id:?} of this run's owner for it: upload the file again"
        );
        Refusal::invalid(word::INPUT_MISSING, message)
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
    let found = Input { name: input.to_owned(), path: None, size, sha256, source: Source::own(keys.data()) };
    fits.then_some(found).ok_or_else(missing)
}

/// The one file of an output of another run, if this run may read it.
async fn other_run(gateway: &Gateway, attempt: &Attempt, input: &str, wanted: &OutputRef) -> Result<Input, Refusal> {
    // One sentence for all of it: it must not tell a run of strangers from one that does not exist.
    let missing = || {
        let (task, name) = (&wanted.task, &wanted.name);
        let message = format!(
            "input {input:?}: there is no finished run {task:?} of this run's owner, or shown to its team, with one file as its output \
             {name:?}: see `kubectl asynctask outputs {task}`"
        );
        Refusal::invalid(word::INPUT_MISSING, message)
    };
    let name = request::object(&wanted.task).map_err(|_| missing())?;
    let read = Api::<AsyncTask>::namespaced(gateway.client.clone(), &attempt.namespace).get_opt(name).await;
    let read = read.map_err(|source| Refusal::Kube { act: "read the AsyncTask an input comes from", source })?;
    let task = read.filter(|task| may_read(&attempt.task.spec, task, &wanted.name)).ok_or_else(missing)?;
    let store = task.status.as_ref().and_then(|status| status.store.as_ref()).ok_or_else(missing)?;
    let open = gateway.stores.by_ref(store).await?;
    // What was withdrawn from the namespace since gives nothing out, to programs no more than to people.
    let withdrawn = |refusal: Refusal| match refusal {
        Refusal::Conflict { message, .. } => Refusal::invalid(word::INPUT_MISSING, message),
        other => other,
    };
    require_open(gateway, &*gateway.stores.object(&store.name).await?, &attempt.namespace).await.map_err(withdrawn)?;
    let giver = giver(gateway, &attempt.namespace, &task, &wanted.name).await?.ok_or_else(missing)?;
    let sealed = Sealed::of_step(gateway, &open, &task, &giver).await?.ok_or_else(missing)?;
    // Of two there is no saying which is meant.
    let [file] = <[ManifestFile; 1]>::try_from(sealed.files(&wanted.name, 0, 2).await?).map_err(|_| missing())?;
    let other = attempt.store()? != store;
    let ManifestFile { size, sha256, key, .. } = file;
    let source = Source { key, open: other.then_some(open) };
    Ok(Input { name: input.to_owned(), path: None, size, sha256, source })
}

/// The step that gave an output of a finished run. Its revision may be gone: then the status says what it said last.
async fn giver(gateway: &Gateway, namespace: &str, task: &AsyncTask, output: &str) -> Result<Option<String>, Refusal> {
    let Some(status) = &task.status else { return Ok(None) };
    if let Some(pinned) = &status.revision {
        match gateway.catalog.definition(namespace, pinned).await {
            Ok(definition) => {
                let declared = definition.outputs.iter().find(|declared| declared.name == output);
                let giver = declared.and_then(|declared| definition.giver(declared));
                return Ok(giver
                    .filter(|giver| status_of(task, &giver.name).is_some())
                    .map(|giver| giver.name.clone()));
            }
            Err(Refusal::Conflict { .. }) => {}
            Err(refusal) => return Err(refusal),
        }
    }
    Ok(status.outputs.iter().find(|known| known.name == output).map(|known| known.step.clone()))
}

/// Which file of an input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Of an output, which of its files, from 0; absent: the file the run was given.
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
    let declared = Declared::of(&gateway, &attempt).await?;
    let found = match which.file {
        None => {
            let reference = attempt.task.spec.inputs.get(&name).filter(|_| is_read(&declared, &name));
            given(&gateway, &desk, &attempt, &name, reference.ok_or(Refusal::NotFound)?).await?
        }
        Some(number) => {
            let taken = declared.step().inputs.iter().find(|input| input.name == name).ok_or(Refusal::NotFound)?;
            let files = sealed(&gateway, &desk, &attempt, &declared, taken).await?;
            files.into_iter().nth(number).map(|file| input(taken, file))
        }
    };
    let found = found.ok_or(Refusal::NotFound)?;
    found.source.answer(&desk, found.sha256, &headers).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_becomes_the_input_and_a_folder_a_folder() {
        for (declared, file, expected) in [
            ("report.json", "report.json", "given"),
            ("out/report.json", "out/report.json", "given"),
            ("pages", "pages/a.txt", "given/a.txt"),
            ("pages/", "pages/b/a.txt", "given/b/a.txt"),
            ("pages", "3/pages/a.txt", "given/3/pages/a.txt"),
            ("", "failures.jsonl", "given"),
        ] {
            assert_eq!(place("given", declared, file), expected, "{declared} {file}");
        }
    }
}
