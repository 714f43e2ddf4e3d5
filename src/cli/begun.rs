//! Uploads that were begun and not completed, by what they are of: another command for the same file goes on with them.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use asynctask_contract::people::UploadRequest;

/// Longest id that is read back.
const ID_MAX: u64 = 128;

/// Where the id of an upload is kept while it is sent. It is a convenience: without such a place the file is sent anew.
#[derive(Debug, Default)]
pub(crate) struct Begun(Option<(PathBuf, File)>);

impl Begun {
    /// The place for this file, in the folder for the state of programs; none when another command is sending it, or where
    /// nothing can be kept.
    pub(crate) fn of(namespace: &str, request: &UploadRequest) -> Self {
        folder().and_then(|folder| Self::inside(&folder, namespace, request).ok()).unwrap_or_default()
    }

    /// The gateway is not part of it: it may be reached by another way each time, and another one does not know the id.
    pub(super) fn inside(folder: &Path, namespace: &str, request: &UploadRequest) -> std::io::Result<Self> {
        let what = serde_json::to_vec(&(namespace, request))?;
        let path = folder.join(hex::encode(Sha256::digest(what)));
        std::fs::create_dir_all(folder)?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        // Gone with the process, however it ends.
        file.try_lock()?;
        Ok(Self(Some((path, file))))
    }

    /// Id of the upload that was broken off.
    pub(crate) fn id(&mut self) -> Option<String> {
        let (_, file) = self.0.as_mut()?;
        let mut id = String::new();
        file.take(ID_MAX).read_to_string(&mut id).ok()?;
        (!id.is_empty()).then_some(id)
    }

    /// Keeps the id of the upload that was begun now.
    pub(crate) fn keep(&mut self, id: &str) {
        let kept = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(id.as_bytes())
        };
        if self.0.as_mut().is_some_and(|(_, file)| kept(file).is_err()) {
            self.forget();
        }
    }

    /// There is nothing to go on with.
    pub(crate) fn forget(&mut self) {
        if let Some((path, _)) = self.0.take() {
            // What is left of it is an id that the gateway no longer takes.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn folder() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("kubectl-asynctask/uploads"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_kept_for_the_next_command_and_for_one_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let request = |size| UploadRequest {
            definition: "d".into(),
            input: "archive".into(),
            size,
            sha256: "0".into(),
            media_type: None,
        };
        let of = |namespace, size| Begun::inside(folder.path(), namespace, &request(size));
        let mut first = of("ns", 1).expect("kept");
        assert_eq!(first.id(), None);
        first.keep("0001");
        assert!(of("ns", 1).is_err(), "a command that sends it has it");
        drop(first);
        for (namespace, size) in [("other", 1), ("ns", 2)] {
            assert_eq!(of(namespace, size).expect("kept").id(), None, "{namespace} {size}");
        }
        let mut again = of("ns", 1).expect("kept");
        assert_eq!(again.id().as_deref(), Some("0001"));
        again.keep("2");
        drop(again);
        let mut again = of("ns", 1).expect("kept");
        assert_eq!(again.id().as_deref(), Some("2"), "the whole of it is another");
        again.forget();
        assert_eq!(of("ns", 1).expect("kept").id(), None);
    }
}
