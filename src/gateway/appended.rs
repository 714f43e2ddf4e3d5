//! The base of an output that a fan-out appends to: the file that comes before all segments.

use super::Gateway;
use super::problem::Refusal;
use super::sealed::Sealed;
use asynctask_api::AsyncTask;
use asynctask_api::definition::OutputSpec;
use asynctask_plan::definition::ValidatedDefinition;
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::records::ManifestFile;

/// The file; `None`: there is to be none, its step did not occur, or wrote none.
pub(crate) async fn base_file(
    gateway: &Gateway,
    open: &OpenStore,
    task: &AsyncTask,
    definition: &ValidatedDefinition,
    appended: &OutputSpec,
) -> Result<Option<ManifestFile>, Refusal> {
    let Some(base) = appended.append.as_ref().and_then(|append| append.base.as_ref()) else { return Ok(None) };
    let output = definition.outputs.iter().find(|output| output.name == base.output && output.step == base.step);
    let Some(giver) = output.and_then(|output| definition.giver(output)) else { return Ok(None) };
    let Some(sealed) = Sealed::of_step(gateway, open, task, &giver.name).await? else { return Ok(None) };
    let mut files = sealed.files(&base.output, 0, 2).await?;
    if files.len() > 1 {
        let message = format!(
            "output {:?} of step {} is the base of an appended file and has {} files: write one",
            base.output,
            base.step,
            sealed.volume(&base.output).files
        );
        return Err(Refusal::invalid("BaseNotOneFile", message));
    }
    Ok(files.pop())
}
