//! `why`: the first cause that keeps a run, and what to do.

use jiff::Timestamp;

use crate::cli::cause::cause;
use crate::cli::change::read;
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::facts::facts;
use crate::cli::terminal::print;

/// Say why a run does not go on, or why it failed, and what to do
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the run
    name: String,
}

/// Prints two sentences; changes nothing.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<Exit, CliError> {
    let task = read(session, &args.name).await?;
    let facts = facts(session, &task).await?;
    let cause = cause(&task, &facts, Timestamp::now());
    print(&format!("{}.\nTo do: {}.\n", cause.what.trim_end_matches('.'), cause.next))?;
    Ok(Exit::Ok)
}
