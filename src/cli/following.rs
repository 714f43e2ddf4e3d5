//! What follows a submission: show the run's name, or follow the run to its end.

use std::time::Duration;

use super::connect::Session;
use super::error::CliError;
use super::exit::Exit;
use super::follow::{Show, follow};
use super::format::{Document, RunFormat, qualified, tidy};
use super::render;
use super::terminal::{print, say, view};
use asynctask_api::{AsyncTask, quantity};

/// Flags of verbs that submit a run.
#[derive(Debug, clap::Args)]
pub(crate) struct Following {
    /// Show the plan and its progress until the run ends
    #[arg(short, long, group = "following")]
    watch: bool,
    /// Wait until the run ends
    #[arg(long, group = "following")]
    wait: bool,
    /// With --watch or --wait: give up after this time, for example 10m; the run goes on
    #[arg(long, value_name = "TIME", value_parser = quantity::duration, requires = "following")]
    timeout: Option<Duration>,
    /// Print the AsyncTask in this format
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "watch")]
    output: Option<RunFormat>,
}

/// Follows a run that was submitted, as far as asked.
pub(crate) async fn finish(session: &Session, args: &Following, mut task: AsyncTask) -> Result<Exit, CliError> {
    let name = task.metadata.name.clone().unwrap_or_default();
    let mut exit = Exit::Ok;
    if args.output.is_none() {
        print(&format!("{}\n", qualified(&name)))?;
    }
    if args.watch || args.wait {
        let show = if args.watch { Show::Changes } else { Show::Nothing };
        let followed = follow(session, &name, show, args.timeout).await?;
        exit = followed.exit;
        task = followed.task.unwrap_or(task);
    }
    match args.output {
        Some(RunFormat::Name) => print(&format!("{}\n", qualified(&name)))?,
        Some(RunFormat::Json) => print(&Document::Json.text(&tidy(task)))?,
        Some(RunFormat::Yaml) => print(&Document::Yaml.text(&tidy(task)))?,
        None if args.watch || args.wait => print(&format!("\n{}", render::status(&task, view())))?,
        None => say(&format!("Follow it with: kubectl asynctask watch -n {} {name}", session.namespace)),
    }
    Ok(exit)
}
