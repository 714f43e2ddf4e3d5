//! Running again, in a new run, what did not succeed in a finished one.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::readable::read;
use super::tasks::{self, submit};
use crate::Shared;
use crate::authorize::Access;
use crate::identity::Caller;
use crate::problem::Refusal;
use crate::request::{self, MaybePayload, Names};
use asynctask_api::AsyncTask;
use asynctask_api::names::subresource::RETRY;
use asynctask_api::task::{AsyncTaskSpec, RetryOf};
use asynctask_contract::people::{Problem, RetryRequest};

/// Run a task again
///
/// Needs the right to `create` `asynctasks/retry` and to `create` `asynctasks`, by the owner of the run. Makes a new
/// run of the same definition, revision, parameters, inputs and team. What succeeded is taken over: whole steps, and of a
/// step that fans out the shards that gave a result. Give a `name` or the header `Idempotency-Key`: asking again with
/// the same one gives the same run.
#[utoipa::path(
    post, path = "/api/v1/namespaces/{namespace}/tasks/{name}/retry", tag = "tasks", operation_id = "retryTask",
    params(
        ("namespace" = String, Path, description = "Namespace"), ("name" = String, Path, description = "The finished run"),
        ("Idempotency-Key" = Option<String>, Header, description = "Any text of 1 to 255 visible ASCII characters, new for each new run")
    ),
    request_body = Option<RetryRequest>,
    responses(
        (status = 201, description = "Created: the AsyncTask object", body = ref("#/components/schemas/AsyncTask")),
        (status = 200, description = "The same was created before: that AsyncTask object", body = ref("#/components/schemas/AsyncTask")),
        (status = 409, description = "The run has not ended, or is Complete", body = Problem, content_type = "application/problem+json"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn retry(
    State(gateway): State<Shared>,
    caller: Caller,
    Names((namespace, name)): Names<(String, String)>,
    headers: HeaderMap,
    MaybePayload(asked): MaybePayload<RetryRequest>,
) -> Result<Response, Refusal> {
    let (namespace, name) = (request::namespace(&namespace)?, request::object(&name)?);
    gateway.authorizer.require(&caller, Access::task("create", namespace, name).of(RETRY)).await?;
    gateway.authorizer.require(&caller, Access::namespace("create", namespace)).await?;
    let source = read(&gateway, namespace, name).await?.ok_or(Refusal::NotFound)?;
    let spec = spec(&source, &caller)?;
    // They may have left it since.
    tasks::require_member(&caller.person, spec.team.as_deref())?;
    let prefix = format!("{name}-retry");
    let new = tasks::named(asked.name.as_deref(), &prefix, &caller.person, namespace, &headers)?;
    let metadata = ObjectMeta { name: Some(new), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() };
    submit(&gateway, namespace, AsyncTask { metadata, spec, status: None }).await
}

fn spec(source: &AsyncTask, caller: &Caller) -> Result<AsyncTaskSpec, Refusal> {
    if source.spec.owner.as_deref() != Some(caller.person.user.as_str()) {
        return Err(Refusal::Forbidden(
            "only its owner can continue a run: results are taken over from owner to owner".into(),
        ));
    }
    let status = source.status.clone().unwrap_or_default();
    let name = source.name_any();
    let conflict = |message: String| Refusal::Conflict { word: "NotRetriable", message };
    match status.state {
        Some(asynctask_api::TaskState::Complete) => {
            return Err(conflict(format!("run {name} is Complete: nothing is left to do")));
        }
        Some(state) if state.is_terminal() => {}
        _ => return Err(conflict(format!("run {name} has not ended: wait for its end or cancel it"))),
    }
    let mut definition = source.spec.definition.clone();
    definition.revision = status.revision.map(|revision| revision.name).or(definition.revision);
    Ok(AsyncTaskSpec {
        definition,
        start_after: None,
        suspend: None,
        cancel: None,
        keep_until: None,
        retry_of: Some(RetryOf { name }),
        once: None,
        ..source.spec.clone()
    })
}
