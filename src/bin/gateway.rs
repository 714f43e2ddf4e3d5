//! The gateway: arguments → parts → join.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use asynctask_api::quantity;
use asynctask_api::quarantine::Without;
use asynctask_gateway::{DRAIN, Settings, TrustedProxy};
use asynctask_runtime::client::{Connector, install_crypto_provider};
use asynctask_runtime::health::{self, Readiness};
use asynctask_runtime::metrics::Metrics;
use asynctask_runtime::shutdown::Supervisor;
use asynctask_runtime::telemetry::{self, LogFormat};
use clap::{Parser, Subcommand};

/// Signs URLs for agents and people, and decides who may have one.
#[derive(Debug, Parser)]
#[command(name = "asynctask-gateway", version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Namespace of the gateway: its certificate, and the Secrets of stores
    #[arg(long, env = "POD_NAMESPACE", default_value = "asynctask-system")]
    namespace: String,
    /// Address of the API (TLS)
    #[arg(long, env = "ASYNCTASK_LISTEN", default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "ASYNCTASK_HEALTH_LISTEN", default_value = "0.0.0.0:8080")]
    health_listen: SocketAddr,
    /// Name of the gateway's Service; its certificate must be for <service>.<namespace>.svc
    #[arg(long, env = "ASYNCTASK_GATEWAY_SERVICE", default_value = "asynctask-gateway")]
    service: String,
    /// Where the volume for filesystem stores is mounted; without it such stores cannot be used
    #[arg(long, env = "ASYNCTASK_FILESYSTEM_ROOT", value_name = "DIR")]
    filesystem_root: Option<PathBuf>,
    /// User that a proxy signs in as whose word about users is taken (X-Forwarded-User, X-Forwarded-Groups); without it no
    /// proxy is trusted
    #[arg(long, env = "ASYNCTASK_TRUSTED_PROXY", value_name = "USER", requires_all = ["proxy_user_prefix", "proxy_group_prefix"])]
    trusted_proxy: Option<String>,
    /// Comes before every user that the proxy names
    #[arg(long, env = "ASYNCTASK_PROXY_USER_PREFIX", value_name = "PREFIX", requires = "trusted_proxy")]
    proxy_user_prefix: Option<String>,
    /// Comes before every group that the proxy names
    #[arg(long, env = "ASYNCTASK_PROXY_GROUP_PREFIX", value_name = "PREFIX", requires = "trusted_proxy")]
    proxy_group_prefix: Option<String>,
    /// How many calls a second of one person are taken in the long run, and ten times as many at once; 0: any number
    #[arg(long, env = "ASYNCTASK_REQUESTS_PER_SECOND", default_value_t = 50)]
    requests_per_second: u32,
    /// Most bytes a run may write to its store, all attempts and shards together, whatever its definition says, for example
    /// 1Ti; 0: any number
    #[arg(long, env = "ASYNCTASK_MAX_RUN_SIZE", value_name = "QUANTITY", default_value = "1Ti", value_parser = size)]
    max_run_size: u64,
    /// How log lines look
    #[arg(long, env = "ASYNCTASK_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Which log lines are written, for example info,audit=debug
    #[arg(long, env = "ASYNCTASK_LOG_FILTER", default_value = "info")]
    log_filter: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the OpenAPI document and end
    Openapi,
}

fn size(text: &str) -> Result<u64, String> {
    quantity::bytes(text).map_err(|error| error.to_string())
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Command::Openapi) = args.command {
        println!("{}", asynctask_gateway::openapi());
        return ExitCode::SUCCESS;
    }
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("asynctask-gateway: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    telemetry::install(args.log_format, &args.log_filter)?;
    install_crypto_provider();
    let client = Connector::infer("asynctask-gateway").await?.client(Without::Nothing)?;
    let (readiness, metrics, mut supervisor) = (Readiness::new(), Metrics::new("gateway"), Supervisor::new());
    let prefixes = (args.proxy_user_prefix.unwrap_or_default(), args.proxy_group_prefix.unwrap_or_default());
    let proxy = args.trusted_proxy.map(|user| TrustedProxy::new(user, prefixes.0, prefixes.1)).transpose()?;
    let settings = Settings {
        proxy,
        namespace: args.namespace,
        service: args.service,
        listen: args.listen,
        filesystem_root: args.filesystem_root,
        requests_per_second: args.requests_per_second,
        max_run_size: args.max_run_size,
    };
    asynctask_gateway::start(settings, client, &mut supervisor, &readiness, &metrics);
    let health = health::serve(args.health_listen, readiness, metrics, supervisor.stopping());
    supervisor.spawn("health", health);
    supervisor.run(DRAIN + Duration::from_secs(5)).await?;
    Ok(())
}
