//! `cancel`: end runs, after saying what that leaves behind.

use std::time::Duration;

use kube::runtime::wait::await_condition;

use crate::change::{each, over, read, set};
use crate::connect::Session;
use crate::error::CliError;
use crate::exit::Exit;
use crate::follow::{Show, follow};
use crate::format::qualified;
use crate::render::cancel_request;
use crate::terminal::{ask, print, say};
use crate::words::clean;
use asynctask_api::condition::CANCEL_REQUESTED;
use asynctask_api::task::AsyncTaskStatus;
use asynctask_api::{AsyncTask, TaskDefinitionSpec, TaskRevision};
use asynctask_plan::cancel::Cancellation;

/// How long the operator's answer is waited for.
const ANSWER: Duration = Duration::from_secs(5);

/// End runs; it cannot be taken back
#[derive(Debug, clap::Args)]
#[command(after_help = Exit::help())]
pub(crate) struct Args {
    /// Names of the runs
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Do not ask; without a terminal nobody is asked
    #[arg(short, long)]
    yes: bool,
    /// Wait until no pod is left and the run is over
    #[arg(long)]
    wait: bool,
}

/// Ends each.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<Exit, CliError> {
    each(&args.names, async |name: &str| cancel(session, name, args).await).await
}

async fn cancel(session: &Session, name: &str, args: &Args) -> Result<Exit, CliError> {
    let task = read(session, name).await?;
    if let Some(state) = over(&task) {
        say(&format!("AsyncTask {name:?} is over ({state}): there is nothing to cancel"));
        return Ok(Exit::NothingToDo);
    }
    if !task.spec.is_canceled() {
        say(&warning(&task, declared(session, &task).await.as_ref()));
        if !args.yes && !ask(&format!("Cancel AsyncTask {name:?}?")).await {
            say("Nothing was changed");
            return Ok(Exit::NothingToDo);
        }
        set(session, name, "cancel", true, "cancel").await?;
    }
    let latest = answered(session, name).await.unwrap_or(task);
    let told = cancel_request(&latest).unwrap_or_else(|| "requested".to_owned());
    print(&format!("{} cancellation {told}\n", qualified(name)))?;
    if !args.wait {
        return Ok(Exit::Ok);
    }
    let followed = follow(session, name, Show::Nothing, None).await?;
    Ok(match followed.exit {
        // What was asked for.
        Exit::Canceled => Exit::Ok,
        Exit::Ok | Exit::PartiallyComplete => {
            say(&format!("AsyncTask {name:?} ended well before it could be cancelled"));
            Exit::NothingToDo
        }
        other => other,
    })
}

/// What the author declared for the revision the run is pinned to, or for the definition when it is pinned to none;
/// `None`: it cannot be read.
async fn declared(session: &Session, task: &AsyncTask) -> Option<Cancellation> {
    let of = |content: &TaskDefinitionSpec| Cancellation::of(content.cancellation.as_ref(), &content.steps);
    if let Some(pinned) = task.status.as_ref().and_then(|s| s.revision.as_ref()) {
        let revisions: kube::Api<TaskRevision> = kube::Api::namespaced(session.client.clone(), &session.namespace);
        return revisions.get(&pinned.name).await.ok().map(|revision| of(&revision.spec.content));
    }
    session.definitions().get(&task.spec.definition.name).await.ok().map(|definition| of(&definition.spec))
}

/// What a person should know before the end is asked for.
fn warning(task: &AsyncTask, declared: Option<&Cancellation>) -> String {
    let name = clean(task.metadata.name.as_deref().unwrap_or_default());
    let Some(declared) = declared else {
        return format!("What cancelling AsyncTask {name:?} leaves behind cannot be read with your rights");
    };
    let none = AsyncTaskStatus::default();
    let steps = &task.status.as_ref().unwrap_or(&none).steps;
    if let Some(why) = declared.forbidden(steps) {
        return format!("AsyncTask {name:?} cannot be cancelled now: {}", clean(&why));
    }
    match &declared.effect {
        Some(effect) => format!("Declared effect of cancelling AsyncTask {name:?}: {}", clean(effect)),
        None => format!("The author of AsyncTask {name:?} declares no effect of cancelling it"),
    }
}

/// The run once the operator has answered; `None`: it has not within [`ANSWER`].
async fn answered(session: &Session, name: &str) -> Option<AsyncTask> {
    let answer = |task: Option<&AsyncTask>| {
        task.is_none_or(|task| {
            let mut conditions = task.status.iter().flat_map(|s| &s.conditions);
            over(task).is_some() || conditions.any(|c| c.type_ == CANCEL_REQUESTED)
        })
    };
    let answer = tokio::time::timeout(ANSWER, await_condition(session.tasks(), name, answer)).await;
    match answer {
        Ok(Ok(task)) => task,
        // Nothing is lost: the request is written down.
        Ok(Err(_)) | Err(_) => read(session, name).await.ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::warning;
    use asynctask_api::AsyncTask;
    use asynctask_plan::cancel::{Cancellation, Until};

    fn task(guarded: bool) -> AsyncTask {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": "import-7"},
            "spec": {"definition": {"name": "course-import"}},
            "status": {"steps": [{"name": "publish", "state": "Running", "guarded": guarded}]},
        }))
        .expect("an AsyncTask")
    }

    #[test]
    fn the_declared_effect_is_told_before_anything_is_done() {
        let effect = Some("The course is unchanged.".to_owned());
        let allowed = Until::Stage { step: "publish".into(), stage: "Updating".into() };
        let declared = Cancellation { allowed, effect };
        assert!(warning(&task(false), Some(&declared)).ends_with("\"import-7\": The course is unchanged."));
        let refused = warning(&task(true), Some(&declared));
        assert!(refused.contains("cannot be cancelled now: step publish has entered stage Updating"), "{refused}");
        assert!(refused.contains("the request is kept") && refused.contains("The course is unchanged."), "{refused}");
        assert!(warning(&task(false), Some(&Cancellation::default())).contains("declares no effect"));
        assert!(warning(&task(false), None).contains("with your rights"));
    }
}
