//! `resume`: let held runs go on.

use crate::cli::change::{each, hold};
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;

/// Let suspended runs go on
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names of the runs
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Lets each go on.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<Exit, CliError> {
    each(&args.names, async |name: &str| hold(session, name, false).await).await
}
