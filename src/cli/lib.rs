//! `kubectl asynctask`: the command line.
//!
//! | part | what |
//! |---|---|
//! | [`verbs`] | one file per verb |
//! | [`connect`], [`cluster`] | the API server, as the kubeconfig reaches it |
//! | [`gateway`], [`credentials`], [`forward`] | the gateway, with the same credentials |
//! | [`parameters`], [`inputs`], [`submit`] | from the command line to an AsyncTask (pure but for reading files) |
//! | [`upload`], [`begun`], [`download`], [`target`] | bytes: verified, resumed, never out of their folder |
//! | [`change`], [`takeover`], [`following`] | what is done to a run that exists or goes on from one, and what follows |
//! | [`facts`], [`cause`] | why a run does not go on: what is read for it, and the sentence (pure) |
//! | [`follow`], [`render`], [`plan_page`], [`fan_out`], [`tree`], [`definition_page`] | what people see (the pages are pure) |
//!
//! Tasks are created and read through the Kubernetes API, so that RBAC, admission and audit see the person; only bytes
//! go through the gateway.

mod advice;
mod begun;
mod cause;
mod change;
mod cluster;
mod connect;
mod credentials;
mod definition_page;
mod download;
mod error;
mod exit;
mod facts;
mod fan_out;
mod follow;
mod following;
mod format;
mod forward;
mod gateway;
#[cfg(test)]
mod golden;
mod inputs;
mod meter;
mod parameters;
mod plan_page;
mod proxy;
mod render;
mod retry;
mod submit;
mod takeover;
mod target;
mod terminal;
#[cfg(test)]
mod transfer_tests;
mod tree;
mod upload;
mod uploads;
mod verbs;
mod words;
mod yaml;

use clap::Parser;

use connect::{ConnectionArgs, Session};
use error::CliError;
pub use exit::Exit;

/// Run asynchronous tasks on Kubernetes, follow them, fetch what they give back
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-asynctask",
    bin_name = "kubectl asynctask",
    version,
    propagate_version = false,
    after_help = format!("Flags go after `asynctask`: kubectl asynctask --kubeconfig FILE list\n\n{}", Exit::help()),
    max_term_width = 120
)]
pub struct Cli {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Run(verbs::run::Args),
    Upload(verbs::upload::Args),
    List(verbs::list::Args),
    Status(verbs::status::Args),
    Watch(verbs::watch::Args),
    Why(verbs::why::Args),
    Logs(verbs::logs::Args),
    Shards(verbs::shards::Args),
    Outputs(verbs::outputs::Args),
    Keep(verbs::keep::Args),
    Retention(verbs::retention::Args),
    Cancel(verbs::cancel::Args),
    Suspend(verbs::suspend::Args),
    Resume(verbs::resume::Args),
    Rerun(verbs::rerun::Args),
    Retry(verbs::retry::Args),
    History(verbs::history::Args),
    States(verbs::states::Args),
    Definitions(verbs::definitions::Args),
    Lint(verbs::lint::Args),
    Version(verbs::version::Args),
    Completion(verbs::completion::Args),
}

/// Does what the command line asks. ^C ends the command; a run that was submitted goes on.
pub async fn run(cli: Cli) -> Exit {
    let result = tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => {
            terminal::say("Interrupted");
            return Exit::Interrupted;
        }
        result = dispatch(cli) => result,
    };
    result.unwrap_or_else(|error| {
        if !error.is_silent() {
            terminal::say(&format!("Error: {error}"));
        }
        error.exit()
    })
}

async fn dispatch(cli: Cli) -> Result<Exit, CliError> {
    let session = async || Session::open(&cli.connection).await;
    match cli.verb {
        Verb::Run(args) => verbs::run::run(&session().await?, args).await,
        Verb::Upload(args) => verbs::upload::run(&session().await?, &args).await,
        Verb::List(args) => verbs::list::run(&session().await?, &args).await,
        Verb::Status(args) => verbs::status::run(&session().await?, &args).await,
        Verb::Watch(args) => verbs::watch::run(&session().await?, &args).await,
        Verb::Why(args) => verbs::why::run(&session().await?, &args).await,
        Verb::Logs(args) => verbs::logs::run(&session().await?, &args).await,
        Verb::Shards(args) => verbs::shards::run(&session().await?, &args).await,
        Verb::Outputs(args) => verbs::outputs::run(&session().await?, args).await,
        Verb::Keep(args) => verbs::keep::run(&session().await?, &args).await,
        Verb::Retention(args) => verbs::retention::run(&session().await?, &args).await,
        Verb::Cancel(args) => verbs::cancel::run(&session().await?, &args).await,
        Verb::Suspend(args) => verbs::suspend::run(&session().await?, &args).await,
        Verb::Resume(args) => verbs::resume::run(&session().await?, &args).await,
        Verb::Rerun(args) => verbs::rerun::run(&session().await?, args).await,
        Verb::Retry(args) => verbs::retry::run(&session().await?, args).await,
        Verb::History(args) => verbs::history::run(&session().await?, &args).await,
        Verb::States(args) => Ok(verbs::states::run(&args)?),
        Verb::Definitions(args) => verbs::definitions::run(&session().await?, &args).await,
        Verb::Lint(args) => Ok(verbs::lint::run(&args)?),
        Verb::Version(args) => verbs::version::run(session, &args).await,
        Verb::Completion(args) => Ok(verbs::completion::run(&args)?),
    }
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_of_the_command_documents_the_exit_codes() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("124  --timeout passed before the run ended"), "{help}");
    }

    #[test]
    fn the_book_names_every_verb_and_every_exit_code() {
        let book = crate::golden::project("docs/src/command-line.md");
        for verb in Cli::command().get_subcommands() {
            assert!(book.contains(&format!("| `{}", verb.get_name())), "{} is missing", verb.get_name());
        }
        for exit in super::Exit::ALL {
            assert!(book.contains(&format!("| {} | {} |", exit.code(), exit.meaning())), "{exit:?} is missing");
        }
    }

    /// What the book shows of a fan-out is what the command draws.
    #[test]
    fn the_book_shows_a_fan_out_as_it_is_drawn() {
        let book = crate::golden::project("docs/src/command-line.md");
        let page = crate::golden::project("src/cli/golden/shards_during.txt");
        let drawn: Vec<_> = page.lines().filter(|line| line.starts_with("  ")).take(5).collect();
        assert!(book.contains(&drawn.join("\n")), "{}", drawn.join("\n"));
    }

    #[test]
    fn flags_of_the_connection_stand_before_or_after_the_verb() {
        for line in ["kubectl-asynctask -n studio list", "kubectl-asynctask list -n studio"] {
            let cli = Cli::try_parse_from(line.split(' ')).expect(line);
            assert_eq!(cli.connection.namespace.as_deref(), Some("studio"));
        }
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        for line in [
            "kubectl-asynctask run d --timeout 5m",
            "kubectl-asynctask run d --watch -o json",
            "kubectl-asynctask run d -p novalue",
            "kubectl-asynctask run d --wait --timeout never",
            "kubectl-asynctask run d --start-after tomorrow",
            "kubectl-asynctask rerun t --timeout 5m",
            "kubectl-asynctask retry t --timeout 5m",
            "kubectl-asynctask shards t --limit 0",
            "kubectl-asynctask logs t --shard -1",
            "kubectl-asynctask run d --input a=output:t",
            "kubectl-asynctask cancel",
            "kubectl-asynctask keep t --until soon",
            "kubectl-asynctask outputs rm t",
            "kubectl-asynctask list --state Nowhere",
            "kubectl-asynctask outputs get t --file 0",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
