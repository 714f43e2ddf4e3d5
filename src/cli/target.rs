//! Where a downloaded file goes. Its path was chosen by a task's author: it never leads out of the target folder.

use std::path::{Component, Path, PathBuf};

use super::words::clean;

/// A place that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    /// The path leads elsewhere, or is no file name here.
    #[error(
        "the output names a file {:?}, which leads out of the target folder or cannot be a file name here: name one \
         with -o FILE",
        clean(.0)
    )]
    Escape(String),
    /// A folder on the way is a link that leads out.
    #[error(
        "{} leads out of {}: remove the link, or choose another folder with -o",
        parent.display(),
        folder.display()
    )]
    Link {
        /// Folder the file would be in.
        parent: PathBuf,
        /// Target folder.
        folder: PathBuf,
    },
    /// Several files for one name.
    #[error(
        "{} would be written by {files} files: name a folder with -o FOLDER/, or one file with --file N",
        path.display()
    )]
    Several {
        /// What was given.
        path: PathBuf,
        /// How many.
        files: usize,
    },
    /// A folder cannot be made.
    #[error("cannot make the folder {}: {source}", folder.display())]
    Folder {
        /// Folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Where files go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Standard output.
    Stdout,
    /// This very file.
    File(PathBuf),
    /// Below this folder, each at the author's path.
    Folder(PathBuf),
}

impl Target {
    /// What `-o` means for this many files: `-` stdout, a folder when it is one, ends in `/` or several files come;
    /// without it the current folder.
    pub(crate) fn new(given: Option<&Path>, files: usize) -> Result<Self, TargetError> {
        let Some(path) = given else { return Ok(Self::Folder(PathBuf::from("."))) };
        let folder = path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let stdout = path.as_os_str() == "-";
        if files > 1 && (stdout || path.is_file()) {
            return Err(TargetError::Several { path: path.to_owned(), files });
        }
        Ok(match (stdout, folder || files > 1) {
            (true, _) => Self::Stdout,
            (false, true) => Self::Folder(path.to_owned()),
            (false, false) => Self::File(path.to_owned()),
        })
    }

    /// The file to write for the author's path, its folder made; `None` for stdout. `alone`: only one file comes, so
    /// its name is enough.
    pub(crate) fn place(&self, path: &str, alone: bool) -> Result<Option<PathBuf>, TargetError> {
        match self {
            Self::Stdout => Ok(None),
            Self::File(file) => Ok(Some(file.clone())),
            Self::Folder(folder) => {
                let relative = relative(path)?;
                let relative =
                    if alone { relative.file_name().map_or(relative.clone(), PathBuf::from) } else { relative };
                let file = folder.join(relative);
                inside(folder, &file)?;
                Ok(Some(file))
            }
        }
    }
}

/// The author's path as one of this system, made of plain names only.
fn relative(path: &str) -> Result<PathBuf, TargetError> {
    let bad = || TargetError::Escape(path.to_owned());
    let mut safe = PathBuf::new();
    for part in path.split('/') {
        let mut components = Path::new(part).components();
        let plain =
            matches!((components.next(), components.next()), (Some(Component::Normal(name)), None) if name == part);
        if !plain || part.chars().any(char::is_control) {
            return Err(bad());
        }
        safe.push(part);
    }
    Ok(safe)
}

/// Makes the folders on the way and checks that no link among them leads out.
fn inside(folder: &Path, file: &Path) -> Result<(), TargetError> {
    let parent = file.parent().unwrap_or(folder);
    let failed = |source| TargetError::Folder { folder: parent.to_owned(), source };
    let link = || TargetError::Link { parent: parent.to_owned(), folder: folder.to_owned() };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let root = folder.canonicalize().map_err(failed)?;
    // The deepest folder that exists already is where a link could be; below it there is nothing to follow.
    let existing = parent.ancestors().find(|a| a.symlink_metadata().is_ok()).unwrap_or(folder);
    if !existing.canonicalize().map_err(failed)?.starts_with(&root) {
        return Err(link());
    }
    std::fs::create_dir_all(parent).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::{Target, TargetError, relative};
    use std::path::{Path, PathBuf};

    #[test]
    fn paths_of_authors_are_plain_names_or_refused() {
        assert_eq!(relative("a/b c/ü.csv").expect("plain"), PathBuf::from("a/b c/ü.csv"));
        assert_eq!(relative("..a").expect("plain"), PathBuf::from("..a"));
        for bad in
            ["", "/", "/etc/passwd", "..", "../x", "a/../../x", "a//b", "./a", "a/.", "a/", "a\0b", "a\nb", "a\x1b[2J"]
        {
            assert!(matches!(relative(bad), Err(TargetError::Escape(_))), "{bad:?}");
        }
    }

    #[test]
    fn the_meaning_of_the_target() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("f");
        std::fs::write(&file, "x").expect("written");
        let missing = dir.path().join("new");
        let of = |path: &Path, files| Target::new(Some(path), files);
        assert_eq!(Target::new(None, 3).expect("here"), Target::Folder(".".into()));
        assert_eq!(of(Path::new("-"), 1).expect("stdout"), Target::Stdout);
        assert_eq!(of(&missing, 1).expect("a file"), Target::File(missing.clone()));
        assert_eq!(of(&missing, 2).expect("a folder"), Target::Folder(missing));
        assert_eq!(of(dir.path(), 1).expect("a folder"), Target::Folder(dir.path().into()));
        assert_eq!(of(Path::new("new/"), 1).expect("a folder"), Target::Folder("new/".into()));
        assert!(matches!(of(Path::new("-"), 2), Err(TargetError::Several { .. })));
        assert!(matches!(of(&file, 2), Err(TargetError::Several { .. })));
    }

    #[test]
    fn files_of_a_folder_keep_their_path_and_a_single_one_its_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let target = Target::Folder(dir.path().join("out"));
        let many = target.place("reports/a.csv", false).expect("placed").expect("a file");
        assert_eq!(many, dir.path().join("out/reports/a.csv"));
        assert!(many.parent().expect("a parent").is_dir());
        let one = target.place("reports/a.csv", true).expect("placed").expect("a file");
        assert_eq!(one, dir.path().join("out/a.csv"));
        assert!(target.place("../a.csv", true).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_out_is_not_followed() {
        let dir = tempfile::tempdir().expect("a folder");
        let out = dir.path().join("out");
        std::fs::create_dir_all(dir.path().join("elsewhere")).expect("made");
        std::fs::create_dir_all(&out).expect("made");
        std::os::unix::fs::symlink("../elsewhere", out.join("reports")).expect("linked");
        let refused = Target::Folder(out).place("reports/deep/a.csv", false);
        assert!(matches!(refused, Err(TargetError::Link { .. })), "{refused:?}");
        assert!(!dir.path().join("elsewhere/deep").exists(), "nothing is made behind the link");
    }
}
