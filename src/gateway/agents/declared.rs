//! What the definition of a run says of the step an attempt runs, be it the author's or the operator's own.

use std::sync::Arc;

use super::Attempt;
use crate::Gateway;
use crate::problem::Refusal;
use asynctask_api::definition::OutputSpec;
use asynctask_plan::definition::{ValidatedDefinition, ValidatedStep};
use asynctask_plan::fanout::Source;

/// A definition and a step of it.
pub(super) struct Declared {
    definition: Arc<ValidatedDefinition>,
    place: usize,
}

impl Declared {
    pub(super) async fn of(gateway: &Gateway, attempt: &Attempt) -> Result<Self, Refusal> {
        let definition = gateway.catalog.definition(&attempt.namespace, attempt.revision()?).await?;
        let place = definition.steps.iter().position(|step| step.name == attempt.step);
        let unknown = || Refusal::Forbidden("this pod runs no step of its AsyncTask's definition".into());
        let place = place.ok_or_else(unknown)?;
        // One pod that took itself for all shards, or a shard for the whole, would seal the wrong thing.
        if definition.steps[place].fan_out.is_some() != attempt.shard.is_some() {
            return Err(Refusal::Forbidden("the Job of this pod does not run its step as the definition says".into()));
        }
        Ok(Self { definition, place })
    }

    pub(super) fn definition(&self) -> &ValidatedDefinition {
        &self.definition
    }

    pub(super) fn step(&self) -> &ValidatedStep {
        &self.definition.steps[self.place]
    }

    /// The step whose items the step works on.
    pub(super) fn planner(&self) -> Option<&ValidatedStep> {
        match self.step().fan_out.as_ref()?.source {
            Source::Items { step } => Some(&self.definition.steps[step]),
            Source::Fixed(_) | Source::Parameter(_) => None,
        }
    }

    /// The outputs whose files the step writes.
    pub(super) fn outputs(&self) -> impl Iterator<Item = &OutputSpec> {
        self.definition.outputs_of(self.step())
    }

    pub(super) fn output(&self, name: &str) -> Option<&OutputSpec> {
        self.outputs().find(|output| output.name == name)
    }
}
