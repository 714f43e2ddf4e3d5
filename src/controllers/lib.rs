//! Effects: each controller observes, applies what the plan says, and reports.
//!
//! | module | keeps |
//! |---|---|
//! | `definition` | TaskDefinitions validated, proven by dry-runs, frozen as TaskRevisions |
//! | `store` | OutputStores tried before a task depends on one |
//! | `certificate` | the gateway's certificate |
//! | `injection` | the answer to how the agent gets into pods |
//! | `nodes` | pods on lost nodes given up |
//! | `chart` | what the chart leaves behind let go of, and what an earlier release left taken over |
//! | `trial` | the default store of a first try |
//! | `task` | AsyncTasks admitted, run, sealed and taken away |

mod certificate;
pub mod chart;
pub mod context;
mod definition;
#[cfg(test)]
mod fake;
mod hold;
pub mod injection;
mod kinds;
mod nodes;
mod pace;
mod store;
mod sweep;
mod task;
mod trial;
mod watches;

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::runtime::events::{Recorder, Reporter};
use tokio::sync::watch;

use self::certificate::Keeper;
use self::context::{AgentSettings, Context, Reconciles, SetAside};
use self::injection::{Choice, Injector};
use asynctask_api::names::MANAGER_OPERATOR;
use asynctask_api::quarantine::Without;
use asynctask_plan::queue::Limits;
use asynctask_runtime::client::{ConnectError, Connector};
use asynctask_runtime::health::Readiness;
use asynctask_runtime::lease::{self, LeaseSpec};
use asynctask_runtime::metrics::Metrics;
use asynctask_runtime::shutdown::Supervisor;
use asynctask_runtime::stores::Stores;

/// What an administrator sets.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator's own namespace.
    pub namespace: String,
    /// Who we are in the lease and in Events.
    pub pod_name: String,
    /// Name of the lease.
    pub lease: String,
    /// Image that holds the agent.
    pub agent_image: String,
    /// Names of Secrets for it, in its own namespace and those of runs.
    pub agent_pull_secrets: Vec<String>,
    /// How the agent gets into pods.
    pub agent_injection: Choice,
    /// Refuse definitions whose images are named by a tag.
    pub require_digest: bool,
    /// Name of the gateway's Service.
    pub gateway_service: String,
    /// Where the volume for filesystem stores is mounted.
    pub filesystem_root: Option<PathBuf>,
    /// Name of the default filesystem store to make when it is absent.
    pub trial_store: Option<String>,
    /// Most runs in progress at a time.
    pub limits: Limits,
    /// How long a node may not be heard of before the pods on it are given up.
    pub node_lost_after: Duration,
    /// How old what is left over in stores must be to be swept.
    pub sweep_after: Duration,
}

/// Waits for the CRDs and for the lease, then starts every controller as a part of the process. Returns early when
/// the process is to end instead.
///
/// # Errors
/// The configuration of the client cannot be used.
pub async fn start(
    settings: Settings,
    connector: &Connector,
    supervisor: &mut Supervisor,
    readiness: &Readiness,
    metrics: &Metrics,
) -> Result<(), ConnectError> {
    let client = connector.client(Without::Parameters)?;
    if supervisor.first(kinds::wait(&client, readiness)).await.is_none() {
        return Ok(());
    }
    let Settings {
        namespace,
        pod_name,
        lease,
        agent_image,
        agent_pull_secrets,
        agent_injection,
        require_digest,
        gateway_service,
        filesystem_root,
        trial_store,
        limits,
        node_lost_after,
        sweep_after,
    } = settings;
    let lease = LeaseSpec { name: lease, namespace: namespace.clone(), identity: pod_name.clone() };
    let acquired = supervisor.first(lease::acquire(connector.lease_client()?, &lease, readiness)).await;
    let Some(held) = acquired else { return Ok(()) };
    supervisor.spawn_last("lease", held.keep(supervisor.drained()));

    let (decided, injection) = watch::channel(None);
    let (access, gateway) = watch::channel(None);
    let injector = Injector {
        client: client.clone(),
        namespace: namespace.clone(),
        image: agent_image.clone(),
        pull_secrets: agent_pull_secrets.clone(),
        choice: agent_injection,
        readiness: readiness.clone(),
        decided,
    };
    let keeper = Keeper {
        client: client.clone(),
        namespace: namespace.clone(),
        service: gateway_service,
        readiness: readiness.clone(),
        access,
    };
    if let Some(name) = trial_store {
        trial::ensure(client.clone(), name).await;
    }
    let reporter = Reporter { controller: MANAGER_OPERATOR.to_owned(), instance: Some(pod_name) };
    let context = Arc::new(Context {
        stores: Stores::new(client.clone(), namespace.clone(), filesystem_root),
        namespace,
        limits,
        metrics: metrics.clone(),
        reconciles: Reconciles::new(metrics),
        set_aside: SetAside::new(metrics),
        agent: AgentSettings { image: agent_image, pull_secrets: agent_pull_secrets, injection },
        require_digest,
        gateway,
        events: Recorder::new(client.clone(), reporter),
        client,
        whole: connector.client(Without::Nothing)?,
        watches: connector.watch_client()?,
        stopping: supervisor.stopping(),
    });
    supervisor.spawn("agent injection", endless(injector.run(supervisor.stopping())));
    supervisor.spawn("gateway certificate", endless(keeper.run(supervisor.stopping())));
    supervisor.spawn("store controller", endless(store::run(Arc::clone(&context))));
    supervisor.spawn("definition controller", endless(definition::run(Arc::clone(&context))));
    supervisor.spawn("lost nodes", endless(nodes::run(Arc::clone(&context), node_lost_after)));
    supervisor.spawn("sweep", endless(sweep::run(Arc::clone(&context), sweep_after)));
    supervisor.spawn("task controller", endless(task::run(context)));
    Ok(())
}

/// A part that cannot fail: it ends only because it is told to.
async fn endless(part: impl Future<Output = ()>) -> Result<(), Infallible> {
    part.await;
    Ok(())
}
