//! Cancelling: sets `spec.cancel`, and says what that will do.

use axum::Json;
use axum::extract::State;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::authorize::Access;
use crate::identity::Caller;
use crate::problem::Refusal;
use crate::request::{self, Names};
use crate::{Gateway, Shared};
use asynctask_api::AsyncTask;
use asynctask_api::names::{ANNOTATION_CANCELED_BY, MANAGER_GATEWAY, subresource::CANCEL};
use asynctask_contract::people::{CancelRequested, Problem};
use asynctask_plan::cancel::Cancellation;

/// Cancel a task
///
/// Needs the right to `create` `asynctasks/cancel`. One way: a request is never taken back. Where the definition does
/// not allow it now, `refusedNow` says why; the request is kept and takes effect when that step has ended. Asking twice
/// is asking once.
#[utoipa::path(
    post, path = "/api/v1/namespaces/{namespace}/tasks/{name}/cancel", tag = "tasks", operation_id = "cancelTask",
    params(("namespace" = String, Path, description = "Namespace"), ("name" = String, Path, description = "Task")),
    responses(
        (status = 200, body = CancelRequested),
        (status = 409, description = "The run is over", body = Problem, content_type = "application/problem+json"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn cancel(
    State(gateway): State<Shared>,
    caller: Caller,
    Names((namespace, name)): Names<(String, String)>,
) -> Result<Json<CancelRequested>, Refusal> {
    let (namespace, name) = (request::namespace(&namespace)?, request::object(&name)?);
    gateway.authorizer.require(&caller, Access::task("create", namespace, name).of(CANCEL)).await?;
    let tasks = Api::<AsyncTask>::namespaced(gateway.client.clone(), namespace);
    let read = tasks.get_opt(name).await;
    let read = read.map_err(|source| Refusal::Kube { act: "read an AsyncTask", source })?;
    let mut task = read.ok_or(Refusal::NotFound)?;
    if !task.spec.is_canceled() {
        require_running(&task)?;
        // Only this object: one made anew under the name is another run.
        let by = json!({ANNOTATION_CANCELED_BY: caller.person.user});
        let patch = json!({"metadata": {"uid": task.metadata.uid, "annotations": by}, "spec": {"cancel": true}});
        let params = PatchParams { field_manager: Some(MANAGER_GATEWAY.to_owned()), ..PatchParams::default() };
        let patched = tasks.patch(name, &params, &Patch::Merge(patch)).await;
        // What is said of it is read from the answer: a guarded stage may have been entered a moment before.
        task = patched.map_err(|source| Refusal::Kube { act: "cancel an AsyncTask", source })?;
    }
    answer(&gateway, namespace, &task).await.map(Json)
}

fn require_running(task: &AsyncTask) -> Result<(), Refusal> {
    match task.status.as_ref().and_then(|status| status.state) {
        Some(state) if state.is_terminal() => Err(Refusal::Conflict {
            word: "RunIsOver",
            message: format!("the run is over (state {state}): there is nothing to cancel"),
        }),
        _ => Ok(()),
    }
}

async fn answer(gateway: &Gateway, namespace: &str, task: &AsyncTask) -> Result<CancelRequested, Refusal> {
    let status = task.status.clone().unwrap_or_default();
    // Before it is admitted a run is pinned to nothing, and nothing of it runs.
    let cancellation = match &status.revision {
        None => Cancellation::default(),
        Some(pinned) => {
            let revision = gateway.catalog.pinned(namespace, pinned).await?;
            let content = &revision.spec.content;
            Cancellation::of(content.cancellation.as_ref(), &content.steps)
        }
    };
    let refused_now = cancellation.forbidden(&status.steps);
    Ok(CancelRequested { requested: true, effect: cancellation.effect, refused_now })
}
