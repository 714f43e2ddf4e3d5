//! `/agent/v1`: what an agent may do for the one attempt its pod runs.
//!
//! No route takes the name of a task: the pod's token says which attempt it is, and the chain behind it is read, not
//! believed. So an agent cannot even ask for another's.

use axum::extract::Request;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post, put};

use self::attempt::Attempt;
use super::problem::Refusal;
use super::{Gateway, Shared};
use asynctask_contract::wire::path;
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::layout::{AttemptKeys, StepKeys};

pub(crate) mod allowance;
mod assembly;
mod assignment;
pub(crate) mod attempt;
mod barrier;
mod commit;
mod declared;
mod emitted;
mod fence;
mod files;
mod inputs;
mod items;
mod report;
mod source;

/// A route: method, path template, handler.
pub(crate) type Route = (&'static str, String, MethodRouter<Shared>);

/// Every route of the agent API. The router is made of this list, and the tests walk it.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        ("GET", path::ASSIGNMENT.to_owned(), get(assignment::assignment)),
        ("GET", format!("{}/{{name}}/content", path::INPUTS), get(inputs::content)),
        ("GET", format!("{}/content", path::ITEMS), get(items::content)),
        ("GET", path::SEGMENTS.to_owned(), get(assembly::segments)),
        ("GET", format!("{}/{{output}}/{{number}}/content", path::SEGMENTS), get(assembly::content)),
        ("POST", path::FILES.to_owned(), post(files::plan)),
        ("PUT", format!("{}/{{output}}/{{seq}}/content", path::FILES), put(files::receive)),
        ("POST", path::PARTS.to_owned(), post(files::parts)),
        ("POST", path::COMPLETE.to_owned(), post(files::complete)),
        ("POST", path::STAGE.to_owned(), post(report::stage)),
        ("POST", path::PROGRESS.to_owned(), post(report::progress)),
        ("POST", path::COMMIT.to_owned(), post(commit::commit)),
        ("POST", path::FAILURE.to_owned(), post(report::failure)),
    ]
}

/// The routes as a router.
pub(crate) fn router() -> axum::Router<Shared> {
    let routed =
        routes().into_iter().fold(axum::Router::new(), |router, (_, path, handler)| router.route(&path, handler));
    routed.layer(from_fn(unkept))
}

/// Assignments and plans hold keys to the store: nothing in between may keep them.
async fn unkept(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Where an attempt's bytes go, and what it is allowed to write.
struct Desk {
    open: OpenStore,
    step: StepKeys,
    own: AttemptKeys,
}

impl Desk {
    async fn of(gateway: &Gateway, attempt: &Attempt) -> Result<Self, Refusal> {
        let open = gateway.stores.by_ref(attempt.store()?).await?;
        let defect = |error: asynctask_storage::layout::InvalidPart| Refusal::Defect(error.to_string());
        let task = open.layout.task(&attempt.namespace, &attempt.task_uid()).map_err(defect)?;
        let step = task.step(&attempt.step).map_err(defect)?;
        // A plain step has the one shard 0.
        let own = step.attempt(attempt.shard.unwrap_or(0), &attempt.pod_uid).map_err(defect)?;
        Ok(Self { open, step, own })
    }
}

/// Done, nothing to say.
const DONE: StatusCode = StatusCode::NO_CONTENT;
