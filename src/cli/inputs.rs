//! `--input`: which file, or what of another run, is which input; checked against the definition before a byte is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::meter::Meter;
use super::words::size;
use asynctask_api::definition::InputSpec;
use asynctask_api::quantity;
use asynctask_api::task::OutputRef;

/// What an input that names no limit takes.
pub(crate) const DEFAULT_MAX_SIZE: &str = "5Gi";
/// Begins an input that another run gave back; a file of such a name is `./output:…`.
const OUTPUT: &str = "output:";
/// Bytes read at once.
pub(crate) const CHUNK: usize = 256 * 1024;

/// An input that is not given as the definition asks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// No name or no file.
    #[error("{0:?}: write NAME=FILE, or NAME=FILE;type=MEDIA/TYPE")]
    Split(String),
    /// No task or no output.
    #[error("{0:?}: write NAME=output:TASK/OUTPUT, or NAME=./output:… for a file of that name")]
    SplitOutput(String),
    /// The definition declares no such input.
    #[error("input {name}: the definition has no such input; {known}")]
    Unknown {
        /// What was given.
        name: String,
        /// What it has.
        known: String,
    },
    /// The same input twice.
    #[error("input {0} is given twice")]
    Repeat(String),
    /// A required input is not given.
    #[error("input {0:?} is required: give it with --input {0}=FILE")]
    Missing(String),
    /// The file cannot be read.
    #[error("input {name}: cannot read {}: {source}", file.display())]
    Read {
        /// Input.
        name: String,
        /// File.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What another run gave back is there already.
    #[error("{0}: the output of a run needs no upload: name it when you run, --input {0}=output:TASK/OUTPUT")]
    NotAFile(String),
    /// A folder, a pipe, a device.
    #[error(
        "input {name}: {} is no regular file: its size and checksum must be known before it is sent",
        file.display()
    )]
    Kind {
        /// Input.
        name: String,
        /// File.
        file: PathBuf,
    },
    /// Too large.
    #[error("input {name}: {} has {has}; the input takes at most {limit}", file.display())]
    Size {
        /// Input.
        name: String,
        /// File.
        file: PathBuf,
        /// Its size.
        has: String,
        /// The limit.
        limit: String,
    },
    /// A type the input does not take.
    #[error(
        "input {name}: {} {looks}; the input takes {takes}. If it is one of these all the same, say so: \
         '{name}={};type={first}'", file.display(), file.display()
    )]
    MediaType {
        /// Input.
        name: String,
        /// File.
        file: PathBuf,
        /// What it seems to be.
        looks: String,
        /// What is taken.
        takes: String,
        /// One of them.
        first: String,
    },
}

/// One `--input`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputArg {
    name: String,
    origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    File(FileArg),
    Output(OutputRef),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FileArg {
    file: PathBuf,
    media_type: Option<String>,
}

/// Splits `name=FILE[;type=media/type]` and `name=output:TASK/OUTPUT`; for clap.
pub(crate) fn split(text: &str) -> Result<InputArg, InputError> {
    let bad = || InputError::Split(text.to_owned());
    let (name, rest) = text.split_once('=').ok_or_else(bad)?;
    if let Some(output) = rest.strip_prefix(OUTPUT) {
        let parts = output.split_once('/').filter(|(task, output)| !task.is_empty() && !output.is_empty());
        let parts = parts.filter(|(_, output)| !name.is_empty() && !output.contains('/'));
        let (task, output) = parts.ok_or_else(|| InputError::SplitOutput(text.to_owned()))?;
        let output = OutputRef { task: task.to_owned(), name: output.to_owned() };
        return Ok(InputArg { name: name.to_owned(), origin: Origin::Output(output) });
    }
    let (file, media_type) = match rest.rsplit_once(";type=") {
        Some((file, media_type)) => (file, Some(media_type.to_owned())),
        None => (rest, None),
    };
    if name.is_empty() || file.is_empty() || media_type.as_deref().is_some_and(|t| !t.contains('/')) {
        return Err(bad());
    }
    Ok(InputArg { name: name.to_owned(), origin: Origin::File(FileArg { file: PathBuf::from(file), media_type }) })
}

/// A file that fits its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputFile {
    /// Name of the input.
    pub(crate) name: String,
    /// The file.
    pub(crate) file: PathBuf,
    /// Bytes.
    pub(crate) size: u64,
    /// Declared or guessed.
    pub(crate) media_type: Option<String>,
}

/// What is given, as it fits the definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    /// Files that are to be sent.
    pub(crate) files: Vec<InputFile>,
    /// What other runs gave back, by the input's name.
    pub(crate) outputs: BTreeMap<String, OutputRef>,
}

/// One file, as it fits the definition.
pub(crate) fn file(declared: &[InputSpec], given: &InputArg) -> Result<InputFile, InputError> {
    match &given.origin {
        Origin::File(file) => fits(spec(declared, &given.name)?, file),
        Origin::Output(_) => Err(InputError::NotAFile(given.name.clone())),
    }
}

fn spec<'a>(declared: &'a [InputSpec], name: &str) -> Result<&'a InputSpec, InputError> {
    let unknown = || InputError::Unknown { name: name.to_owned(), known: known(declared) };
    declared.iter().find(|spec| spec.name == name).ok_or_else(unknown)
}

/// Matches what is given with what the definition declares.
pub(crate) fn check(declared: &[InputSpec], given: &[InputArg]) -> Result<Given, InputError> {
    let mut names = BTreeSet::new();
    let mut all = Given::default();
    for arg in given {
        let spec = spec(declared, &arg.name)?;
        if !names.insert(arg.name.clone()) {
            return Err(InputError::Repeat(arg.name.clone()));
        }
        match &arg.origin {
            Origin::File(file) => all.files.push(fits(spec, file)?),
            // Whether there is such an output, and whose, is for the operator to say.
            Origin::Output(output) => drop(all.outputs.insert(arg.name.clone(), output.clone())),
        }
    }
    match declared.iter().find(|spec| spec.required && !names.contains(&spec.name)) {
        Some(spec) => Err(InputError::Missing(spec.name.clone())),
        None => Ok(all),
    }
}

fn known(declared: &[InputSpec]) -> String {
    let names: Vec<&str> = declared.iter().map(|spec| spec.name.as_str()).collect();
    if names.is_empty() { "it takes none".to_owned() } else { format!("it takes {}", names.join(", ")) }
}

fn fits(spec: &InputSpec, arg: &FileArg) -> Result<InputFile, InputError> {
    let (name, file) = (spec.name.clone(), arg.file.clone());
    // Stdin, as others have it.
    if file.as_os_str() == "-" {
        return Err(InputError::Kind { name, file });
    }
    let meta = std::fs::metadata(&file).map_err(|source| InputError::Read {
        name: name.clone(),
        file: file.clone(),
        source,
    })?;
    if !meta.is_file() {
        return Err(InputError::Kind { name, file });
    }
    let limit = spec.max_size.as_deref().unwrap_or(DEFAULT_MAX_SIZE);
    // A limit that is no size is the definition's fault; operator and gateway refuse it in their own words.
    if quantity::bytes(limit).is_ok_and(|limit| meta.len() > limit) {
        return Err(InputError::Size { name, file, has: size(meta.len()), limit: limit.to_owned() });
    }
    let media_type = media_type(spec, arg)?;
    Ok(InputFile { name, file, size: meta.len(), media_type })
}

/// What was said, else what the name tells, else the only one there is to choose.
fn media_type(spec: &InputSpec, arg: &FileArg) -> Result<Option<String>, InputError> {
    if let Some(said) = &arg.media_type {
        return Ok(Some(said.clone()));
    }
    let guess = guess(&arg.file);
    let Some(first) = spec.media_types.first() else { return Ok(guess.map(str::to_owned)) };
    match guess {
        Some(guess) if spec.media_types.iter().any(|t| t.eq_ignore_ascii_case(guess)) => Ok(Some(guess.to_owned())),
        None if spec.media_types.len() == 1 => Ok(Some(first.clone())),
        _ => Err(InputError::MediaType {
            name: spec.name.clone(),
            file: arg.file.clone(),
            looks: guess.map_or_else(|| "has an unknown type".to_owned(), |t| format!("looks like {t}")),
            takes: spec.media_types.join(" or "),
            first: first.clone(),
        }),
    }
}

/// The media type a file's name tells.
fn guess(file: &Path) -> Option<&'static str> {
    let extension = file.extension()?.to_str()?.to_ascii_lowercase();
    Some(match extension.as_str() {
        "gz" | "tgz" => "application/gzip",
        "zip" => "application/zip",
        "tar" => "application/x-tar",
        "zst" => "application/zstd",
        "json" => "application/json",
        "jsonl" | "ndjson" => "application/jsonl",
        "yaml" | "yml" => "application/yaml",
        "xml" => "application/xml",
        "pdf" => "application/pdf",
        "csv" => "text/csv",
        "txt" => "text/plain",
        _ => return None,
    })
}

/// Hex SHA-256 of a file, from `offset` on for `length` bytes.
pub(crate) async fn digest(file: &Path, offset: u64, length: u64, meter: Option<&Meter>) -> std::io::Result<String> {
    let mut reader = section(file, offset, length).await?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = reader.read(&mut buffer).await?;
        if n == 0 {
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
        if let Some(meter) = meter {
            meter.add(n as u64);
        }
    }
}

/// A part of a file, to be read.
pub(crate) async fn section(
    file: &Path,
    offset: u64,
    length: u64,
) -> std::io::Result<tokio::io::Take<tokio::fs::File>> {
    use tokio::io::AsyncSeekExt;
    let mut open = tokio::fs::File::open(file).await?;
    open.seek(std::io::SeekFrom::Start(offset)).await?;
    Ok(open.take(length))
}

#[cfg(test)]
mod tests {
    use super::{InputError, check, digest, split};
    use asynctask_api::definition::InputSpec;

    fn archive(types: &[&str]) -> InputSpec {
        InputSpec {
            name: "archive".into(),
            title: None,
            media_types: types.iter().map(|t| (*t).to_owned()).collect(),
            max_size: Some("1Ki".into()),
            required: true,
            once: None,
        }
    }

    fn folder(files: &[(&str, usize)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, size) in files {
            std::fs::write(dir.path().join(name), vec![b'x'; *size]).expect("written");
        }
        dir
    }

    fn try_one(spec: InputSpec, dir: &tempfile::TempDir, text: &str) -> Result<super::InputFile, InputError> {
        let arg = split(&text.replace('@', &format!("{}/", dir.path().display())))?;
        check(&[spec], &[arg]).map(|mut given| given.files.remove(0))
    }

    #[test]
    fn a_file_gets_the_media_type_its_name_tells_or_the_one_that_was_said() {
        let dir = folder(&[("c.tar.gz", 3), ("c.bin", 3)]);
        let gzip = || archive(&["application/gzip"]);
        for (spec, text, expected) in [
            (gzip(), "archive=@c.tar.gz", Some("application/gzip")),
            (gzip(), "archive=@c.bin", Some("application/gzip")),
            (gzip(), "archive=@c.bin;type=application/zip", Some("application/zip")),
            (archive(&[]), "archive=@c.tar.gz", Some("application/gzip")),
            (archive(&[]), "archive=@c.bin", None),
        ] {
            let file = try_one(spec, &dir, text).expect(text);
            assert_eq!((file.size, file.media_type.as_deref()), (3, expected), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_before_a_byte_is_sent() {
        let dir = folder(&[("c.zip", 3), ("c.bin", 3), ("large.gz", 1025)]);
        let gzip = || archive(&["application/gzip"]);
        let two = || archive(&["application/gzip", "application/x-tar"]);
        for (spec, text, expected) in [
            (gzip(), "archive=@c.zip", "looks like application/zip; the input takes application/gzip"),
            (two(), "archive=@c.bin", "has an unknown type; the input takes application/gzip or application/x-tar"),
            (gzip(), "archive=@large.gz", "has 1.00 KiB; the input takes at most 1Ki"),
            (gzip(), "archive=@none.gz", "cannot read"),
            (gzip(), "archive=@", "no regular file"),
            (gzip(), "other=@c.gz", "no such input; it takes archive"),
            (gzip(), "archive", "write NAME=FILE"),
            (gzip(), "archive=", "write NAME=FILE"),
            (gzip(), "archive=f;type=gzip", "write NAME=FILE"),
            (gzip(), "archive=output:mail-1", "write NAME=output:TASK/OUTPUT"),
            (gzip(), "archive=output:/failures", "write NAME=output:TASK/OUTPUT"),
            (gzip(), "archive=output:mail-1/a/b", "write NAME=output:TASK/OUTPUT"),
        ] {
            let error = try_one(spec, &dir, text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_required_input_must_be_given_and_each_only_once() {
        assert!(matches!(check(&[archive(&[])], &[]), Err(InputError::Missing(name)) if name == "archive"));
        let dir = folder(&[("c", 1)]);
        let arg = split(&format!("archive={}/c", dir.path().display())).expect("split");
        assert!(matches!(check(&[archive(&[])], &[arg.clone(), arg]), Err(InputError::Repeat(_))));
        assert!(check(&[InputSpec { required: false, ..archive(&[]) }], &[]).expect("optional").files.is_empty());
    }

    #[test]
    fn what_another_run_gave_back_is_an_input_without_a_file() {
        let arg = split("archive=output:mail-1/failures").expect("split");
        let given = check(&[archive(&[])], std::slice::from_ref(&arg)).expect("given");
        let output = &given.outputs["archive"];
        assert_eq!((output.task.as_str(), output.name.as_str(), given.files.len()), ("mail-1", "failures", 0));
        assert!(matches!(check(&[archive(&[])], &[arg.clone(), arg]), Err(InputError::Repeat(_))));
        let file = split("archive=./output:mail-1").expect("a file of that name");
        assert!(matches!(check(&[archive(&[])], &[file]), Err(InputError::Read { .. })));
    }

    #[tokio::test]
    async fn a_digest_covers_the_asked_part_only() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("f");
        std::fs::write(&file, b"xxabcxx").expect("written");
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(&file, 2, 3, None).await.expect("read"), abc);
    }
}
