//! `watch`: a run until it ends.

use std::time::Duration;

use crate::api::quantity;
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::follow::{Show, follow};
use crate::cli::render;
use crate::cli::terminal::{print, view};

/// Follow a run until it ends; the exit code says how
#[derive(Debug, clap::Args)]
#[command(after_help = Exit::help())]
pub(crate) struct Args {
    /// Name of the run
    name: String,
    /// Give up after this time, for example 10m; the run goes on
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    timeout: Option<Duration>,
}

/// Follows, then prints the whole page once.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<Exit, CliError> {
    let followed = follow(session, &args.name, Show::Changes, args.timeout).await?;
    if let Some(task) = &followed.task {
        print(&format!("\n{}", render::status(task, view())))?;
    }
    Ok(followed.exit)
}
