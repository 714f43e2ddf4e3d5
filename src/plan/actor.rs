//! Who asked for a change of a run, as admission wrote it down. On a server that does not, it is somebody.

use asynctask_api::AsyncTask;
use asynctask_api::condition::cut;

/// Longest name that is shown.
const SHOWN: usize = 128;

/// The user behind an annotation.
#[must_use]
pub fn by(task: &AsyncTask, annotation: &str) -> String {
    let said = task.metadata.annotations.as_ref().and_then(|all| all.get(annotation));
    said.filter(|user| !user.is_empty()).map_or_else(|| "somebody".to_owned(), |user| cut(user, SHOWN))
}
