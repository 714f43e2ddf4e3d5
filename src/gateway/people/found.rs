//! Finding outputs across the runs of a namespace.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ListParams;
use serde::Deserialize;

use super::rights::{Near, gone, visibility};
use super::tasks::{Which, objects};
use crate::Shared;
use crate::authorize::Access;
use crate::identity::Caller;
use crate::problem::Refusal;
use crate::request::{self, Filters, Names};
use asynctask_api::AsyncTask;
use asynctask_api::names::subresource::{OUTPUTS, VISIBILITY};
use asynctask_contract::env::LOG_OUTPUT;
use asynctask_contract::people::{FoundOutput, FoundOutputs, Problem};
use asynctask_plan::retention::{expiry, moment};
use asynctask_runtime::client::is_status;

/// Runs looked at for one answer.
const PAGE: u32 = 200;

/// Which outputs are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Of runs of this owner.
    owner: Option<String>,
    /// Of runs of this team.
    team: Option<String>,
    /// Of runs of this definition.
    definition: Option<String>,
    /// Of this name.
    output: Option<String>,
    /// Of runs that were created since this date or time (RFC 3339).
    since: Option<String>,
    /// Where the page before ended.
    r#continue: Option<String>,
}

/// Find outputs
///
/// Needs the right to `list` `asynctasks/outputs` in the namespace. Outputs that are there and visible to the caller, of the
/// runs whose objects are there, finished or not; logs are not among them. A page may be empty and not the last.
#[utoipa::path(
    get, path = "/api/v1/namespaces/{namespace}/outputs", tag = "outputs", operation_id = "findOutputs",
    params(("namespace" = String, Path, description = "Namespace"), Wanted),
    responses((status = 200, body = FoundOutputs), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn find(
    State(gateway): State<Shared>,
    caller: Caller,
    Names(namespace): Names<String>,
    Filters(wanted): Filters<Wanted>,
) -> Result<Json<FoundOutputs>, Refusal> {
    let namespace = request::namespace(&namespace)?;
    gateway.authorizer.require(&caller, Access::namespace("list", namespace).of(OUTPUTS)).await?;
    let since = wanted.since.as_deref().map(since).transpose()?;
    let which = Which { owner: &wanted.owner, team: &wanted.team, state: &None, definition: &wanted.definition };
    let mut params = ListParams::default().limit(PAGE).fields(&which.selector());
    params.continue_token.clone_from(&wanted.r#continue);
    let listed = objects(&gateway, namespace).list(&params).await.map_err(|source| match source {
        source if is_status(&source, 410) => Refusal::Expired,
        source if is_status(&source, 400) => Refusal::BadRequest("`continue` is not one this list gave".into()),
        source => Refusal::Kube { act: "list AsyncTasks", source },
    })?;
    let next = listed.metadata.continue_.filter(|next| !next.is_empty());
    let all = gateway.authorizer.has(&caller, Access::namespace("bypass", namespace).of(VISIBILITY)).await?;
    // One that this release cannot read has no outputs that it could give.
    let tasks = listed.items.into_iter().filter_map(|object| object.try_parse::<AsyncTask>().ok());
    let tasks = tasks.filter(|task| since.is_none_or(|since| created(task).is_some_and(|created| created >= since)));
    let outputs = tasks.flat_map(|task| {
        let near = if all { Near::Owner } else { Near::of(&task, &caller.person) };
        found(&task, near, wanted.output.as_deref())
    });
    Ok(Json(FoundOutputs { outputs: outputs.collect(), next }))
}

pub(super) fn since(text: &str) -> Result<Timestamp, Refusal> {
    let wrong =
        || Refusal::BadRequest("`since` must be a date such as 2027-01-31, or a time as RFC 3339 has it".into());
    moment(text).ok_or_else(wrong)
}

fn created(task: &AsyncTask) -> Option<Timestamp> {
    task.creation_timestamp().map(|time| time.0)
}

/// The outputs of a run that somebody sees and that are there.
fn found(task: &AsyncTask, near: Near, name: Option<&str>) -> Vec<FoundOutput> {
    let outputs = task.status.iter().flat_map(|status| &status.outputs);
    let wanted = outputs.filter(|output| output.name != LOG_OUTPUT && name.is_none_or(|name| output.name == name));
    let there =
        wanted.filter(|output| near.sees(visibility(task, None, &output.name)) && gone(task, &output.name).is_none());
    let view = |output: &asynctask_api::outputs::OutputStatus| FoundOutput {
        task: task.name_any(),
        definition: task.spec.definition.name.clone(),
        owner: task.spec.owner.clone(),
        team: task.spec.team.clone(),
        created_at: created(task).map(|at| at.to_string()),
        output: output.name.clone(),
        step: output.step.clone(),
        files: u64::try_from(output.files).unwrap_or(0),
        size: u64::try_from(output.size).unwrap_or(0),
        media_type: output.media_type.clone(),
        visibility: visibility(task, None, &output.name).as_str().to_owned(),
        expires_at: expiry(task, output).map(|at| at.to_string()),
        use_once: output.use_once_seconds.is_some(),
    };
    there.map(view).collect()
}
