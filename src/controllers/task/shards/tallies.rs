//! When shards are added up, and what came of it the last time: reading them all again would say the same.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::jiff::Timestamp;

use asynctask_api::state::StepState;
use asynctask_api::task::StepStatus;
use asynctask_plan::snapshot::{JobEnd, JobFact, attempt};
use asynctask_plan::tally::Tally;

/// Sums kept: as many steps as end at a time in most clusters. The oldest is dropped when they are more.
const KEPT: usize = 64;

/// What a sum was made of. No pod of the attempt runs any more, so nothing is added to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::task) struct Ended {
    pub(in crate::task) uid: String,
    pub(in crate::task) step: String,
    pub(in crate::task) attempt: u32,
    pub(in crate::task) end: JobEnd,
}

/// The last sums.
#[derive(Debug, Default)]
pub(in crate::task) struct Tallies(Mutex<VecDeque<(Ended, Tally)>>);

impl Tallies {
    pub(in crate::task) fn recall(&self, ended: &Ended) -> Option<Tally> {
        self.lock().iter().find(|(known, _)| known == ended).map(|(_, tally)| tally.clone())
    }

    pub(in crate::task) fn remember(&self, ended: Ended, tally: Tally) {
        let mut kept = self.lock();
        kept.retain(|(known, _)| known.uid != ended.uid || known.step != ended.step);
        kept.push_back((ended, tally));
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }

    /// The step is sealed.
    pub(super) fn forget(&self, uid: &str, step: &str) {
        self.lock().retain(|(known, _)| known.uid != uid || known.step != step);
    }

    /// The run is gone.
    pub(in crate::task) fn forget_all(&self, uid: &str) {
        self.lock().retain(|(known, _)| known.uid != uid);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Ended, Tally)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it is time to add up the shards of a step that fans out: how the Job of its attempt ended. As long as that
/// one is there and has not ended, its pods may still commit.
pub(in crate::task) fn due(step: &StepStatus, jobs: &[JobFact], now: Timestamp) -> Option<JobEnd> {
    let wanted = match step.state? {
        StepState::Running => true,
        StepState::Retrying => step.until.as_ref().is_none_or(|until| until.0 <= now),
        // What is left of a run that is continued, or that was held.
        StepState::Waiting => step.adopted.is_some() || step.attempt.is_some(),
        StepState::Complete
        | StepState::PartiallyComplete
        | StepState::Failed
        | StepState::Canceled
        | StepState::Skipped => false,
    };
    let job = jobs.iter().find(|job| job.step == step.name && job.attempt == attempt(step));
    match job {
        _ if !wanted => None,
        Some(job) => job.end.clone(),
        None => Some(JobEnd::Gone),
    }
}
