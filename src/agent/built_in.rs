//! Work of the operator's own that needs no program: an input is cut into items, segments become one file.

use std::sync::Arc;

use super::assemble::{Folders, assemble};
use super::client::CallError;
use super::emit::{Emission, EmitError};
use super::fetch::{FetchError, Peers};
use super::layout::Layout;
use super::report::Failure;
use super::upload::Uploader;
use asynctask_contract::wire::{BuiltIn, Emitted, Work};

/// The work was not done.
pub(crate) enum Undone {
    /// This attempt is no longer wanted.
    CalledOff(String),
    Failed(Failure),
}

impl From<FetchError> for Undone {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::CalledOff(message) => Self::CalledOff(message),
            other => Self::Failed(other.into()),
        }
    }
}

impl From<EmitError> for Undone {
    fn from(error: EmitError) -> Self {
        Self::Failed(error.into())
    }
}

/// Does it to the end; what it wrote is collected as if a program had written it.
pub(crate) async fn work_of(
    built_in: &BuiltIn,
    peers: Peers<'_>,
    layout: &Layout,
    work: &Work,
    uploader: Arc<Uploader>,
) -> Result<Option<Emitted>, Undone> {
    let (outputs, scratch) = (layout.outputs(), layout.scratch());
    match built_in {
        BuiltIn::Split { input } => {
            let limits = work.emits.ok_or_else(|| CallError::Answer {
                act: "read the assignment",
                said: format!("it does not say into what the input {input:?} is to be cut"),
            });
            let limits = limits.map_err(|error| Undone::Failed(error.into()))?;
            let file = layout.inputs().join(input);
            let emission = Emission::of_file(&file, format!("input {input}"), scratch, limits, uploader)?;
            Ok(Some(emission.finish().await?))
        }
        BuiltIn::Assemble { outputs: wanted } => {
            let folders = Folders { outputs: &outputs, scratch: &scratch };
            assemble(peers, folders, work, wanted).await?;
            Ok(None)
        }
    }
}
