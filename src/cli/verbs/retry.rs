//! `retry`: a new run that takes over what succeeded in one that is over, and runs only the rest.

use kube::api::PostParams;

use crate::change::{MANAGER, over, read};
use crate::cluster::ClusterError;
use crate::connect::Session;
use crate::error::CliError;
use crate::exit::Exit;
use crate::following::{Following, finish};
use crate::format::qualified;
use crate::submit::{retry_name, retry_of};
use crate::takeover::{Takeover, refusal};
use crate::terminal::say;
use crate::verbs::run::RunError;
use crate::words::clean;
use asynctask_api::AsyncTask;

/// Submit a new run that takes over what succeeded in one that is over, and runs only the rest
#[derive(Debug, clap::Args)]
#[command(after_help = format!("Steps that are complete keep their result; of a step that runs in shards only those without a result
run again. The new run has the revision, parameters, inputs and team of the first one.

{}", Exit::help()))]
pub(crate) struct Args {
    /// Name of the run to go on from
    source: String,
    /// Name of the new run; default: that of the first one with -retry-N behind it
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    following: Following,
}

/// Submits, says what is taken over, and follows when asked to.
pub(crate) async fn run(session: &Session, args: Args) -> Result<Exit, CliError> {
    let source = read(session, &args.source).await?;
    if let Some(sentence) = refusal(&source) {
        say(&sentence);
        return Ok(Exit::NothingToDo);
    }
    let task = submit(session, &source, &args).await?;
    if let Some(known) = &source.status {
        say(&Takeover::of(known).sentence(&args.source));
    }
    if let (Some(first), Some(now)) = (&source.spec.owner, &task.spec.owner)
        && first != now
    {
        let (first, now) = (clean(first), clean(now));
        say(&format!(
            "The new run belongs to {now}, the first one to {first}: it will be refused, only {first} can retry it"
        ));
    }
    finish(session, &args.following, task).await
}

async fn submit(session: &Session, source: &AsyncTask, args: &Args) -> Result<AsyncTask, CliError> {
    let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let mut number = 1;
    loop {
        let chosen = args.name.clone().unwrap_or_else(|| retry_name(&args.source, number));
        let act = format!("create AsyncTask {chosen:?}");
        let error = match session.tasks().create(&parameters, &retry_of(source, &chosen)).await {
            Ok(task) => return Ok(task),
            Err(error) => ClusterError::new(act, error),
        };
        if error.status().is_none_or(|s| s.code != 409) {
            return Err(error.into());
        }
        let act = format!("look for AsyncTask {chosen:?}");
        match session.tasks().get_opt(&chosen).await.map_err(ClusterError::on(act))? {
            // Submitting twice must not run it twice: a lost answer looks like a name that is taken.
            Some(existing) if goes_on(&existing, source, args.name.is_some()) => {
                say(&format!("{} retries it already: taken up, nothing new is started", qualified(&chosen)));
                return Ok(existing);
            }
            Some(_) if args.name.is_some() => {
                return Err(RunError::Exists { name: chosen, field: "the run it goes on from" }.into());
            }
            Some(_) => number += 1,
            None => {}
        }
    }
}

/// Whether a run is the retry that is asked for: one that is over only if it was named.
fn goes_on(existing: &AsyncTask, source: &AsyncTask, named: bool) -> bool {
    let of = existing.spec.retry_of.as_ref().map(|source| source.name.as_str());
    of.is_some() && of == source.metadata.name.as_deref() && (named || over(existing).is_none())
}

#[cfg(test)]
mod tests {
    use super::goes_on;
    use crate::submit::retry_of;
    use asynctask_api::AsyncTask;

    #[test]
    fn a_retry_that_goes_on_is_taken_up_and_one_that_is_over_is_followed_by_another() {
        let source: AsyncTask = serde_yaml_ng::from_str(include_str!("../golden/shards_failed.yaml")).expect("a task");
        let mut existing = retry_of(&source, "mail-1-retry-1");
        assert!(goes_on(&existing, &source, false));
        existing.status.clone_from(&source.status);
        assert!(!goes_on(&existing, &source, false), "it is over");
        assert!(goes_on(&existing, &source, true), "the name is the idempotency key");
        existing.spec.retry_of = None;
        assert!(!goes_on(&existing, &source, true));
    }
}
