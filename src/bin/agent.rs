//! `asynctask-agent`: PID 1 of a task container, and the helper an author's program calls.

use std::{ffi::OsString, fmt::Display, path::PathBuf, process::ExitCode};

use asynctask_agent::{Layout, helper, install::install};
use asynctask_contract::wire::{AuthorFailure, Progress};
use clap::{Parser, Subcommand};

/// Wraps the command of a task container and publishes its result.
///
/// Authors call `stage`, `progress`, `item-failed`, `skip`, `fail` and `done` from their program, through
/// $ASYNCTASK_AGENT.
#[derive(Parser)]
#[command(name = "asynctask-agent", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a command as the task of this pod, or without one the operator's own work (started by the operator)
    Run {
        /// Where the container's file system begins
        #[arg(long, hide = true, default_value = "/")]
        root: PathBuf,
        /// The command and its arguments, after `--`
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    /// Copy this binary into a folder (started by the operator)
    Install {
        /// A folder, or the name of the copy
        destination: PathBuf,
    },
    /// Enter a stage that the TaskDefinition declares
    Stage {
        /// Its name
        name: String,
    },
    /// Say how far the program is
    Progress {
        /// Units done
        done: i64,
        /// Units in all
        total: Option<i64>,
        /// Name of the unit, in the plural
        #[arg(long)]
        unit: Option<String>,
        /// A sentence for people
        #[arg(long)]
        message: Option<String>,
    },
    /// Say that an item failed, and go on with the next one
    ItemFailed {
        /// The item: JSON, as it stands in $ASYNCTASK_ITEMS
        item: String,
        /// A word programs can tell apart, as InvalidEmail
        #[arg(long)]
        reason: Option<String>,
    },
    /// Say that items needed nothing done
    Skip {
        /// How many
        #[arg(default_value_t = 1)]
        count: u64,
    },
    /// Say why the program is about to fail; then exit with a code other than 0
    Fail {
        /// A word programs can tell apart, as InvalidCourse
        #[arg(long)]
        code: String,
        /// A sentence for people: what happened and what to do
        #[arg(long)]
        message: String,
        /// Where to read more
        #[arg(long)]
        link: Option<String>,
    },
    /// Say that the result is whole, even if the pod was asked to stop meanwhile
    Done,
    /// Print the version
    Version,
}

fn main() -> ExitCode {
    let said = match Arguments::parse().command {
        Command::Run { root, command } => {
            let provider = rustls::crypto::ring::default_provider().install_default();
            provider.expect("invariant: only main installs a TLS provider");
            return ExitCode::from(asynctask_agent::run(&Layout::below(&root), &command));
        }
        Command::Install { destination } => return ended(install(&destination).map(drop), |_| 1),
        Command::Version => {
            println!("asynctask-agent {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Command::Stage { name } => helper::stage(name),
        Command::Progress { done, total, unit, message } => {
            helper::progress(Progress { done: Some(done), total, unit, message })
        }
        Command::ItemFailed { item, reason } => helper::item_failed(&item, reason),
        Command::Skip { count } => helper::skip(count),
        Command::Fail { code, message, link } => helper::fail(AuthorFailure { code, message, link }),
        Command::Done => helper::done(),
    };
    ended(said, helper::HelperError::exit_code)
}

fn ended<E: Display>(result: Result<(), E>, code: impl Fn(&E) -> u8) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprintln!("asynctask-agent: {error}");
    ExitCode::from(code(&error))
}
