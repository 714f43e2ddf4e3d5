//! Where things are inside the container, and how the work folder is made ready.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, access, mkfifo};
use serde::{Deserialize, Serialize};

use asynctask_contract::env;
use asynctask_contract::wire::{ShardWork, Work};

/// Every path the agent touches, below one root.
#[derive(Clone, Debug)]
pub struct Layout {
    work: PathBuf,
    token: PathBuf,
    termination: PathBuf,
}

/// The work folder could not be made ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayoutError {
    #[error("cannot create the folder {path}: {source}; is {work} mounted as a writable volume?", work = env::WORK_DIR)]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot create the FIFO {path}: {source}; is {work} mounted as a writable volume?", work = env::WORK_DIR)]
    Fifo { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

impl Layout {
    /// The layout of a container whose file system begins at `root`: `/` in a pod.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        let at = |path: &str| root.join(path.trim_start_matches('/'));
        Self { work: at(env::WORK_DIR), token: at(env::TOKEN_FILE), termination: at(env::TERMINATION_FILE) }
    }

    pub(crate) fn token(&self) -> &Path {
        &self.token
    }

    pub(crate) fn termination(&self) -> &Path {
        &self.termination
    }

    pub(crate) fn inputs(&self) -> PathBuf {
        self.work.join("inputs")
    }

    pub(crate) fn outputs(&self) -> PathBuf {
        self.work.join("outputs")
    }

    pub(crate) fn fifo(&self) -> PathBuf {
        self.work.join("progress")
    }

    /// FIFO of a step that emits items.
    pub(crate) fn emit(&self) -> PathBuf {
        self.work.join("emit")
    }

    /// Items of a shard.
    pub(crate) fn items(&self) -> PathBuf {
        self.work.join("items.jsonl")
    }

    /// The agent's own scratch: the log and emitted items on their way to the store.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.work.join(".agent")
    }

    fn parameters(&self) -> PathBuf {
        self.work.join("parameters.json")
    }

    fn tmp(&self) -> PathBuf {
        self.work.join("tmp")
    }

    fn home(&self) -> PathBuf {
        self.work.join("home")
    }

    /// Makes folders and the FIFOs, writes the parameters and the declared stages.
    ///
    /// What the program writes to is open to every user of the container: images that drop root before they start
    /// the real program would otherwise find a folder they cannot use.
    pub(crate) fn prepare(&self, work: &Work) -> Result<(), LayoutError> {
        folder(&self.inputs(), 0o755)?;
        folder(&self.outputs(), 0o777)?;
        folder(&self.tmp(), 0o1777)?;
        folder(&self.home(), 0o777)?;
        folder(&self.scratch(), 0o700)?;
        fifo(&self.fifo())?;
        if work.emits.is_some() {
            fifo(&self.emit())?;
        }
        write(&self.parameters(), work.parameters.to_string().as_bytes())?;
        write(&self::stages(&self.fifo()), serde_json::json!(Stages::of(work)).to_string().as_bytes())
    }

    /// What the program's environment has beside its own and the identity the Job gives it.
    pub(crate) fn environment(&self, agent: &Path, work: &Work) -> Vec<(&'static str, OsString)> {
        let mut vars: Vec<(&'static str, OsString)> = vec![
            (env::AGENT, agent.into()),
            (env::PARAMETERS, self.parameters().into()),
            (env::INPUTS, self.inputs().into()),
            (env::OUTPUTS, self.outputs().into()),
            (env::PROGRESS, self.fifo().into()),
        ];
        if work.emits.is_some() {
            vars.push((env::EMIT, self.emit().into()));
        }
        if let Some(shard) = &work.shard {
            vars.extend(self.of_shard(shard));
        }
        // A read-only root file system is usual, so a program without a TMPDIR would have nowhere to go.
        if std::env::var_os("TMPDIR").is_none() {
            vars.push(("TMPDIR", self.tmp().into()));
        }
        // An image's own home mostly belongs to a user that the pod is not run as, if there is one at all.
        let home = std::env::var_os("HOME").filter(|home| access(home.as_os_str(), AccessFlags::W_OK).is_ok());
        if home.is_none() {
            vars.push(("HOME", self.home().into()));
        }
        vars
    }

    fn of_shard(&self, shard: &ShardWork) -> Vec<(&'static str, OsString)> {
        let mut vars = vec![(env::SHARD, shard.number.to_string().into()), (env::SHARDS, shard.of.to_string().into())];
        if shard.items.is_some() {
            vars.push((env::ITEMS, self.items().into()));
        }
        if let Ok(key) = std::env::var(env::IDEMPOTENCY_KEY) {
            vars.push((env::IDEMPOTENCY_KEY, of_one_shard(&key, shard.number).into()));
        }
        vars
    }
}

/// What the Job says for all shards, for one of them: what follows the last `/` is the number.
fn of_one_shard(key: &str, number: u32) -> String {
    let (run_and_step, _) = key.rsplit_once('/').unwrap_or((key, ""));
    format!("{run_and_step}/{number}")
}

/// What a step declares about its stages.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Stages {
    /// All of them, in order.
    pub(crate) declared: Vec<String>,
    /// Those that are entered only with the gateway's consent.
    pub(crate) guarded: Vec<String>,
}

impl Stages {
    pub(crate) fn of(work: &Work) -> Self {
        Self { declared: work.stages.clone(), guarded: work.guarded.clone() }
    }
}

/// The file with [`Stages`], beside the FIFO: the helper refuses a misspelt stage where the author sees it, and knows
/// which ones it has to ask for.
pub(crate) fn stages(fifo: &Path) -> PathBuf {
    fifo.with_file_name("stages.json")
}

/// The socket of [`super::door`], beside the FIFO.
pub(crate) fn door(fifo: &Path) -> PathBuf {
    fifo.with_file_name("door")
}

fn folder(path: &Path, mode: u32) -> Result<(), LayoutError> {
    let failed = |source| LayoutError::Folder { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)
}

fn fifo(path: &Path) -> Result<(), LayoutError> {
    let failed = |source| LayoutError::Fifo { path: path.to_owned(), source };
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed(source)),
        _ => {}
    }
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| failed(errno.into()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o622)).map_err(failed)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), LayoutError> {
    fs::write(path, bytes).map_err(|source| LayoutError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt;

    use super::*;

    /// Work that says this beside the least.
    fn work(more: serde_json::Value) -> Work {
        let mut work = serde_json::json!({"parameters": {"course": "x"}, "limits": {"logBytes": 1, "files": 1}});
        work.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(work).unwrap()
    }

    #[test]
    fn only_a_step_that_emits_has_a_fifo_for_it() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        let emits = serde_json::json!({"emits": {"itemsPerShard": 1, "shards": 1, "items": 1, "lineBytes": 1}});
        for (work, expected) in [(work(serde_json::json!({})), false), (work(emits), true)] {
            layout.prepare(&work).unwrap();
            let fifo = fs::metadata(layout.emit()).is_ok_and(|meta| {
                assert_eq!(meta.permissions().mode() & 0o777, 0o622);
                meta.file_type().is_fifo()
            });
            let var = layout.environment(Path::new("agent"), &work).iter().any(|(name, _)| *name == env::EMIT);
            assert_eq!((fifo, var), (expected, expected));
        }
    }

    #[test]
    fn the_idempotency_key_ends_with_the_shard() {
        assert_eq!(of_one_shard("7f3c/send/0", 41), "7f3c/send/41");
        assert_eq!(of_one_shard("7f3c", 41), "7f3c/41");
    }

    #[test]
    fn the_work_folder_is_made_once_and_again() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        for _ in 0..2 {
            layout.prepare(&work(serde_json::json!({}))).unwrap();
        }
        let work = root.path().join("asynctask/work");
        assert_eq!(fs::read_to_string(work.join("parameters.json")).unwrap(), r#"{"course":"x"}"#);
        assert!(fs::metadata(work.join("progress")).unwrap().file_type().is_fifo());
        assert_eq!(fs::metadata(work.join("outputs")).unwrap().permissions().mode() & 0o7777, 0o777);
        assert_eq!(fs::metadata(work.join("tmp")).unwrap().permissions().mode() & 0o7777, 0o1777);
    }

    #[test]
    fn a_folder_that_cannot_be_made_names_itself_and_the_mount() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("asynctask"), b"a file in the way").unwrap();
        let said = Layout::below(root.path()).prepare(&work(serde_json::json!({}))).unwrap_err().to_string();
        assert!(said.contains("asynctask/work/inputs") && said.contains("mounted as a writable volume"), "{said}");
    }
}
