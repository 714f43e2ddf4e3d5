//! `completion`: for the shell.

use clap::{CommandFactory, ValueEnum};

use crate::Cli;
use crate::exit::Exit;
use crate::terminal::{PrintError, print};

/// Print a completion script for the shell
#[derive(Debug, clap::Args)]
#[command(after_help = "It completes the command by its own name, kubectl-asynctask. For this session:
  source <(kubectl asynctask completion bash)")]
pub(crate) struct Args {
    /// Which shell
    shell: Shell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script.
pub(crate) fn run(args: &Args) -> Result<Exit, PrintError> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    // The name of the file, not "kubectl asynctask": shells complete by the first word.
    let mut command = Cli::command().bin_name("kubectl-asynctask");
    clap_complete::generate(shell, &mut command, "kubectl-asynctask", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
