//! What an assembling step puts together: the segments of an output, in the order of the shards that wrote them.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;

use super::declared::Declared;
use super::source::Source;
use super::{Attempt, Desk, attempt::not_yet};
use crate::appended::base_file;
use crate::identity::Agent;
use crate::problem::Refusal;
use crate::request::{Filters, Names};
use crate::sealed::{Sealed, status_of};
use crate::{Gateway, Shared};
use asynctask_api::state::StepState;
use asynctask_contract::wire::{AssembledOutput, Segment, Segments, path};
use asynctask_plan::fanout::BuiltIn;
use asynctask_storage::records::ManifestFile;

/// Segments of one answer: their signed URLs are a few hundred KiB.
const AT_ONCE: usize = 500;
/// Stands for a segment's number in the path of the base file.
const BASE: &str = "base";

/// The outputs an assembling step puts together, and of how many segments.
pub(super) async fn outputs(
    gateway: &Gateway,
    desk: &Desk,
    attempt: &Attempt,
    declared: &Declared,
) -> Result<Vec<AssembledOutput>, Refusal> {
    let sealed = shards(gateway, desk, attempt, declared).await?;
    let mut outputs = Vec::new();
    for output in declared.outputs() {
        let files = sealed.as_ref().map_or(0, |sealed| sealed.volume(&output.name).files);
        let segments = u32::try_from(files).map_err(|_| Refusal::Defect("more segments than a number holds".into()))?;
        let base = match base_file(gateway, &desk.open, &attempt.task, declared.definition(), output).await? {
            None => None,
            Some(file) => Some(segment(desk, &output.name, BASE, file).await?),
        };
        let header = output.append.as_ref().is_some_and(|append| append.header == Some(true));
        outputs.push(AssembledOutput { output: output.name.clone(), header, segments, base });
    }
    Ok(outputs)
}

/// The sealed shards; `None` where there were none, as the step had no item.
async fn shards<'a>(
    gateway: &'a Gateway,
    desk: &'a Desk,
    attempt: &Attempt,
    declared: &Declared,
) -> Result<Option<Sealed<'a>>, Refusal> {
    let Some(BuiltIn::Assemble { of }) = declared.step().built_in else { return Err(Refusal::NotFound) };
    let fan_out = &declared.definition().steps[of].name;
    let sealed = Sealed::of_step(gateway, &desk.open, &attempt.task, fan_out).await?;
    let skipped = status_of(&attempt.task, fan_out).is_some_and(|step| step.state == Some(StepState::Skipped));
    if sealed.is_none() && !skipped {
        // Less than all is never put together: they were sealed before the Job of this step was made.
        return Err(not_yet());
    }
    Ok(sealed)
}

async fn segment(desk: &Desk, output: &str, number: &str, file: ManifestFile) -> Result<Segment, Refusal> {
    let source = Source::own(file.key);
    let source = source.request(desk, || format!("{}/{output}/{number}/content", path::SEGMENTS)).await?;
    Ok(Segment { size: file.size, sha256: file.sha256.to_string(), source })
}

/// Which segments.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    output: String,
    #[serde(default)]
    from: u32,
}

/// `GET /agent/v1/segments?output=name&from=n`
pub(super) async fn segments(
    State(gateway): State<Shared>,
    agent: Agent,
    Filters(wanted): Filters<Wanted>,
) -> Result<Json<Segments>, Refusal> {
    let attempt = gateway.attempts.recent(&agent.pod).await?;
    agent.trail.asks("read", attempt.what());
    attempt.require_open()?;
    let declared = Declared::of(&gateway, &attempt).await?;
    let output = declared.output(&wanted.output).ok_or(Refusal::NotFound)?;
    let desk = Desk::of(&gateway, &attempt).await?;
    let Some(sealed) = shards(&gateway, &desk, &attempt, &declared).await? else {
        return Ok(Json(Segments { segments: Vec::new(), next: None }));
    };
    let mut segments = Vec::new();
    let mut number = wanted.from;
    for file in sealed.files(&output.name, u64::from(wanted.from), AT_ONCE).await? {
        segments.push(segment(&desk, &output.name, &number.to_string(), file).await?);
        number = number.saturating_add(1);
    }
    let more = u64::from(number) < sealed.volume(&output.name).files && !segments.is_empty();
    Ok(Json(Segments { segments, next: more.then_some(number) }))
}

/// `GET /agent/v1/segments/{output}/{number}/content`
pub(super) async fn content(
    State(gateway): State<Shared>,
    agent: Agent,
    Names((name, number)): Names<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let attempt = gateway.attempts.recent(&agent.pod).await?;
    agent.trail.asks("read", attempt.what());
    attempt.require_open()?;
    let declared = Declared::of(&gateway, &attempt).await?;
    let output = declared.output(&name).ok_or(Refusal::NotFound)?;
    let desk = Desk::of(&gateway, &attempt).await?;
    let sealed = shards(&gateway, &desk, &attempt, &declared).await?;
    let file = match (number.parse::<u64>(), &sealed) {
        (Err(_), _) if number == BASE => {
            base_file(&gateway, &desk.open, &attempt.task, declared.definition(), output).await?
        }
        (Ok(number), Some(sealed)) => sealed.file(&output.name, number).await?,
        (_, _) => None,
    };
    let file = file.ok_or(Refusal::NotFound)?;
    Source::own(file.key).answer(&desk, file.sha256, &headers).await
}
