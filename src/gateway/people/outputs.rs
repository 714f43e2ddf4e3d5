//! Outputs: what there is, and the way to the bytes of one file.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use serde::Deserialize;

use super::broker::{Chosen, view};
use super::logs::log;
use super::readable::{Readable, Results};
use super::rights::{self, Once};
use crate::identity::Caller;
use crate::problem::Refusal;
use crate::request::{Filters, Names};
use crate::{Gateway, Shared};
use asynctask_contract::env::LOG_OUTPUT;
use asynctask_contract::people::{DownloadTicket, FileView, GoneView, OutputList, OutputView, Problem};
use asynctask_plan::retention::expiry;

/// Files of an output that are listed with it; more have to be asked for by their number.
const LISTED: usize = 1000;

/// Every output with its first files: declared ones in their order, then any whose declaration is no longer known, then
/// the log.
async fn views(readable: &Readable, results: &Results<'_>) -> Result<Vec<OutputView>, Refusal> {
    let mut outputs: Vec<OutputView> = Vec::new();
    for (name, step, sealed) in results.given() {
        let place = match outputs.iter().position(|output| output.name == name) {
            Some(place) => place,
            None => {
                outputs.push(blank(readable, results, name, step));
                outputs.len() - 1
            }
        };
        let (output, volume) = (&mut outputs[place], sealed.volume(name));
        output.size = output.size.saturating_add(volume.bytes);
        output.count = output.count.saturating_add(volume.files);
        if output.gone.is_some() {
            continue;
        }
        let room = LISTED - output.files.len();
        let files = results.placed(name, step, sealed.files(name, 0, room).await?);
        let first = output.files.len() as u64;
        let numbered = files.iter().zip(first..).map(|(file, number)| FileView {
            number: Some(number),
            step: Some(step.to_owned()),
            ..view(file)
        });
        output.files.extend(numbered);
        output.more = output.count > output.files.len() as u64;
    }
    arrange(&mut outputs, &results.declared().iter().map(|output| output.name.as_str()).collect::<Vec<_>>());
    Ok(outputs)
}

fn blank(readable: &Readable, results: &Results<'_>, name: &str, step: &str) -> OutputView {
    let (task, known) = (&readable.task, rights::known(&readable.task, name));
    let expires = known.and_then(|known| expiry(task, known));
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
        visibility: results.visibility(name).as_str().to_owned(),
        expires_at: expires.map(|at| at.to_string()),
        use_once: known.is_some_and(|known| known.use_once_seconds.is_some()),
        claimed_by: rights::claim(task, name).map(|claim| claim.user.clone()),
        gone: rights::gone(task, name).map(|gone| GoneView {
            at: gone.at.0.to_string(),
            why: gone.why.as_str().to_owned(),
            by: gone.by,
        }),
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
/// Needs the right to `get` `asynctasks/outputs`. Empty while the run has no result. The log of a step without a result, such as
/// one that was cancelled, is not listed: `log/files/0/download?step=STEP` has it.
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
    Ok(Json(OutputList { outputs: views(&readable, &results).await? }))
}

/// Delete an output
///
/// Needs the right to `delete` `asynctasks/outputs`, and that the output is visible to the caller. The run has to be
/// over. From the answer on nobody can fetch it from this run; its bytes are deleted soon after. Who did it and when is kept with the
/// task.
#[utoipa::path(
    delete, path = "/api/v1/namespaces/{namespace}/tasks/{name}/outputs/{output}", tag = "outputs",
    operation_id = "deleteOutput",
    params(
        ("namespace" = String, Path, description = "Namespace"), ("name" = String, Path, description = "Task"),
        ("output" = String, Path, description = "Output")
    ),
    responses(
        (status = 204, description = "It is, or was, deleted"),
        (status = 409, description = "The run has not ended", body = Problem, content_type = "application/problem+json"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn remove(
    State(gateway): State<Shared>,
    caller: Caller,
    Names((namespace, name, output)): Names<(String, String, String)>,
) -> Result<StatusCode, Refusal> {
    let mut readable = Readable::authorised_to("delete", &gateway, &caller, &namespace, &name).await?;
    let definition = readable.definition(&gateway).await?;
    rights::delete(&gateway, &caller, &mut readable, definition.as_deref(), &output).await?;
    Ok(StatusCode::NO_CONTENT)
}

type FilePath = (String, String, String, usize);

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

/// The file, if the caller may have it now; with `claim` also one that is for one use, from now on theirs.
async fn choose(
    gateway: &Gateway,
    caller: &Caller,
    path: &FilePath,
    whose: &Whose,
    claim: bool,
) -> Result<Chosen, Refusal> {
    let (namespace, name, output, number) = path;
    let mut readable = Readable::authorised(gateway, caller, namespace, name).await?;
    let definition = readable.definition(gateway).await?;
    if claim {
        rights::claim_for(gateway, caller, &mut readable, definition.as_deref(), output).await?;
    } else {
        rights::require_readable(&readable, definition.as_deref(), output)?;
    }
    let open = readable.store(gateway).await?.ok_or(Refusal::NotFound)?;
    let file = match &whose.step {
        Some(step) if output == LOG_OUTPUT && *number == 0 => log(gateway, &readable, &open, step, whose.shard).await?,
        Some(_) => {
            return Err(Refusal::BadRequest("`step` and `shard` choose a log: the output is `log`, its file 0".into()));
        }
        None if whose.shard.is_some() => return Err(Refusal::BadRequest("`shard` needs `step`".into())),
        None => {
            let results = readable.results(gateway, &open).await?;
            let file = results.files(output, *number as u64, 1).await?.pop();
            if file.is_none() && !results.files(output, 0, 1).await?.is_empty() {
                let hint = "numbers begin at 0, and the list of outputs names them";
                return Err(Refusal::NotThere(format!("output {output:?} has no file {number}: {hint}")));
            }
            file
        }
    };
    let file = file.ok_or(Refusal::NotFound)?;
    Ok(Chosen { open, file, once: Once::of(readable, output) })
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
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    choose(&gateway, &caller, &path, &whose, false).await?.download(&gateway, &method, &headers).await
}

/// Ask for the way to a file
///
/// As the GET of the same path, for programs: with `Accept: application/json` the answer is a ticket with the
/// request to make and the checksum to expect; else 303. An output that is for one use is the caller's from then on: they
/// may fetch it again within its window, and nobody else can.
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
    choose(&gateway, &caller, &path, &whose, true).await?.ticket(&uri, &headers).await
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
            visibility: "Owner".into(),
            expires_at: None,
            use_once: false,
            claimed_by: None,
            gone: None,
        };
        let mut outputs = ["data", "log", "forgotten", "report"].map(output);
        arrange(&mut outputs, &["report", "data"]);
        assert_eq!(outputs.map(|output| output.name), ["report", "data", "forgotten", "log"]);
    }
}
