//! The operator: arguments → parts → join.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use asynctask_api::quantity;
use asynctask_api::quarantine::Without;
use asynctask_controllers::injection::Choice;
use asynctask_controllers::{Settings, chart};
use asynctask_plan::queue::Limits;
use asynctask_runtime::client::{Connector, install_crypto_provider};
use asynctask_runtime::health::{self, Readiness};
use asynctask_runtime::metrics::Metrics;
use asynctask_runtime::shutdown::Supervisor;
use asynctask_runtime::telemetry::{self, LogFormat};
use clap::{Parser, Subcommand};

/// How long reconciles that have begun may take to finish once the process is to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs AsyncTasks as Jobs.
#[derive(Debug, Parser)]
#[command(name = "asynctask-operator", version, subcommand_negates_reqs = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Namespace of the operator: its Secrets, its lease, its gateway
    #[arg(long, env = "POD_NAMESPACE", default_value = "asynctask-system")]
    namespace: String,
    /// Name of this pod, for the lease and for Events
    #[arg(long, env = "POD_NAME", required = true)]
    pod_name: Option<String>,
    /// Image that holds the agent
    #[arg(long, env = "ASYNCTASK_AGENT_IMAGE", required = true)]
    agent_image: Option<String>,
    /// Name of a Secret for that image, in this namespace and in those of runs; may be given more than once
    #[arg(long = "image-pull-secret", value_name = "NAME")]
    image_pull_secrets: Vec<String>,
    /// How the agent gets into task pods
    #[arg(long, env = "ASYNCTASK_AGENT_INJECTION", value_enum, default_value_t = Choice::Auto)]
    agent_injection: Choice,
    /// Refuse definitions whose images are named by a tag instead of a digest
    #[arg(long, env = "ASYNCTASK_REQUIRE_DIGEST")]
    require_digest: bool,
    /// Name of the gateway's Service
    #[arg(long, env = "ASYNCTASK_GATEWAY_SERVICE", default_value = "asynctask-gateway")]
    gateway_service: String,
    /// Where the volume for filesystem stores is mounted; without it such stores are not Ready
    #[arg(long, env = "ASYNCTASK_FILESYSTEM_ROOT", value_name = "DIR")]
    filesystem_root: Option<PathBuf>,
    /// Default OutputStore to make on that volume when there is none of this name
    #[arg(long, env = "ASYNCTASK_TRIAL_STORE", value_name = "NAME", requires = "filesystem_root")]
    trial_store: Option<String>,
    /// Most runs in progress at a time, in all namespaces; without it there is no limit
    #[arg(long, env = "ASYNCTASK_MAX_RUNNING", value_name = "N")]
    max_running: Option<usize>,
    /// Most runs in progress at a time in each namespace; without it there is no limit
    #[arg(long, env = "ASYNCTASK_MAX_RUNNING_PER_NAMESPACE", value_name = "N")]
    max_running_per_namespace: Option<usize>,
    /// How long a node may not be heard of before the pods of steps on it are given up and started elsewhere
    #[arg(long, env = "ASYNCTASK_NODE_LOST_AFTER", value_name = "DURATION", default_value = "5m", value_parser = quantity::duration)]
    node_lost_after: Duration,
    /// How old uploads that no run uses, and what else is left over in stores, must be to be deleted
    #[arg(long, env = "ASYNCTASK_SWEEP_AFTER", value_name = "DURATION", default_value = "24h", value_parser = quantity::duration)]
    sweep_after: Duration,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "ASYNCTASK_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Name of the leader lease
    #[arg(long, env = "ASYNCTASK_LEASE", default_value = "asynctask-operator")]
    lease: String,
    /// How log lines look
    #[arg(long, env = "ASYNCTASK_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Which log lines are written, for example info,kube=debug
    #[arg(long, env = "ASYNCTASK_LOG_FILTER", default_value = "info")]
    log_filter: String,
}

/// What the chart's Jobs run.
#[derive(Debug, Subcommand)]
enum Command {
    /// Take our finalizers from all objects, so that they can be deleted without an operator, and end
    LetGo,
    /// Apply the CRDs of this version as those of a helm release, and end
    TakeOverCrds {
        /// Name of the release
        #[arg(long)]
        release: String,
        /// Namespace of the release
        #[arg(long)]
        release_namespace: String,
    },
}

async fn run_command(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    install_crypto_provider();
    let client = Connector::infer("asynctask-operator").await?.client(Without::Parameters)?;
    match command {
        Command::LetGo => {
            for (kind, count) in chart::let_go(&client).await? {
                println!("{count} {kind} let go; what is in their stores stays there");
            }
        }
        Command::TakeOverCrds { release, release_namespace } => {
            let count = chart::take_over_crds(&client, &release, &release_namespace).await?;
            println!("{count} CRDs belong to release {release} in namespace {release_namespace} now");
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut args = Args::parse();
    let ended = match args.command.take() {
        Some(command) => run_command(command).await,
        None => run(args).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("asynctask-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    telemetry::install(args.log_format, &args.log_filter)?;
    install_crypto_provider();
    let connector = Connector::infer("asynctask-operator").await?;
    let (readiness, metrics, mut supervisor) = (Readiness::new(), Metrics::new("operator"), Supervisor::new());
    supervisor.spawn("health", health::serve(args.listen, readiness.clone(), metrics.clone(), supervisor.stopping()));
    let settings = Settings {
        namespace: args.namespace,
        pod_name: args.pod_name.unwrap_or_default(),
        lease: args.lease,
        agent_image: args.agent_image.unwrap_or_default(),
        agent_pull_secrets: args.image_pull_secrets,
        agent_injection: args.agent_injection,
        require_digest: args.require_digest,
        gateway_service: args.gateway_service,
        filesystem_root: args.filesystem_root,
        trial_store: args.trial_store,
        limits: Limits { overall: args.max_running, per_namespace: args.max_running_per_namespace },
        node_lost_after: args.node_lost_after,
        sweep_after: args.sweep_after,
    };
    asynctask_controllers::start(settings, &connector, &mut supervisor, &readiness, &metrics).await?;
    supervisor.run(PATIENCE).await?;
    Ok(())
}
