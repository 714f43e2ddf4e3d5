//! The gateway: signs URLs for agents and people, decides who may have one, and passes bytes on where the store cannot
//! let others in. Stateless: what it knows, it read a moment ago.
//!
//! | part | what |
//! |---|---|
//! | [`identity`], [`proxy`], [`authorize`] | who calls (TokenReview, client certificate, trusted proxy), and may they (SubjectAccessReview) |
//! | [`pace`], [`bodies`], [`connections`] | how often they may ask, and how much at once |
//! | [`agents`] | `/agent/v1`: the fence, files, progress, commit |
//! | [`people`] | `/api/v1`: tasks, outputs, uploads, and their OpenAPI document |
//! | [`stores`] | which stores are open to whom |
//! | [`catalog`], [`sealed`], [`appended`] | what never changes: definitions, and the sealed results of steps |
//! | [`target`], [`transfer`], [`disposition`] | bytes: where they go, how they pass |
//! | [`problem`], [`audit`], [`metrics`] | what is said: to the caller, to the auditor, to the one on call |
//! | [`tls`], [`server`] | the listener |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use kube::Client;
use tokio::sync::watch;
use tower_http::catch_panic::CatchPanicLayer;

use self::agents::allowance::Allowances;
use self::agents::attempt::Attempts;
use self::authorize::Authorizer;
use self::bodies::Bodies;
use self::catalog::Catalog;
use self::connections::Limited;
use self::identity::Identities;
use self::metrics::Requests;
use self::pace::Pace;
use self::people::newest::Sorting;
use self::problem::Refusal;
use asynctask_runtime::health::Readiness;
use asynctask_runtime::metrics::Metrics;
use asynctask_runtime::shutdown::Supervisor;
use asynctask_runtime::stores::Stores;

mod agents;
mod appended;
mod audit;
mod authorize;
mod bodies;
mod cache;
mod catalog;
mod connections;
mod disposition;
mod identity;
mod metrics;
mod pace;
mod people;
mod problem;
mod proxy;
mod request;
mod sealed;
mod server;
mod stores;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod transfer;

pub use proxy::{InvalidProxy, TrustedProxy};
pub use server::DRAIN;

/// What a gateway is told when it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its own namespace: the Secrets of stores and its certificate.
    pub namespace: String,
    /// Name of its Service.
    pub service: String,
    /// Address of the TLS listener.
    pub listen: SocketAddr,
    /// Where the volume for filesystem stores is mounted.
    pub filesystem_root: Option<PathBuf>,
    /// Whose word about users is taken.
    pub proxy: Option<TrustedProxy>,
    /// How many calls a second of one person are taken in the long run; 0: any number.
    pub requests_per_second: u32,
    /// Most bytes a run may write to its store, whatever its definition says; 0: any number.
    pub max_run_size: u64,
}

/// What every handler is handed.
pub(crate) struct Gateway {
    pub(crate) client: Client,
    pub(crate) identities: Identities,
    pub(crate) authorizer: Authorizer,
    pub(crate) attempts: Attempts,
    pub(crate) catalog: Catalog,
    pub(crate) stores: Stores,
    pub(crate) proxy: Option<TrustedProxy>,
    pub(crate) pace: Option<Pace>,
    pub(crate) reports: Pace,
    pub(crate) allowances: Allowances,
    pub(crate) bodies: Bodies,
    /// Who puts tasks in order of their age.
    pub(crate) sorting: Sorting,
}

/// The one gateway of the process.
pub(crate) type Shared = Arc<Gateway>;

impl Gateway {
    pub(crate) fn new(client: Client, stores: Stores) -> Self {
        Self {
            identities: Identities::new(client.clone()),
            authorizer: Authorizer::new(client.clone()),
            attempts: Attempts::new(client.clone()),
            catalog: Catalog::new(client.clone()),
            stores,
            client,
            proxy: None,
            pace: None,
            reports: Pace::of_reports(),
            allowances: Allowances::new(0),
            bodies: Bodies::default(),
            sorting: Sorting::default(),
        }
    }

    /// Takes a proxy's word about users.
    pub(crate) fn behind(self, proxy: Option<TrustedProxy>) -> Self {
        Self { proxy, ..self }
    }

    /// Lets a run write so many bytes to its store; 0: any number.
    pub(crate) fn allowing(self, max_run_size: u64) -> Self {
        Self { allowances: Allowances::new(max_run_size), ..self }
    }

    /// Takes so many calls a second of one person; 0: any number.
    pub(crate) fn paced(self, per_second: u32) -> Self {
        Self { pace: Pace::new(per_second), ..self }
    }
}

/// All routes with all that surrounds them.
pub(crate) fn router(gateway: Shared, requests: Requests) -> Router {
    Router::new()
        .merge(agents::router())
        .merge(people::router())
        .method_not_allowed_fallback(unknown)
        .fallback(unknown)
        // From the outside in: the line is written last, whatever happened within.
        .layer(from_fn(request::in_time))
        .layer(from_fn(bodies::hold))
        .layer(from_fn(request::same_site))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(requests, audit::record))
        .with_state(gateway)
}

async fn unknown() -> Refusal {
    Refusal::NotFound
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let said =
        panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    Refusal::Defect(format!("a handler panicked: {}", said.unwrap_or_default())).into_response()
}

/// The OpenAPI document, as it is served and as `docs/openapi.json` keeps it.
#[must_use]
pub fn openapi() -> String {
    serde_json::to_string_pretty(&people::document()).expect("invariant: the document is plain JSON")
}

/// Starts the parts of a gateway.
pub fn start(
    settings: Settings,
    client: Client,
    supervisor: &mut Supervisor,
    readiness: &Readiness,
    metrics: &Metrics,
) {
    let Settings { namespace, service, listen, filesystem_root, proxy, requests_per_second, max_run_size } = settings;
    let stores = Stores::new(client.clone(), namespace.clone(), filesystem_root);
    let gateway = Gateway::new(client.clone(), stores).behind(proxy).paced(requests_per_second).allowing(max_run_size);
    let router = router(Arc::new(gateway), Requests::new(metrics));
    let (configured, watched) = watch::channel(None);
    let name = format!("{service}.{namespace}.svc");
    let keeper = tls::Keeper { client, namespace, name, readiness: readiness.clone(), configured };
    keeper.announce();
    let (kept, stop) = (supervisor.stopping(), supervisor.stopping());
    supervisor.spawn("certificate", async move {
        keeper.run(kept).await;
        Ok::<_, Infallible>(())
    });
    supervisor.spawn("server", server::serve(listen, router, Limited::new(metrics), watched, readiness.clone(), stop));
}
