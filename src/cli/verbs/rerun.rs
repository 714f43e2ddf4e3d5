//! `rerun`: the same once more, as a new run.

use kube::api::PostParams;
use serde_json::json;

use crate::change::{MANAGER, read};
use crate::cluster::ClusterError;
use crate::connect::Session;
use crate::error::CliError;
use crate::exit::Exit;
use crate::following::{Following, finish};
use crate::submit::{generated_name, once_more};
use crate::terminal::say;
use crate::verbs::run::RunError;
use crate::words::clean;
use asynctask_api::AsyncTask;
use asynctask_plan::parameters::violations;

/// Submit a new run with the definition, parameters, inputs, team and priority of one that exists
#[derive(Debug, clap::Args)]
#[command(after_help = format!("A finished run is never reopened: this makes another one, which belongs to you.

{}", Exit::help()))]
pub(crate) struct Args {
    /// Name of the run to take it all from
    source: String,
    /// Name of the new run
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Run the very revision the first run is pinned to, not the current one
    #[arg(long)]
    same_revision: bool,
    #[command(flatten)]
    following: Following,
}

/// The parameters fit the definition as it is now: what was refused once is not submitted to be refused again.
async fn require_fitting(session: &Session, source: &AsyncTask, same_revision: bool) -> Result<(), CliError> {
    let name = &source.spec.definition.name;
    let act = format!("read TaskDefinition {name:?}");
    let found = session.definitions().get_opt(name).await.map_err(ClusterError::on(act))?;
    let Some(definition) = found.filter(|_| !same_revision) else { return Ok(()) };
    let given = source.spec.parameters.clone().unwrap_or_else(|| json!({}));
    let problems = violations(definition.spec.parameters.as_ref(), &given);
    if problems.is_empty() { Ok(()) } else { Err(RunError::Parameters(problems, name.clone()).into()) }
}

/// Submits, and follows when asked to.
pub(crate) async fn run(session: &Session, args: Args) -> Result<Exit, CliError> {
    let source = read(session, &args.source).await?;
    require_fitting(session, &source, args.same_revision).await?;
    let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let task = loop {
        let random = uuid::Uuid::new_v4().as_u128();
        let chosen = args.name.clone().unwrap_or_else(|| generated_name(&source.spec.definition.name, random));
        let wanted = once_more(&source, &chosen, args.same_revision);
        let error = match session.tasks().create(&parameters, &wanted).await {
            Ok(task) => break task,
            Err(error) => ClusterError::new(format!("create AsyncTask {chosen:?}"), error),
        };
        // A name that was made up may be taken by chance; one that was asked for is the person's to change.
        if args.name.is_some() || error.status().is_none_or(|s| s.code != 409) {
            return Err(error.into());
        }
    };
    if let (Some(first), Some(now)) = (&source.spec.owner, &task.spec.owner)
        && first != now
    {
        let inputs = if source.spec.inputs.is_empty() { "" } else { "; uploads of another owner are refused" };
        say(&format!("The new run belongs to {}, the first one to {}{inputs}", clean(now), clean(first)));
    }
    finish(session, &args.following, task).await
}
