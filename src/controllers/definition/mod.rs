//! TaskDefinitions: validated, proven by dry-runs, and frozen as a TaskRevision that runs are pinned to.

mod dry_run;
mod freeze;
mod report;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};
use tokio::sync::watch;

use self::dry_run::DryRunError;
use self::freeze::FreezeError;
use self::report::{Finding, ReportError, Reporter};
use super::context::Context;
use super::pace::{Next, Pace, Reason};
use super::watches;
use crate::api::TaskDefinition;
use crate::plan::agent::Agent;
use crate::plan::definition::{Part, ValidatedDefinition, validate};
use crate::plan::job::{self, Run};

/// Longest delay between two tries.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// A reconcile that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why nothing final could be said about a definition.
#[derive(Debug, thiserror::Error)]
enum DefinitionControllerError {
    #[error(transparent)]
    DryRun(DryRunError),
    #[error(transparent)]
    Freeze(#[from] FreezeError),
    #[error(transparent)]
    Report(#[from] ReportError),
}

impl Reason for DefinitionControllerError {
    fn reason(&self) -> &'static str {
        match self {
            Self::DryRun(_) => "DryRun",
            Self::Freeze(error) => error.reason(),
            Self::Report(_) => "WriteStatus",
        }
    }
}

struct DefinitionController {
    context: Arc<Context>,
    pace: Pace,
    reporter: Reporter,
}

/// Runs until the process ends.
pub(super) async fn run(context: Arc<Context>) {
    let pace = Pace::new("definition", DEADLINE, MAX_DELAY, context.reconciles.clone());
    let reporter = Reporter { client: context.client.clone(), events: context.events.clone() };
    let state = Arc::new(DefinitionController { context: Arc::clone(&context), pace, reporter });
    // What the agent adds to a pod may be what the API server refuses, so all are proven again when it changes.
    let agent_changed = stream::select(changes(context.agent.injection.clone()), changes(context.gateway.clone()));
    watches::controller(Api::<DeserializeGuard<TaskDefinition>>::all(context.client.clone()))
        .reconcile_all_on(agent_changed)
        .graceful_shutdown_on(context.stopping.clone().cancelled_owned())
        .run(reconcile, |_, never: &Infallible, _| match *never {}, state)
        .for_each(|_| std::future::ready(()))
        .await;
}

/// One item for each change after the call; silent once the sender is gone.
fn changes<T: Clone + Send + Sync + 'static>(receiver: watch::Receiver<T>) -> impl Stream<Item = ()> + Send + 'static {
    stream::unfold(receiver, |mut receiver| async move { receiver.changed().await.ok().map(|()| ((), receiver)) })
        .chain(stream::pending())
        .boxed()
}

async fn reconcile(
    guarded: Arc<DeserializeGuard<TaskDefinition>>,
    state: Arc<DefinitionController>,
) -> Result<Action, Infallible> {
    let (uid, generation) = (guarded.uid().unwrap_or_default(), guarded.meta().generation);
    let action = match &guarded.0 {
        Ok(definition) => state.pace.run(&uid, generation, state.look(definition)).await,
        Err(invalid) => {
            let report = state.reporter.unreadable(&invalid.metadata, &invalid.error);
            state.pace.run(&uid, generation, report).await
        }
    };
    Ok(action)
}

impl DefinitionController {
    async fn look(&self, definition: &TaskDefinition) -> Result<Next, DefinitionControllerError> {
        if definition.meta().deletion_timestamp.is_some() {
            return Ok(Next::Rest);
        }
        // Until then no Job can be built; the change wakes all definitions.
        let Some(agent) = self.context.agent() else { return Ok(Next::Rest) };
        let (finding, next) = self.examine(definition, &agent).await?;
        self.reporter.report(definition, finding).await?;
        Ok(next)
    }

    async fn examine(
        &self,
        definition: &TaskDefinition,
        agent: &Agent,
    ) -> Result<(Finding, Next), DefinitionControllerError> {
        let valid = match validate(&definition.spec) {
            Ok(valid) => valid,
            Err(invalid) => return Ok((Finding::refused(invalid.reason(), invalid.to_string()), Next::Rest)),
        };
        if let Some(refusal) = self.refusal(definition, &valid, agent).await? {
            // What is missing in the namespace (an account, a label) may come a moment later, and nothing tells us.
            return Ok((Finding::refused(Part::Template.reason(), refusal), Next::TryAgain));
        }
        Ok((Finding::frozen(freeze::freeze(&self.context.client, definition).await?), Next::Rest))
    }

    /// What the API server has against the steps, if anything.
    async fn refusal(
        &self,
        definition: &TaskDefinition,
        valid: &ValidatedDefinition,
        agent: &Agent,
    ) -> Result<Option<String>, DefinitionControllerError> {
        let namespace = definition.namespace().unwrap_or_default();
        let run = Run::stand_in(&namespace, &definition.name_any());
        for step in &valid.steps {
            let mut job = job::build(step, &run, 1, valid.pods_kept, agent);
            // No AsyncTask stands behind it, and the API server checks the right to block an owner's deletion.
            if let Some(metadata) = job["metadata"].as_object_mut() {
                metadata.remove("ownerReferences");
            }
            match dry_run::prove(&self.context.client, &namespace, job).await {
                Ok(()) => {}
                Err(refused @ DryRunError::Refused { .. }) => {
                    return Ok(Some(format!("steps[{}].template: {refused}", step.name)));
                }
                Err(unasked @ DryRunError::Ask { .. }) => return Err(DefinitionControllerError::DryRun(unasked)),
            }
        }
        Ok(None)
    }
}
