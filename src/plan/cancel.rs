//! Whether a run can be cancelled, or held, now, and for whom it is.

use super::actor;
use super::definition::ValidatedStep;
use super::queue::replaced;
use super::snapshot::{Trouble, replaced_by};
use asynctask_api::AsyncTask;
use asynctask_api::definition::Allowed;
use asynctask_api::names::ANNOTATION_CANCELED_BY;
use asynctask_api::state::StepState;
use asynctask_api::task::StepStatus;

/// When a run can be cancelled, as its author declared it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancellation {
    /// When.
    pub allowed: Until,
    /// What a cancelled run leaves behind, for people.
    pub effect: Option<String>,
}

/// When a run can be cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Until {
    /// At any time.
    Always,
    /// Not while a step runs that has entered this stage.
    Stage {
        /// The step that has the stage.
        step: String,
        /// The stage.
        stage: String,
    },
    /// Not while a step runs.
    Never,
}

impl Default for Cancellation {
    fn default() -> Self {
        Self { allowed: Until::Always, effect: None }
    }
}

impl Cancellation {
    /// From the definition; one that was not validated counts as what its words say.
    #[must_use]
    pub fn of(
        spec: Option<&asynctask_api::definition::CancellationSpec>,
        steps: &[asynctask_api::definition::StepSpec],
    ) -> Self {
        let Some(spec) = spec else { return Self::default() };
        let guarded = spec.stage.as_ref().and_then(|stage| {
            let step = steps.iter().find(|step| step.stages.contains(stage))?;
            Some(Until::Stage { step: step.name.clone(), stage: stage.clone() })
        });
        let allowed = match spec.allowed {
            Allowed::Always => Until::Always,
            Allowed::Never => Until::Never,
            Allowed::UntilStage => guarded.unwrap_or(Until::Never),
        };
        Self { allowed, effect: spec.effect.clone() }
    }

    /// The stage of this step that may be entered only while nobody asked for the end of the run.
    #[must_use]
    pub fn guards<'a>(&'a self, step: &str) -> Option<&'a str> {
        match &self.allowed {
            Until::Stage { step: guarded, stage } if guarded == step => Some(stage),
            Until::Stage { .. } | Until::Always | Until::Never => None,
        }
    }

    /// Of the stages of this step those behind the barrier: the guarded one and all that follow it.
    #[must_use]
    pub fn behind<'a>(&self, step: &str, stages: &'a [String]) -> &'a [String] {
        let first = self.guards(step).and_then(|guarded| stages.iter().position(|stage| stage == guarded));
        first.map_or(&[], |first| &stages[first..])
    }

    /// The declared effect as the end of a sentence.
    #[must_use]
    pub fn effect(&self) -> String {
        self.effect.as_ref().map(|effect| format!(". Declared effect of cancelling: {effect}")).unwrap_or_default()
    }

    /// Why the run cannot be interrupted now: the sentence names the step that has to end first.
    #[must_use]
    pub fn forbidden(&self, steps: &[StepStatus]) -> Option<String> {
        let at_work = |step: &&StepStatus| matches!(step.state, Some(StepState::Running | StepState::Retrying));
        let why = match &self.allowed {
            Until::Always => return None,
            Until::Stage { stage, .. } => {
                let step = steps.iter().filter(at_work).find(|step| step.guarded == Some(true))?;
                format!("step {} has entered stage {stage}, from which on it is not interrupted", step.name)
            }
            Until::Never => {
                let step = steps.iter().find(at_work)?;
                format!("the definition does not allow to interrupt a step, and step {} runs", step.name)
            }
        };
        Some(format!("{why}; the request is kept and takes effect when that step has ended{}", self.effect()))
    }
}

/// Why a run that is to be cancelled is.
pub(super) fn why(task: &AsyncTask) -> Trouble {
    let message = || format!("{} asked for the end of the run", actor::by(task, ANNOTATION_CANCELED_BY));
    let by_user = || Trouble { reason: "CanceledByUser", message: message() };
    replaced_by(task).map_or_else(by_user, replaced)
}

/// Whether a step goes on, or starts, although the run is being cancelled: it is there for that.
#[must_use]
pub fn is_cleanup(step: &ValidatedStep) -> bool {
    step.when.as_ref().is_some_and(|when| when.outcomes.contains(&asynctask_api::definition::Outcome::Canceled))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(state: StepState, guarded: bool) -> StepStatus {
        StepStatus {
            name: "import".into(),
            state: Some(state),
            guarded: guarded.then_some(true),
            ..StepStatus::default()
        }
    }

    fn until(allowed: Until) -> Cancellation {
        Cancellation { allowed, effect: Some("The course is unchanged.".into()) }
    }

    #[test]
    fn a_step_past_the_guarded_stage_is_not_interrupted_until_it_ends() {
        let stage = until(Until::Stage { step: "import".into(), stage: "Updating".into() });
        assert_eq!(stage.guards("import"), Some("Updating"));
        assert_eq!(stage.guards("other"), None);
        assert_eq!(stage.forbidden(&[step(StepState::Running, false)]), None);
        let why = stage.forbidden(&[step(StepState::Running, true)]).expect("forbidden");
        assert!(why.contains("stage Updating") && why.contains("The course is unchanged."), "{why}");
        assert!(stage.forbidden(&[step(StepState::Retrying, true)]).is_some(), "half done is not done");
        for over in [StepState::Complete, StepState::Failed, StepState::Waiting] {
            assert_eq!(stage.forbidden(&[step(over, true)]), None, "{over:?}");
        }
    }

    #[test]
    fn the_guarded_stage_and_all_that_follow_it_are_behind_the_barrier() {
        let stages = ["Unpacking", "Updating", "Indexing"].map(str::to_owned);
        let stage = until(Until::Stage { step: "import".into(), stage: "Updating".into() });
        assert_eq!(stage.behind("import", &stages), &stages[1..]);
        assert!(stage.behind("other", &stages).is_empty());
        assert!(until(Until::Never).behind("import", &stages).is_empty());
    }

    #[test]
    fn never_means_while_a_step_runs() {
        assert!(until(Until::Never).forbidden(&[step(StepState::Running, false)]).is_some());
        assert_eq!(until(Until::Never).forbidden(&[step(StepState::Waiting, false)]), None);
        assert_eq!(until(Until::Always).forbidden(&[step(StepState::Running, true)]), None);
    }
}
