//! A store in a folder: for a first try on one volume. It cannot sign, so the gateway passes the bytes on.
//!
//! ```text
//! <root>/objects/<key>   the bytes, as they are
//! <root>/digests/<key>   "<etag> <sha256>", written after the object
//! <root>/staging/<uuid>  a stream that is not verified yet
//! ```
//! A digest counts only while its etag is the object's: a crash between the two writes, or a restored backup, loses
//! the digest and never gives a wrong one.

use std::io;
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};
use jiff::Timestamp;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Error as FsError, GetOptions, GetResultPayload, MultipartUpload, ObjectStore as _, ObjectStoreExt, PutPayload,
    RenameOptions, RenameTargetMode,
};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::digest::{Digest, Expected, Verifier};
use super::error::{StoreError, innermost};
use super::layout::Prefix;
use super::walk;
use super::{Incoming, Meta, Object, ObjectStore, Page, PutMode, clamp};

/// Streams are written in pieces of this size, so one upload holds little more than this in memory.
const PIECE: usize = 1 << 20;

/// Folder of the bytes.
const OBJECTS: &str = "objects";
/// Folder of streams that are not verified yet.
const STAGING: &str = "staging";

/// Objects as files below a folder.
#[derive(Debug)]
pub struct FilesystemStore {
    root: PathBuf,
    /// Removes a folder with its last object.
    files: Arc<LocalFileSystem>,
    /// Removes no folder: the one of staged streams would go with one of them, from under the next.
    writes: Arc<LocalFileSystem>,
}

impl FilesystemStore {
    /// Opens a folder that exists: a missing one is more likely a volume that was not mounted than a new store.
    ///
    /// # Errors
    /// [`StoreError::NoSuchLocation`] without the folder.
    pub fn open(root: &FilePath) -> Result<Self, StoreError> {
        let missing = || StoreError::NoSuchLocation { location: format!("folder {}", root.display()) };
        if !root.is_dir() {
            return Err(missing());
        }
        let files = LocalFileSystem::new_with_prefix(root).map_err(|_| missing())?.with_fsync(true);
        let writes = Arc::new(files.clone().with_automatic_cleanup(false));
        Ok(Self { root: root.to_owned(), files: Arc::new(files.with_automatic_cleanup(true)), writes })
    }

    fn failed(&self, act: &str, key: &str, error: FsError) -> StoreError {
        match error {
            // A folder was removed while it was written to; the object itself is none that could be missing.
            FsError::NotFound { .. } if act.starts_with("write") => {
                self.other(act, key, "a folder of it was removed at this moment".to_owned())
            }
            FsError::NotFound { .. } => StoreError::NotFound { key: key.to_owned() },
            FsError::AlreadyExists { .. } => StoreError::AlreadyExists { key: key.to_owned() },
            error => match innermost(&error).downcast_ref::<io::Error>() {
                Some(error) => self.refused(act, key, error),
                None => self.other(act, key, innermost(&error).to_string()),
            },
        }
    }

    fn refused(&self, act: &str, key: &str, error: &io::Error) -> StoreError {
        match error.kind() {
            io::ErrorKind::PermissionDenied => StoreError::PermissionDenied {
                endpoint: self.location(),
                action: format!("{act} {key}"),
                code: error.to_string(),
            },
            _ => self.other(act, key, error.to_string()),
        }
    }

    fn other(&self, act: &str, key: &str, detail: String) -> StoreError {
        StoreError::Other { action: format!("{act} {key} in {}", self.location()), detail }
    }

    async fn note_digest(&self, key: &str, etag: Option<String>, digest: Digest) -> Result<(), StoreError> {
        let Some(etag) = etag else { return Ok(()) };
        let note = format!("{etag} {digest}");
        let put = self.files.put(&digests(key)?, PutPayload::from(note)).await;
        put.map(drop).map_err(|error| self.failed("write the digest of", key, error))
    }

    /// A missing, stale or unreadable note is the same: nobody vouches for a digest.
    async fn noted_digest(&self, key: &str, etag: Option<&str>) -> Option<Digest> {
        let found = self.files.get(&digests(key).ok()?).await.ok()?.bytes().await.ok()?;
        let (noted_for, digest) = std::str::from_utf8(&found).ok()?.rsplit_once(' ')?;
        (Some(noted_for) == etag).then(|| digest.parse().ok()).flatten()
    }

    /// On any error the staged file is gone before the caller hears of it; dropping the upload would remove it later.
    async fn stage(&self, key: &str, at: &Path, bytes: Incoming<'_>, expected: Expected) -> Result<(), StoreError> {
        let broken = |error| self.failed("write", key, error);
        let mut upload = self.writes.put_multipart(at).await.map_err(broken)?;
        if let Err(error) = self.fill(key, upload.as_mut(), bytes, expected).await {
            // The first error counts; a file left over in `staging` is no object.
            let _ = upload.abort().await;
            return Err(error);
        }
        upload.complete().await.map_err(broken)?;
        Ok(())
    }

    async fn fill(
        &self,
        key: &str,
        upload: &mut dyn MultipartUpload,
        mut bytes: Incoming<'_>,
        expected: Expected,
    ) -> Result<(), StoreError> {
        let broken = |error| self.failed("write", key, error);
        let altered = |difference| StoreError::Altered { key: key.to_owned(), difference };
        let mut verifier = Verifier::new(expected);
        let mut piece = Vec::with_capacity(PIECE);
        while let Some(chunk) = bytes.next().await {
            let mut chunk = chunk.map_err(|source| StoreError::Interrupted { key: key.to_owned(), source })?;
            verifier.update(&chunk).map_err(altered)?;
            while !chunk.is_empty() {
                let fits = chunk.len().min(PIECE - piece.len());
                piece.extend_from_slice(&chunk.split_to(fits));
                if piece.len() == PIECE {
                    write_piece(upload, &mut piece).await.map_err(broken)?;
                }
            }
        }
        verifier.finish().map_err(altered)?;
        write_piece(upload, &mut piece).await.map_err(broken)
    }

    async fn publish(&self, staged: &Path, key: &str, expected: Expected, mode: PutMode) -> Result<(), StoreError> {
        let target_mode = match mode {
            PutMode::Overwrite => RenameTargetMode::Overwrite,
            PutMode::Create => RenameTargetMode::Create,
        };
        let options = RenameOptions::new().with_target_mode(target_mode);
        let at = objects(key)?;
        self.writes.rename_opts(staged, &at, options).await.map_err(|error| self.failed("write", key, error))?;
        let etag = self.files.head(&at).await.map_err(|error| self.failed("read", key, error))?.e_tag;
        self.note_digest(key, etag, expected.sha256).await
    }
}

/// From where the file stands. In larger pieces than the crate reads: each is a trip to a blocking thread.
fn pieces(file: File, range: Range<u64>) -> impl Stream<Item = Result<Bytes, io::Error>> {
    futures::stream::try_unfold((file, range), |(mut file, mut range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let mut piece = BytesMut::with_capacity(PIECE);
        let wanted = range.end - range.start;
        let read = (&mut file).take(wanted.min(PIECE as u64)).read_buf(&mut piece).await?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file was cut while it was read"));
        }
        range.start += read as u64;
        Ok(Some((piece.freeze(), (file, range))))
    })
}

async fn write_piece(upload: &mut dyn MultipartUpload, piece: &mut Vec<u8>) -> Result<(), FsError> {
    let full = std::mem::replace(piece, Vec::with_capacity(PIECE));
    upload.put_part(PutPayload::from(full)).await
}

fn objects(key: &str) -> Result<Path, StoreError> {
    below(OBJECTS, key)
}

fn digests(key: &str) -> Result<Path, StoreError> {
    below("digests", key)
}

/// Refuses keys that a file name cannot spell exactly; [`super::layout`] makes none of them.
fn below(tree: &str, key: &str) -> Result<Path, StoreError> {
    let wanted = format!("{tree}/{key}");
    match Path::parse(&wanted) {
        Ok(path) if path.as_ref() == wanted && !key.contains('#') => Ok(path),
        _ => Err(StoreError::Other { action: format!("use the key {key:?}"), detail: "it is no file name".into() }),
    }
}

#[async_trait]
impl ObjectStore for FilesystemStore {
    fn location(&self) -> String {
        format!("folder {}", self.root.display())
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<(), StoreError> {
        let digest = Digest::of(&bytes);
        let mode = match mode {
            PutMode::Overwrite => object_store::PutMode::Overwrite,
            PutMode::Create => object_store::PutMode::Create,
        };
        let put = self.files.put_opts(&objects(key)?, bytes.into(), mode.into()).await;
        let etag = put.map_err(|error| self.failed("write", key, error))?.e_tag;
        self.note_digest(key, etag, digest).await
    }

    async fn put_stream(
        &self,
        key: &str,
        bytes: Incoming<'_>,
        expected: Expected,
        mode: PutMode,
    ) -> Result<(), StoreError> {
        objects(key)?;
        let staged = Path::from(format!("{STAGING}/{}", Uuid::new_v4()));
        self.stage(key, &staged, bytes, expected).await?;
        let published = self.publish(&staged, key, expected, mode).await;
        if published.is_err() {
            // The first error counts; a file left over in `staging` is no object.
            let _ = self.writes.delete(&staged).await;
        }
        published
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, StoreError> {
        let meta = self.head(key).await?;
        let range = clamp(&meta, range)?;
        let options = GetOptions::new().with_if_match(meta.etag.clone());
        let opened = self.files.get_opts(&objects(key)?, options).await;
        let opened = opened.map_err(|error| self.failed("read", key, error))?;
        let GetResultPayload::File(file, _) = opened.payload else {
            unreachable!("invariant: a folder gives files");
        };
        let action = format!("read {key} in {}", self.location());
        let named = move |error: io::Error| StoreError::Other { action: action.clone(), detail: error.to_string() };
        let mut file = File::from_std(file);
        file.seek(SeekFrom::Start(range.start)).await.map_err(&named)?;
        Ok(Object { meta, stream: pieces(file, range.clone()).map_err(named).boxed(), range })
    }

    async fn head(&self, key: &str) -> Result<Meta, StoreError> {
        let found = self.files.head(&objects(key)?).await.map_err(|error| self.failed("read", key, error))?;
        let sha256 = self.noted_digest(key, found.e_tag.as_deref()).await;
        Ok(Meta { key: key.to_owned(), size: found.size, etag: found.e_tag, sha256 })
    }

    async fn list(&self, prefix: &Prefix, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        if let Some(folder) = prefix.as_str().strip_suffix('/') {
            objects(folder)?;
        }
        let (root, below, after) = (self.root.join(OBJECTS), prefix.to_string(), after.map(str::to_owned));
        let walk = move || walk::page(&root, &below, after.as_deref(), limit);
        let walked = spawn_blocking(walk).await.expect("invariant: a walk does not panic");
        let (found, more) = walked.map_err(|error| self.refused("list", prefix.as_str(), &error))?;
        let objects = found.into_iter().map(|(key, size)| Meta { key, size, etag: None, sha256: None }).collect();
        Ok(Page { objects, more })
    }

    async fn folders(&self, prefix: &Prefix) -> Result<Vec<String>, StoreError> {
        let folder = self.root.join(OBJECTS).join(prefix.as_str());
        let read = move || match std::fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries?
                .filter_map(|entry| {
                    let named = |entry: std::fs::DirEntry| Some((entry.file_type().ok()?, entry.file_name()));
                    entry.map(named).transpose()
                })
                .filter(|found| found.as_ref().map_or(true, |(kind, _)| kind.is_dir()))
                .map(|found| Ok(found?.1.to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<_>>>(),
        };
        let read = spawn_blocking(read).await.expect("invariant: reading a folder does not panic");
        read.map_err(|error| self.refused("list", prefix.as_str(), &error))
    }

    /// What a gateway that was killed has left in the folder of staged streams, of whatever prefix.
    async fn abandon(&self, _: &Prefix, before: Timestamp) -> Result<u64, StoreError> {
        let folder = self.root.join(STAGING);
        let before = std::time::SystemTime::from(before);
        let sweep = move || {
            let mut removed = 0;
            let entries = match std::fs::read_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                if entry.metadata()?.modified()? < before {
                    std::fs::remove_file(entry.path())?;
                    removed += 1;
                }
            }
            Ok(removed)
        };
        let swept = spawn_blocking(sweep).await.expect("invariant: removing a file does not panic");
        swept.map_err(|error| self.refused("sweep", STAGING, &error))
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        for key in keys {
            // Object first: a digest without its object says nothing, an object must not lose its digest.
            for path in [objects(key)?, digests(key)?] {
                match self.files.delete(&path).await {
                    Ok(()) | Err(FsError::NotFound { .. }) => {}
                    Err(error) => return Err(self.failed("delete", key, error)),
                }
            }
        }
        Ok(())
    }
}
