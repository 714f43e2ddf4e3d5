//! `resume`: let held runs go on.

use crate::change::{each, hold};
use crate::connect::Session;
use crate::error::CliError;
use crate::exit::Exit;

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
