//! `upload`: a file for an input, sent before there is a run.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::begun::Begun;
use crate::connect::Session;
use crate::error::CliError;
use crate::exit::Exit;
use crate::inputs::{self, InputArg, InputFile};
use crate::meter::Meter;
use crate::terminal::print;
use crate::upload::{UploadError, upload};
use crate::words::size;
use asynctask_contract::people::UploadRequest;

/// Upload a file for an input of a definition, and print the id under which a run takes it (`spec.inputs.NAME.upload`)
#[derive(Debug, clap::Args)]
#[command(after_help = format!("Example:
  kubectl asynctask upload course-outline archive=course.tar.gz

{}", Exit::help()))]
pub(crate) struct Args {
    /// Name of the TaskDefinition
    definition: String,
    /// Input and file; its media type is guessed from its name unless ;type=MEDIA/TYPE follows
    #[arg(value_name = "NAME=FILE", value_parser = inputs::split)]
    input: InputArg,
}

/// Sends it; only the id goes to stdout.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<Exit, CliError> {
    let definition = super::run::definition(session, &args.definition).await?;
    let files = [inputs::file(&definition.spec.inputs, &args.input)?];
    let checksums = checksums(&files).await?;
    for id in all(session, &args.definition, &files, &checksums).await?.values() {
        print(&format!("{id}\n"))?;
    }
    Ok(Exit::Ok)
}

/// Checksum of each input's file. Read before anything is submitted: it goes into the announcement of the upload.
pub(super) async fn checksums(files: &[InputFile]) -> Result<BTreeMap<String, String>, UploadError> {
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
pub(super) async fn all(
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
