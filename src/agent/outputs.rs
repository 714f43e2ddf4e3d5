//! What the program left below `$ASYNCTASK_OUTPUTS`, compared with what the definition declares.

use std::collections::BTreeMap;
use std::fs::{self, FileType};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use asynctask_contract::file_path::{PathError, composed, validate_path};
use asynctask_contract::wire::OutputDeclaration;

/// Most entries looked at for one output: a tree of empty folders must not fill the memory.
const ENTRIES: usize = 100_000;

/// A file that is to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) output: String,
    /// Number within the output, in the order of the paths.
    pub(crate) seq: u32,
    /// Relative to `$ASYNCTASK_OUTPUTS`, in the one spelling that is stored.
    pub(crate) path: String,
    pub(crate) media_type: Option<String>,
    pub(crate) size: u64,
    /// Where the bytes are.
    pub(crate) file: PathBuf,
}

/// The outputs are not what the definition declares. Paths are shown escaped: they are the program's own words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error(
        "the output {output:?} was declared but not written: the program has to leave a file or folder at \
         $ASYNCTASK_OUTPUTS/{path} before it ends; when there is nothing to write, leave an empty file, or declare a folder \
         and leave that empty"
    )]
    Missing { output: String, path: String },
    #[error("{path:?} is a symbolic link, and links are not followed: write the file itself below $ASYNCTASK_OUTPUTS")]
    Link { path: PathBuf },
    #[error("{path:?} is a {what}; only files and folders can be outputs")]
    Special { path: PathBuf, what: &'static str },
    #[error("the file name {path:?} cannot be kept: it is not UTF-8; rename it below $ASYNCTASK_OUTPUTS")]
    NotUtf8 { path: PathBuf },
    #[error("the file name {path:?} cannot be kept: {why}; rename it below $ASYNCTASK_OUTPUTS")]
    Name { path: String, why: PathError },
    #[error(
        "{one:?} and {other:?} are one name in two spellings (Unicode NFC and NFD), and only one of them can be kept: \
         rename one below $ASYNCTASK_OUTPUTS"
    )]
    SameName { one: String, other: String },
    #[error(
        "the output {output:?} has {files} files, and is put together from one of each shard: write the one file \
         $ASYNCTASK_OUTPUTS/{path}"
    )]
    NotOneFile { output: String, path: String, files: usize },
    #[error("the output {output:?} is declared at {path:?}, which is no path below $ASYNCTASK_OUTPUTS")]
    Outside { output: String, path: String },
    #[error("the outputs have more than {limit} files; write fewer, or one archive")]
    TooMany { limit: u32 },
    #[error("cannot read {path:?}: {source}")]
    Read { path: PathBuf, source: io::Error },
}

impl OutputError {
    /// The word of the failure report.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "OutputMissing",
            Self::Link { .. }
            | Self::Special { .. }
            | Self::NotUtf8 { .. }
            | Self::Name { .. }
            | Self::SameName { .. }
            | Self::NotOneFile { .. }
            | Self::Outside { .. }
            | Self::Read { .. } => "OutputRefused",
            Self::TooMany { .. } => "TooManyOutputFiles",
        }
    }
}

/// Finds every file of every declared output. What is not declared is left alone.
pub(crate) fn collect(root: &Path, declared: &[OutputDeclaration], limit: u32) -> Result<Vec<Found>, OutputError> {
    let mut found = Vec::new();
    for output in declared {
        let mut walk = Walk { root, files: BTreeMap::new(), room: limit as usize - found.len(), limit };
        walk.enter(&resolve(root, output)?)?;
        if output.one_file && walk.files.len() != 1 {
            let (output, path) = (output.name.clone(), output.path.clone());
            return Err(OutputError::NotOneFile { output, path, files: walk.files.len() });
        }
        for (seq, (path, (written, size))) in (0..).zip(walk.files) {
            found.push(Found {
                output: output.name.clone(),
                seq,
                file: root.join(written),
                path,
                media_type: output.media_type.clone(),
                size,
            });
        }
    }
    Ok(found)
}

/// The declared path, with no link on the way to it.
fn resolve(root: &Path, output: &OutputDeclaration) -> Result<PathBuf, OutputError> {
    let declared = Path::new(&output.path);
    let inside = declared.components().all(|part| matches!(part, Component::Normal(_)));
    if !inside || declared.as_os_str().is_empty() {
        return Err(OutputError::Outside { output: output.name.clone(), path: output.path.clone() });
    }
    let mut path = PathBuf::new();
    for part in declared {
        path.push(part);
        match fs::symlink_metadata(root.join(&path)) {
            Ok(meta) if meta.is_symlink() => return Err(OutputError::Link { path }),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(OutputError::Missing { output: output.name.clone(), path: output.path.clone() });
            }
            Err(source) => return Err(OutputError::Read { path, source }),
        }
    }
    Ok(path)
}

struct Walk<'a> {
    root: &'a Path,
    /// By the name that is stored: the name on the disk, and bytes.
    files: BTreeMap<String, (String, u64)>,
    room: usize,
    limit: u32,
}

impl Walk<'_> {
    /// Takes the file at `start`, or every file below it. A list of folders, not recursion: depth is the program's choice.
    fn enter(&mut self, start: &Path) -> Result<(), OutputError> {
        let mut folders = Vec::new();
        let mut met = 0;
        self.meet(start.to_owned(), &mut folders)?;
        while let Some(folder) = folders.pop() {
            let failed = |source| OutputError::Read { path: folder.clone(), source };
            for entry in fs::read_dir(self.root.join(&folder)).map_err(failed)? {
                self.meet(folder.join(entry.map_err(failed)?.file_name()), &mut folders)?;
                met += 1;
                if met > ENTRIES {
                    return Err(OutputError::TooMany { limit: self.limit });
                }
            }
        }
        Ok(())
    }

    fn meet(&mut self, path: PathBuf, folders: &mut Vec<PathBuf>) -> Result<(), OutputError> {
        let meta = match fs::symlink_metadata(self.root.join(&path)) {
            Ok(meta) => meta,
            Err(source) => return Err(OutputError::Read { path, source }),
        };
        if meta.is_dir() {
            folders.push(path);
        } else if meta.is_symlink() {
            return Err(OutputError::Link { path });
        } else if !meta.is_file() {
            return Err(OutputError::Special { path, what: kind(meta.file_type()) });
        } else if self.files.len() == self.room {
            return Err(OutputError::TooMany { limit: self.limit });
        } else {
            self.keep(path, meta.len())?;
        }
        Ok(())
    }

    /// Keeps a file under the name that can travel in manifests and headers.
    fn keep(&mut self, path: PathBuf, size: u64) -> Result<(), OutputError> {
        let written = path.into_os_string().into_string().map_err(|path| OutputError::NotUtf8 { path: path.into() })?;
        let stored = composed(&written).into_owned();
        validate_path(&stored).map_err(|why| OutputError::Name { path: written.clone(), why })?;
        match self.files.insert(stored, (written.clone(), size)) {
            Some((one, _)) => Err(OutputError::SameName { one, other: written }),
            None => Ok(()),
        }
    }
}

fn kind(file: FileType) -> &'static str {
    if file.is_fifo() {
        "FIFO"
    } else if file.is_socket() {
        "socket"
    } else {
        "device"
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        root
    }

    fn declared(name: &str, path: &str) -> OutputDeclaration {
        OutputDeclaration {
            name: name.into(),
            path: path.into(),
            media_type: Some("text/csv".into()),
            failed_items: false,
            one_file: false,
        }
    }

    fn paths(found: &[Found]) -> Vec<(&str, u32, &str)> {
        found.iter().map(|f| (f.output.as_str(), f.seq, f.path.as_str())).collect()
    }

    #[test]
    fn files_and_folders_are_found_in_order() {
        let root = folder(&["report.json", "pages/b.txt", "pages/a/z.txt", "pages/a.txt", "scratch.txt"]);
        let found = collect(root.path(), &[declared("report", "report.json"), declared("pages", "pages")], 10).unwrap();
        assert_eq!(
            paths(&found),
            [
                ("report", 0, "report.json"),
                ("pages", 0, "pages/a.txt"),
                ("pages", 1, "pages/a/z.txt"),
                ("pages", 2, "pages/b.txt")
            ]
        );
        assert_eq!(found[0].size, "report.json".len() as u64);
        assert_eq!(found[0].media_type.as_deref(), Some("text/csv"));
    }

    #[test]
    fn an_empty_folder_is_written_and_holds_nothing() {
        let root = folder(&[]);
        fs::create_dir(root.path().join("pages")).unwrap();
        assert_eq!(collect(root.path(), &[declared("pages", "pages")], 10).unwrap(), []);
    }

    #[test]
    fn what_is_not_written_is_missing() {
        let root = folder(&["report"]);
        for path in ["other", "report/inner"] {
            let error = collect(root.path(), &[declared("report", path)], 10).unwrap_err();
            assert_eq!(error.code(), "OutputMissing");
            assert!(error.to_string().contains(path), "{error}");
        }
    }

    #[test]
    fn links_are_refused_wherever_they_are() {
        let root = folder(&["real/a.txt", "pages/b.txt"]);
        symlink("/etc/passwd", root.path().join("leak")).unwrap();
        symlink("real", root.path().join("folder")).unwrap();
        symlink("/etc", root.path().join("pages/etc")).unwrap();
        symlink("nowhere", root.path().join("dangling")).unwrap();
        for path in ["leak", "folder", "folder/a.txt", "pages", "dangling"] {
            let error = collect(root.path(), &[declared("x", path)], 10).unwrap_err();
            assert!(matches!(error, OutputError::Link { .. }), "{path}: {error}");
        }
    }

    #[test]
    fn a_fifo_is_refused_and_never_opened() {
        let root = folder(&[]);
        nix::unistd::mkfifo(&root.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = collect(root.path(), &[declared("x", "pipe")], 10).unwrap_err();
        assert!(error.to_string().contains("is a FIFO"), "{error}");
    }

    #[test]
    fn names_that_could_not_travel_are_refused() {
        for name in [&b"a\nb"[..], b"a\rb", b"\x1b[31m", b"\xff\xfe"] {
            let root = folder(&["pages/fine.txt"]);
            fs::write(root.path().join("pages").join(std::ffi::OsStr::from_bytes(name)), b"").unwrap();
            let error = collect(root.path(), &[declared("x", "pages")], 10).unwrap_err();
            assert_eq!(error.code(), "OutputRefused");
            assert!(!error.to_string().contains(char::is_control), "{error}");
        }
    }

    #[test]
    fn a_name_that_nobody_could_read_is_refused_by_name() {
        for (name, words) in [("a\\b", "backslash"), ("\u{202e}fdp", "control"), (&"d/".repeat(600), "1024 bytes")] {
            let root = folder(&[&format!("pages/{name}x")]);
            let error = collect(root.path(), &[declared("x", "pages")], 10).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn a_name_from_macos_is_stored_as_everybody_spells_it_and_two_spellings_are_told() {
        let root = folder(&["pages/u\u{308}ber.txt"]);
        let found = collect(root.path(), &[declared("x", "pages")], 10).unwrap();
        assert_eq!(paths(&found), [("x", 0, "pages/\u{fc}ber.txt")]);
        assert!(found[0].file.exists());
        fs::write(root.path().join("pages/\u{fc}ber.txt"), "").unwrap();
        let error = collect(root.path(), &[declared("x", "pages")], 10).unwrap_err();
        assert!(matches!(error, OutputError::SameName { .. }), "{error}");
    }

    #[test]
    fn of_what_is_put_together_there_is_one_file() {
        let root = folder(&["rows/1", "rows/2", "one/1"]);
        let appended = |path: &str| OutputDeclaration { one_file: true, ..declared("x", path) };
        let error = collect(root.path(), &[appended("rows")], 10).unwrap_err();
        assert!(error.to_string().contains("2 files"), "{error}");
        assert_eq!(collect(root.path(), &[appended("one")], 10).unwrap().len(), 1);
    }

    #[test]
    fn a_declaration_cannot_leave_the_folder() {
        let root = folder(&["report"]);
        for path in ["../report", "/etc/passwd", "a/../../b", "", "."] {
            let error = collect(root.path(), &[declared("x", path)], 10).unwrap_err();
            assert!(matches!(error, OutputError::Outside { .. }), "{path}: {error}");
        }
    }

    #[test]
    fn the_limit_counts_over_all_outputs() {
        let root = folder(&["a/1", "a/2", "b/1", "b/2"]);
        let both = [declared("a", "a"), declared("b", "b")];
        assert_eq!(collect(root.path(), &both, 4).unwrap().len(), 4);
        assert_eq!(collect(root.path(), &both, 3).unwrap_err().code(), "TooManyOutputFiles");
    }
}
