//! `upload`: a file for an input, sent before there is a run.

use crate::connect::Session;
use crate::error::CliError;
use crate::exit::Exit;
use crate::inputs::{self, InputArg};
use crate::terminal::print;
use crate::uploads;

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
    let checksums = uploads::checksums(&files).await?;
    for id in uploads::send(session, &args.definition, &files, &checksums).await?.values() {
        print(&format!("{id}\n"))?;
    }
    Ok(Exit::Ok)
}
