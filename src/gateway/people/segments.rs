//! What an appended output consists of, for readers that take the pieces instead of the file that is put together from
//! them: also where that is not done, or not yet.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
use serde::Deserialize;

use super::broker::Chosen;
use super::readable::Readable;
use super::rights::{claim_for, require_readable};
use crate::appended::base_file;
use crate::identity::Caller;
use crate::problem::Refusal;
use crate::request::{Filters, Names};
use crate::sealed::{Sealed, status_of};
use crate::{Gateway, Shared};
use asynctask_api::definition::OutputSpec;
use asynctask_api::state::StepState;
use asynctask_contract::people::{DownloadTicket, Problem, SegmentList, SegmentView};
use asynctask_plan::definition::ValidatedDefinition;
use asynctask_plan::fanout::is_appended;
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::records::ManifestFile;

/// Segments on a page where the caller does not say.
const PAGE: usize = 100;
/// Most segments on a page.
const PAGE_MAX: usize = 500;

/// Which part of the list.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Most segments in the answer, 1 to 500; absent: 100
    limit: Option<usize>,
    /// From the answer before
    r#continue: Option<String>,
}

impl Wanted {
    fn limit(&self) -> Result<usize, Refusal> {
        let limit = self.limit.unwrap_or(PAGE);
        let fits = (1..=PAGE_MAX).contains(&limit);
        fits.then_some(limit).ok_or_else(|| Refusal::BadRequest(format!("`limit` must be from 1 to {PAGE_MAX}")))
    }

    fn from(&self) -> Result<u64, Refusal> {
        let wrong = || Refusal::BadRequest("`continue` is not one this list gave".into());
        self.r#continue.as_deref().map_or(Ok(0), |text| text.parse().map_err(|_| wrong()))
    }
}

/// A segment of an output: the base file has no shard.
struct Piece {
    shard: Option<u32>,
    file: ManifestFile,
}

/// The pieces of an appended output, in their order.
struct Pieces<'a> {
    output: &'a OutputSpec,
    base: Option<ManifestFile>,
    /// Of the shards; `None`: there were none, as the step had no item.
    sealed: Option<Sealed<'a>>,
}

impl<'a> Pieces<'a> {
    async fn of(
        gateway: &'a Gateway,
        open: &'a OpenStore,
        readable: &Readable,
        definition: &'a ValidatedDefinition,
        output: &str,
    ) -> Result<Self, Refusal> {
        let output = definition.outputs.iter().find(|known| known.name == output).ok_or(Refusal::NotFound)?;
        let step = definition.steps.iter().find(|step| step.name == output.step).ok_or(Refusal::NotFound)?;
        if !is_appended(output, step.fan_out.is_some()) {
            let message = format!("output {:?} is not put together from segments: list its files", output.name);
            return Err(Refusal::invalid("NotAppended", message));
        }
        let sealed = Sealed::of_step(gateway, open, &readable.task, &step.name).await?;
        if sealed.is_none() {
            require_skipped(readable, &step.name)?;
        }
        let base = base_file(gateway, open, &readable.task, definition, output).await?;
        Ok(Self { output, base, sealed })
    }

    fn count(&self) -> u64 {
        let shards = self.sealed.as_ref().map_or(0, |sealed| sealed.volume(&self.output.name).files);
        shards.saturating_add(u64::from(self.base.is_some()))
    }

    fn size(&self) -> u64 {
        let shards = self.sealed.as_ref().map_or(0, |sealed| sealed.volume(&self.output.name).bytes);
        shards.saturating_add(self.base.as_ref().map_or(0, |base| base.size))
    }

    /// At most `limit` of them, from number `from` on.
    async fn some(&self, from: u64, limit: usize) -> Result<Vec<Piece>, Refusal> {
        let base = self.base.iter().filter(|_| from == 0 && limit > 0);
        let mut found: Vec<Piece> = base.map(|file| Piece { shard: None, file: file.clone() }).collect();
        if let Some(sealed) = &self.sealed {
            let from = from.saturating_sub(u64::from(self.base.is_some()));
            let files = sealed.files_of_shards(&self.output.name, from, limit - found.len()).await?;
            found.extend(files.into_iter().map(|(shard, file)| Piece { shard: Some(shard), file }));
        }
        Ok(found)
    }

    async fn page(&self, from: u64, limit: usize) -> Result<SegmentList, Refusal> {
        let pieces = self.some(from, limit).await?;
        let next = from.saturating_add(pieces.len() as u64);
        let more = next < self.count() && !pieces.is_empty();
        let view = |(number, Piece { shard, file }): (u64, Piece)| SegmentView {
            number,
            shard,
            size: file.size,
            sha256: file.sha256.to_string(),
        };
        Ok(SegmentList {
            output: self.output.name.clone(),
            step: self.output.step.clone(),
            header: self.output.append.as_ref().is_some_and(|append| append.header == Some(true)),
            count: self.count(),
            size: self.size(),
            segments: (from..).zip(pieces).map(view).collect(),
            next: more.then(|| next.to_string()),
        })
    }
}

/// A step without a sealed result has no segments only if it had nothing to do.
fn require_skipped(readable: &Readable, step: &str) -> Result<(), Refusal> {
    let state = status_of(&readable.task, step).and_then(|status| status.state);
    let message = match state {
        Some(StepState::Skipped) => return Ok(()),
        Some(state) if state.is_over() => format!("step {step} ended without a result: it has no segments"),
        Some(_) | None => format!("step {step} has not ended: its segments are known when it has, ask again then"),
    };
    Err(Refusal::Conflict { word: "NotSealed", message })
}

fn not_started() -> Refusal {
    let message = "this run has not started: its segments are known when their step has ended, ask again then".into();
    Refusal::Conflict { word: "NotSealed", message }
}

/// How the pieces belong together is told by the definition alone.
async fn definition(gateway: &Gateway, readable: &Readable) -> Result<Arc<ValidatedDefinition>, Refusal> {
    let message = "the definition of this run is gone, and with it how segments belong together: download the files of \
                   the output";
    let gone = || Refusal::Conflict { word: "DefinitionGone", message: message.into() };
    readable.definition(gateway).await?.ok_or_else(gone)
}

/// List segments
///
/// Needs the right to `get` `asynctasks/outputs`. An output with `append` is its segments one after the other: the base
/// file, where there is one, then that of each shard that gave a result, in the order of the shards. With `header`
/// the first line of each is left out, but for the first one that has any; a last line without an end is ended before the
/// next segment begins.
/// They are known when the step that fans out has ended, also where it failed and nothing is put together.
#[utoipa::path(
    get, path = "/api/v1/namespaces/{namespace}/tasks/{name}/outputs/{output}/segments", tag = "outputs",
    operation_id = "listSegments",
    params(
        ("namespace" = String, Path, description = "Namespace"), ("name" = String, Path, description = "Task"),
        ("output" = String, Path, description = "Output"), Wanted
    ),
    responses(
        (status = 200, body = SegmentList),
        (status = 409, description = "The step has not ended, or has no result", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The output is not appended to", body = Problem, content_type = "application/problem+json"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn list(
    State(gateway): State<Shared>,
    caller: Caller,
    Names((namespace, name, output)): Names<(String, String, String)>,
    Filters(wanted): Filters<Wanted>,
) -> Result<Json<SegmentList>, Refusal> {
    let readable = Readable::authorised(&gateway, &caller, &namespace, &name).await?;
    let (from, limit) = (wanted.from()?, wanted.limit()?);
    let open = readable.store(&gateway).await?.ok_or_else(not_started)?;
    let definition = definition(&gateway, &readable).await?;
    require_readable(&readable, Some(&definition), &output)?;
    let pieces = Pieces::of(&gateway, &open, &readable, &definition, &output).await?;
    Ok(Json(pieces.page(from, limit).await?))
}

type SegmentPath = (String, String, String, u64);

async fn choose(gateway: &Gateway, caller: &Caller, path: &SegmentPath, claim: bool) -> Result<Chosen, Refusal> {
    let (namespace, name, output, number) = path;
    let mut readable = Readable::authorised(gateway, caller, namespace, name).await?;
    let open = readable.store(gateway).await?.ok_or_else(not_started)?;
    let definition = definition(gateway, &readable).await?;
    if claim {
        claim_for(gateway, caller, &mut readable, Some(&definition), output).await?;
    } else {
        require_readable(&readable, Some(&definition), output)?;
    }
    let pieces = Pieces::of(gateway, &open, &readable, &definition, output).await?;
    let found = pieces.some(*number, 1).await?.pop();
    let Piece { file, .. } = found.ok_or(Refusal::NotFound)?;
    drop(pieces);
    Ok(Chosen { open, file, once: None })
}

/// Download a segment
///
/// As a file of an output: needs the right to `get` `asynctasks/outputs`, each time; 303 to a short-lived URL of the
/// store, or the bytes where the store cannot let others in.
#[utoipa::path(
    get, path = "/api/v1/namespaces/{namespace}/tasks/{name}/outputs/{output}/segments/{number}/download", tag = "outputs",
    operation_id = "downloadSegment",
    params(
        ("namespace" = String, Path, description = "Namespace"), ("name" = String, Path, description = "Task"),
        ("output" = String, Path, description = "Output"), ("number" = u64, Path, description = "Number of the segment, from 0"),
        ("Range" = Option<String>, Header, description = "One range of bytes")
    ),
    responses(
        (status = 303, description = "At `Location`, for a minute at most; the URL is a key, keep it from logs"),
        (status = 200, description = "The segment", content_type = "application/octet-stream"),
        (status = 206, description = "The range of it", content_type = "application/octet-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn download(
    State(gateway): State<Shared>,
    caller: Caller,
    Names(path): Names<SegmentPath>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    choose(&gateway, &caller, &path, false).await?.download(&gateway, &method, &headers).await
}

/// Ask for the way to a segment
///
/// As the GET of the same path, for programs: with `Accept: application/json` the answer is a ticket; else 303.
#[utoipa::path(
    post, path = "/api/v1/namespaces/{namespace}/tasks/{name}/outputs/{output}/segments/{number}/download", tag = "outputs",
    operation_id = "requestSegment",
    params(
        ("namespace" = String, Path, description = "Namespace"), ("name" = String, Path, description = "Task"),
        ("output" = String, Path, description = "Output"), ("number" = u64, Path, description = "Number of the segment, from 0")
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
    Names(path): Names<SegmentPath>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    choose(&gateway, &caller, &path, true).await?.ticket(&uri, &headers).await
}
