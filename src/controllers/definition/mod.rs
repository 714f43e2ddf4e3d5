//! TaskDefinitions: validated, proven by dry-runs, and frozen as a TaskRevision that runs are pinned to. Older revisions
//! drain; a definition that is deleted stays until the runs on its revisions have ended.

mod drain;
mod dry_run;
mod freeze;
mod report;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use kube::api::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};
use tokio::sync::watch;

use self::drain::{DrainError, Drains, MOST_COUNTED};
use self::dry_run::DryRunError;
use self::freeze::FreezeError;
use self::report::{Finding, ReportError, Reporter};
use super::context::{Context, reason};
use super::hold::{self, HoldError};
use super::pace::{Next, Pace, Reason};
use super::watches;
use asynctask_api::TaskDefinition;
use asynctask_api::names::FINALIZER_RUNS;
use asynctask_plan::agent::Agent;
use asynctask_plan::definition::{Part, ValidatedDefinition, validate};
use asynctask_plan::indexed::ShardRun;
use asynctask_plan::job::{self, Run};
use asynctask_plan::revision::unpinned_images;

/// Longest delay between two tries.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// A reconcile that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks while a revision drains: the end of a run wakes nobody here.
const DRAIN_AGAIN: Duration = Duration::from_secs(15);
/// Between two looks at a definition that waits for its end.
const DELETE_AGAIN: Duration = Duration::from_secs(5);

/// Why nothing final could be said about a definition.
#[derive(Debug, thiserror::Error)]
enum DefinitionControllerError {
    #[error(transparent)]
    DryRun(DryRunError),
    #[error(transparent)]
    Freeze(#[from] FreezeError),
    #[error(transparent)]
    Drain(#[from] DrainError),
    #[error(transparent)]
    Hold(#[from] HoldError),
    #[error(transparent)]
    Report(#[from] ReportError),
}

impl Reason for DefinitionControllerError {
    fn reason(&self) -> &'static str {
        match self {
            Self::DryRun(_) => "DryRun",
            Self::Freeze(error) => error.reason(),
            Self::Drain(error) => error.reason(),
            Self::Hold(_) => "WriteFinalizers",
            Self::Report(_) => "WriteStatus",
        }
    }
}

struct DefinitionController {
    context: Arc<Context>,
    pace: Pace,
    reporter: Reporter,
    /// By UID what the API server has taken: it is not asked again each time a drain is looked after.
    proven: Mutex<HashMap<String, Proof>>,
}

/// A generation of a definition, with the agent that is added to its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Proof {
    generation: Option<i64>,
    agent: Agent,
}

/// What a definition that is being deleted waits for.
struct Ending {
    /// In a sentence.
    why: String,
    /// Numbers of the revisions that runs are still pinned to.
    draining: Option<String>,
}

/// Runs until the process ends.
pub(super) async fn run(context: Arc<Context>) {
    let pace = Pace::new("definition", DEADLINE, MAX_DELAY, context.reconciles.clone());
    let reporter = Reporter { client: context.client.clone(), events: context.events.clone() };
    let proven = Mutex::default();
    let state = Arc::new(DefinitionController { context: Arc::clone(&context), pace, reporter, proven });
    // What the agent adds to a pod may be what the API server refuses, so all are proven again when it changes.
    let agent_changed = stream::select(changes(context.agent.injection.clone()), changes(context.gateway.clone()));
    watches::controller(Api::<DeserializeGuard<TaskDefinition>>::all(context.watches.clone()))
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
            let work = state.look_at_unreadable(&guarded, reason(&invalid.metadata, &invalid.error));
            state.pace.run(&uid, generation, work).await
        }
    };
    Ok(action)
}

impl DefinitionController {
    async fn look(&self, definition: &TaskDefinition) -> Result<Next, DefinitionControllerError> {
        if definition.meta().deletion_timestamp.is_some() {
            let Some(Ending { why, draining }) = self.end(definition.meta()).await? else { return Ok(Next::Rest) };
            self.reporter.report(definition, Finding::refused("Deleting", why), draining).await?;
            return Ok(Next::LookAgain(DELETE_AGAIN));
        }
        // Until then no Job can be built; the change wakes all definitions.
        let Some(agent) = self.context.agent() else { return Ok(Next::Rest) };
        let (finding, kept, next) = self.examine(definition, &agent).await?;
        let last = definition.status.as_ref().and_then(|status| status.revision.as_ref());
        let draining = match finding.revision.as_ref().or(last) {
            Some(current) => {
                Drains::of(&self.context.client, definition.meta()).tend(Some(&current.name), kept).await?.draining
            }
            None => None,
        };
        let next = if draining.is_some() && next == Next::Rest { Next::LookAgain(DRAIN_AGAIN) } else { next };
        self.reporter.report(definition, finding, draining).await?;
        Ok(next)
    }

    /// What cannot be read can still be deleted.
    async fn look_at_unreadable(
        &self,
        guarded: &DeserializeGuard<TaskDefinition>,
        error: &str,
    ) -> Result<Next, DefinitionControllerError> {
        let of = guarded.meta();
        if of.deletion_timestamp.is_none() {
            let why = self.context.set_aside(&guarded.object_ref(&()), error).await;
            return Ok(self.reporter.unreadable(of, why).await?);
        }
        Ok(self.end(of).await?.map_or(Next::Rest, |_| Next::LookAgain(DELETE_AGAIN)))
    }

    /// Lets a deleted definition go, or says what it waits for. Runs that are pinned to no revision are not among it:
    /// they find out by themselves that their definition is gone.
    async fn end(&self, definition: &ObjectMeta) -> Result<Option<Ending>, DefinitionControllerError> {
        self.proven().remove(definition.uid.as_deref().unwrap_or_default());
        if !hold::is_held(definition, FINALIZER_RUNS) {
            return Ok(None);
        }
        let drains = Drains::of(&self.context.client, definition);
        let runs = drains.runs().await?;
        // The garbage collector takes those of a definition that is gone; who orphans them finds them retired.
        let draining = drains.tend(None, usize::MAX).await?.draining;
        if runs == 0 {
            hold::release(&self.definitions(definition), definition, FINALIZER_RUNS).await?;
            return Ok(None);
        }
        let most = usize::try_from(MOST_COUNTED).unwrap_or(usize::MAX);
        let at_least = if runs < most { "" } else { "at least " };
        let why = format!(
            "it is being deleted and waits for the end of runs that are pinned to its revisions, {at_least}{runs}; no \
             new run is admitted. Wait for them, or cancel them"
        );
        Ok(Some(Ending { why, draining }))
    }

    /// Those of its namespace.
    fn definitions(&self, definition: &ObjectMeta) -> Api<TaskDefinition> {
        Api::namespaced(self.context.client.clone(), definition.namespace.as_deref().unwrap_or_default())
    }

    fn proven(&self) -> MutexGuard<'_, HashMap<String, Proof>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be said, how many retired revisions are kept, and when to look again.
    async fn examine(
        &self,
        definition: &TaskDefinition,
        agent: &Agent,
    ) -> Result<(Finding, usize, Next), DefinitionControllerError> {
        // Of a definition that is refused nothing is thrown away: its author may want to go back.
        let refused = |reason, message, next| Ok((Finding::refused(reason, message), usize::MAX, next));
        let valid = match validate(&definition.spec) {
            Ok(valid) => valid,
            Err(invalid) => return refused(invalid.reason(), invalid.to_string(), Next::Rest),
        };
        let by_tag = unpinned_images(&definition.spec);
        if self.context.require_digest && !by_tag.is_empty() {
            return refused(Part::Template.reason(), tags_refused(&by_tag), Next::Rest);
        }
        if let Some(refusal) = self.prove(definition, &valid, agent).await? {
            // What is missing in the namespace (an account, a label) may come a moment later, and nothing tells us.
            return refused(Part::Template.reason(), refusal, Next::TryAgain);
        }
        // Before the first run can be pinned to it.
        hold::hold(&self.definitions(definition.meta()), definition.meta(), FINALIZER_RUNS).await?;
        let revision = freeze::freeze(&self.context.client, definition).await?;
        Ok((Finding::frozen(revision), valid.revisions_kept, Next::Rest))
    }

    /// What the API server has against the steps; asked once for each generation and agent.
    async fn prove(
        &self,
        definition: &TaskDefinition,
        valid: &ValidatedDefinition,
        agent: &Agent,
    ) -> Result<Option<String>, DefinitionControllerError> {
        let uid = definition.uid().unwrap_or_default();
        let proof = Proof { generation: definition.meta().generation, agent: agent.clone() };
        if self.proven().get(&uid) == Some(&proof) {
            return Ok(None);
        }
        let refusal = self.refusal(definition, valid, agent).await?;
        if refusal.is_none() {
            self.proven().insert(uid, proof);
        }
        Ok(refusal)
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
            let whole = step.fan_out.as_ref().map(|_| ShardRun::whole(1));
            let mut job = job::build(step, &run, 1, whole.as_ref(), valid.pods_kept, agent);
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

fn tags_refused(images: &[String]) -> String {
    format!(
        "steps: this cluster takes images by digest only, and these are named by a tag: {}. Name them image@sha256:…",
        images.join(", ")
    )
}
