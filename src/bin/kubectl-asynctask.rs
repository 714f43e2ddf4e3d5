//! `kubectl asynctask`: arguments → runtime → exit code.

use std::process::ExitCode;

use asynctask_cli::{Cli, Exit};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One crypto provider for the whole process; nobody has installed another one before main.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("Error: cannot start: {error}");
            return ExitCode::from(Exit::Error.code());
        }
    };
    let exit = runtime.block_on(asynctask_cli::run(cli));
    // A read of stdin that nobody waits for any more must not hold the process.
    runtime.shutdown_background();
    ExitCode::from(exit.code())
}
