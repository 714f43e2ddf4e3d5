//! `watch`: a run until it ends.

use std::time::Duration;

use crate::connect::Session;
use crate::error::CliError;
use crate::exit::Exit;
use crate::follow::{Show, follow};
use crate::render;
use crate::terminal::{print, view};
use asynctask_api::quantity;

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
