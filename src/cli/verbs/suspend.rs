//! `suspend`: hold runs.

use crate::change::{each, hold};
use crate::connect::Session;
use crate::error::CliError;
use crate::exit::Exit;

/// Hold runs: pods that run are stopped and start anew with `resume`; no retry is spent
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names of the runs
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Holds each.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<Exit, CliError> {
    each(&args.names, async |name: &str| hold(session, name, true).await).await
}
