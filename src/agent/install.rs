//! Copies the agent into a shared folder, where image volumes cannot bring it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use asynctask_contract::env;

/// The agent was not copied.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The running binary cannot be read.
    #[error("cannot read the running agent: {0}")]
    Read(io::Error),
    /// The copy cannot be written.
    #[error("cannot write {path}: {source}; is a writable volume mounted there?")]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Copies the running binary to `destination`, a folder or the name of the copy.
///
/// # Errors
/// When the binary cannot be read or the copy cannot be written.
pub fn install(destination: &Path) -> Result<PathBuf, InstallError> {
    let target = if destination.is_dir() { destination.join(env::AGENT_FILE) } else { destination.to_owned() };
    let failed = |source| InstallError::Write { path: target.clone(), source };
    let mut from = File::open("/proc/self/exe").map_err(InstallError::Read)?;
    // Written beside and renamed: nobody ever starts half a binary, and one that is running can be replaced.
    let beside = target.with_extension("new");
    let mut copy =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&beside).map_err(failed)?;
    io::copy(&mut from, &mut copy).map_err(failed)?;
    // Closed for writing first: a file that is open for writing cannot be executed.
    drop(copy);
    fs::rename(&beside, &target).map_err(failed)?;
    Ok(target)
}
