//! `why`: the first cause that keeps a run, and what to do.

use jiff::Timestamp;

use crate::cause::cause;
use crate::change::read;
use crate::connect::Session;
use crate::error::CliError;
use crate::exit::Exit;
use crate::facts::facts;
use crate::terminal::print;

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
