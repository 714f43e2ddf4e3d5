//! Changes of runs that exist: of `spec`, through the Kubernetes API, as the person.

use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::cluster::ClusterError;
use super::connect::Session;
use super::error::CliError;
use super::exit::Exit;
use super::format::qualified;
use super::terminal::{print, say};
use asynctask_api::{AsyncTask, TaskState};

/// Field manager of what this command creates and changes.
pub(crate) const MANAGER: &str = "kubectl-asynctask";

/// Reads a run.
pub(crate) async fn read(session: &Session, name: &str) -> Result<AsyncTask, ClusterError> {
    session.tasks().get(name).await.map_err(ClusterError::on(format!("read AsyncTask {name:?}")))
}

/// Sets one field of `spec`. `act` completes "cannot … AsyncTask".
pub(crate) async fn set(
    session: &Session,
    name: &str,
    field: &str,
    value: bool,
    act: &str,
) -> Result<AsyncTask, ClusterError> {
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({ "spec": { field: value } }));
    let changed = session.tasks().patch(name, &parameters, &patch).await;
    changed.map_err(ClusterError::on(format!("{act} AsyncTask {name:?}")))
}

/// The same for each name. One that fails does not keep the others from it; the first code that is not 0 is the
/// command's.
pub(crate) async fn each(
    names: &[String],
    act: impl AsyncFn(&str) -> Result<Exit, CliError>,
) -> Result<Exit, CliError> {
    let mut first = Exit::Ok;
    for name in names {
        let exit = match act(name).await {
            Ok(exit) => exit,
            Err(error) if names.len() == 1 || error.is_silent() => return Err(error),
            Err(error) => {
                say(&format!("Error: {error}"));
                error.exit()
            }
        };
        if first == Exit::Ok {
            first = exit;
        }
    }
    Ok(first)
}

/// The state of a run that is over: nothing can be changed of it.
pub(crate) fn over(task: &AsyncTask) -> Option<TaskState> {
    task.status.as_ref().and_then(|s| s.state).filter(|state| state.is_terminal())
}

/// Holds a run, or lets it go on.
pub(crate) async fn hold(session: &Session, name: &str, held: bool) -> Result<Exit, CliError> {
    let act = if held { "suspend" } else { "resume" };
    let task = read(session, name).await?;
    if let Some(state) = over(&task) {
        say(&format!("AsyncTask {name:?} is over ({state}): there is nothing to {act}"));
        return Ok(Exit::NothingToDo);
    }
    if task.spec.is_suspended() == held {
        let is = if held { "is suspended already" } else { "is not suspended" };
        say(&format!("AsyncTask {name:?} {is}: nothing was changed"));
        return Ok(Exit::NothingToDo);
    }
    set(session, name, "suspend", held, act).await?;
    print(&format!("{} {}\n", qualified(name), if held { "suspended" } else { "resumed" }))?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::each;
    use crate::error::CliError;
    use crate::exit::Exit;
    use crate::parameters::ParameterError;

    #[tokio::test]
    async fn a_name_that_fails_keeps_no_other_from_its_change() {
        let seen = std::sync::Mutex::new(Vec::new());
        let act = async |name: &str| {
            seen.lock().expect("no panic").push(name.to_owned());
            match name {
                "bad" => Err(CliError::from(ParameterError::Split("x".into()))),
                "over" => Ok(Exit::NothingToDo),
                _ => Ok(Exit::Ok),
            }
        };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(each(&names(&["a", "over", "bad", "b"]), act).await.expect("told"), Exit::NothingToDo);
        assert_eq!(*seen.lock().expect("no panic"), ["a", "over", "bad", "b"]);
        assert_eq!(each(&names(&["bad", "a"]), act).await.expect("told"), Exit::Usage);
        assert!(each(&names(&["bad"]), act).await.is_err(), "alone it is the command's error");
    }
}
