//! The files of a run, sent one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::begun::Begun;
use super::connect::Session;
use super::error::CliError;
use super::inputs::{self, InputFile};
use super::meter::Meter;
use super::upload::{UploadError, upload};
use super::words::size;
use asynctask_contract::people::UploadRequest;

/// Checksum of each input's file. Read before anything is submitted: it goes into the announcement of the upload.
pub(crate) async fn checksums(files: &[InputFile]) -> Result<BTreeMap<String, String>, UploadError> {
    let mut all = BTreeMap::new();
    for input in files {
        let meter = Meter::quiet(&format!("{} checksum", input.name), input.size);
        let sha256 = inputs::digest(&input.file, 0, input.size, Some(&meter)).await;
        meter.vanish();
        let sha256 = sha256.map_err(|source| UploadError::Read { file: input.file.clone(), source })?;
        all.insert(input.name.clone(), sha256);
    }
    Ok(all)
}

/// Uploads each file, whose checksums are given by the input's name; the ids by the same.
pub(crate) async fn send(
    session: &Session,
    definition: &str,
    files: &[InputFile],
    checksums: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, CliError> {
    let mut uploads = BTreeMap::new();
    if files.is_empty() {
        return Ok(uploads);
    }
    let gateway = session.gateway().await?;
    for input in files {
        let request = UploadRequest {
            definition: definition.to_owned(),
            input: input.name.clone(),
            size: input.size,
            sha256: checksums.get(&input.name).cloned().unwrap_or_default(),
            media_type: input.media_type.clone(),
        };
        let meter = Arc::new(Meter::new(&input.name, input.size));
        let begun = Begun::of(&session.namespace, &request);
        match upload(&gateway, &session.namespace, &request, &input.file, &meter, begun).await {
            Ok(id) => {
                meter.end(&format!("{} sent, checksum verified", size(input.size)));
                uploads.insert(input.name.clone(), id);
            }
            Err(error) => {
                meter.vanish();
                return Err(error.into());
            }
        }
    }
    Ok(uploads)
}
