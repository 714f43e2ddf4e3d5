//! The life of a step that fans out: which shards its next Job runs, what they do meanwhile, and how it ends.
//!
//! The Job controller retries shards. A Job that has ended is followed by another attempt, of what is left, only where
//! shards gave no result through no fault of their program.

use k8s_openapi::jiff::Timestamp;

use super::attempt::{Judged, judge_start};
use super::decide::{Action, PODS_AGAIN, ShardsEnd, StepNews, later};
use super::definition::ValidatedStep;
use super::failure::{self, blank};
use super::fanout::{FanOut, MAX_SHARDS, Source, is_appended};
use super::indexed::ShardRun;
use super::life::{Life, state};
use super::retry::{self, Backoff, Cause, Kind, Next, Policy, Spent};
use super::shards::ShardSet;
use super::snapshot::{IndexFact, JobEnd, JobFact, attempt};
use super::tally::Tally;
use asynctask_api::TaskState;
use asynctask_api::definition::FailureKind;
use asynctask_api::state::StepState;
use asynctask_api::task::{AsyncTaskStatus, Failure, FailureCount, ShardsStatus};

/// Longest list of failed shards in a status.
const INDEXES_MAX: usize = 1000;

/// How many shards a step has, once that is known. More than there may be were refused where they came from.
pub(super) fn total(
    status: &AsyncTaskStatus,
    content: &[ValidatedStep],
    index: usize,
    fan_out: &FanOut,
) -> Option<u32> {
    let known = status.steps[index].shards.as_ref().map(|shards| shards.total);
    let emitted = match fan_out.source {
        Source::Items { step } => {
            let planner = status.steps.iter().find(|known| known.name == content[step].name);
            planner.and_then(|planner| planner.emitted.as_ref()).map(|emitted| emitted.shards)
        }
        Source::Fixed(shards) => Some(i64::from(shards)),
        // Read when the run is admitted, and written down.
        Source::Parameter(_) => None,
    };
    known.or(emitted).and_then(|total| u32::try_from(total).ok()).filter(|total| *total <= MAX_SHARDS)
}

/// What the shards of a Job do, for the status.
fn counts(total: u32, indexes: &IndexFact) -> ShardsStatus {
    let before = total.saturating_sub(indexes.shards.len()).saturating_sub(indexes.failed_before);
    let failed = indexes.failed_before.saturating_add(indexes.failed.len());
    ShardsStatus {
        total: total.into(),
        active: indexes.active.into(),
        succeeded: before.saturating_add(indexes.succeeded).into(),
        failed: failed.into(),
        failed_indexes: listed(&indexes.failed),
    }
}

/// The sum, for the status.
pub(super) fn summed(total: u32, tally: &Tally) -> ShardsStatus {
    let without = tally.failed.union(&tally.lost());
    ShardsStatus {
        total: total.into(),
        active: 0,
        succeeded: tally.committed.into(),
        failed: without.len().into(),
        failed_indexes: listed(&without),
    }
}

fn listed(failed: &ShardSet) -> Option<String> {
    (!failed.is_empty()).then(|| failed.cut(INDEXES_MAX))
}

impl Life<'_> {
    /// What became of the Job of a step that fans out.
    pub(super) fn judge_shards(&mut self, index: usize, fan_out: &FanOut, deadline: Option<Timestamp>) {
        let content = self.content;
        let step = &content.steps[index];
        let number = attempt(&self.status.steps[index]);
        let mine = |job: &&JobFact| job.ours && job.step == step.name && job.attempt == number;
        match self.execution.jobs.iter().find(mine) {
            Some(job) if job.end.is_none() => self.shards_at_work(index, fan_out, job, deadline),
            Some(JobFact { end: Some(end), .. }) => self.shards_ended(index, fan_out, end),
            _ => self.shards_ended(index, fan_out, &JobEnd::Gone),
        }
    }

    fn shards_at_work(&mut self, index: usize, fan_out: &FanOut, job: &JobFact, deadline: Option<Timestamp>) {
        let content = self.content;
        let step = &content.steps[index];
        let total = total(&self.status, &content.steps, index, fan_out).unwrap_or(0);
        if let Some(indexes) = &job.indexes {
            let now = counts(total, indexes);
            let news = self.status.steps[index].shards.as_ref() != Some(&now);
            match self.execution.quiet_until.filter(|until| news && *until > self.now) {
                Some(until) => self.wake(until),
                None if news => self.news(index, StepNews::Counts(now)),
                None => {}
            }
        }
        // Once a shard has ended, pods do start.
        let begun = job.indexes.as_ref().is_some_and(|indexes| indexes.succeeded > 0 || !indexes.failed.is_empty());
        match judge_start(step, job, self.execution, deadline, begun, self.now) {
            Judged::Runs { waiting, wake_at } => self.waits(index, waiting, wake_at),
            Judged::Held(trouble) => self.trouble = Some(trouble),
            Judged::Failed { failure, .. } => self.end_shards(index, total, ShardsEnd::Failed(failure)),
            Judged::Done(_) => unreachable!("invariant: only a Job that has ended is done"),
        }
    }

    fn shards_ended(&mut self, index: usize, fan_out: &FanOut, end: &JobEnd) {
        let content = self.content;
        let step = &content.steps[index];
        let alive = self.execution.pods.iter().any(|pod| pod.step == step.name && pod.alive);
        let tally = match self.execution.tallies.get(&step.name) {
            Some(Ok(tally)) if !alive => tally,
            Some(Err(trouble)) => return self.trouble = Some(trouble.clone()),
            Some(Ok(_)) | None => return self.wake(later(self.now, PODS_AGAIN)),
        };
        let total = total(&self.status, &content.steps, index, fan_out).unwrap_or(0);
        if let Some((failure, next)) = self.follows(index, fan_out, total, tally, end) {
            let until = later(self.now, next.0);
            self.wake(until);
            self.news(index, StepNews::Counts(summed(total, tally)));
            return self.news(index, StepNews::Retries { failure, until, counts: next.1 });
        }
        self.end_shards(index, total, outcome(step, fan_out, total, tally));
    }

    /// Whether shards without a result are run again: why, after what time, and whether that counts.
    fn follows(
        &self,
        index: usize,
        fan_out: &FanOut,
        total: u32,
        tally: &Tally,
        end: &JobEnd,
    ) -> Option<(Failure, (std::time::Duration, bool))> {
        let (step, known) = (&self.content.steps[index], &self.status.steps[index]);
        let decided = u64::from(tally.failed.len()) > fan_out.shards.of(total.into());
        let cleaning = self.status.state == Some(TaskState::Canceling);
        if decided || cleaning || tally.lost().is_empty() {
            return None;
        }
        // Its back-off was the Job controller's; between Jobs it is the default one.
        let policy = Policy { backoff: Backoff::default(), ..step.retry.clone() };
        let cause = cause(tally, end);
        match retry::next(&policy, cause, Spent::of(known), attempt(known)) {
            Next::Again { after, counts } => Some((rest(&step.name, tally, cause), (after, counts))),
            Next::Over { .. } | Next::Exhausted { .. } => None,
        }
    }

    /// The end of the step, whatever it is, is sealed: people read the shards, and another run may continue them.
    fn end_shards(&mut self, index: usize, total: u32, end: ShardsEnd) {
        let content = self.content;
        let step = &content.steps[index];
        self.plan.actions.push(Action::SealShards { step: step.name.clone(), total });
        let published = content.outputs_of(step).filter(|output| !is_appended(output, true)).cloned().collect();
        self.news(index, StepNews::ShardsEnd { end, published });
    }

    /// Shards that the next Job of a step runs; `None` when that is not known yet, or there is nothing to run.
    pub(super) fn next_shards(&mut self, index: usize, fan_out: &FanOut) -> Option<ShardRun> {
        let content = self.content;
        let step = &content.steps[index];
        let total = total(&self.status, &content.steps, index, fan_out)?;
        let known = &self.status.steps[index];
        if known.attempt.is_none() && known.adopted.is_none() {
            return Some(ShardRun::whole(total));
        }
        let tally = match self.execution.tallies.get(&step.name) {
            Some(Ok(tally)) => tally,
            Some(Err(trouble)) => {
                self.trouble = Some(trouble.clone());
                return None;
            }
            None => {
                self.wake(later(self.now, PODS_AGAIN));
                return None;
            }
        };
        // What a program failed at in an earlier attempt of this run stays failed.
        let run = ShardRun { shards: tally.lost(), total, failed_before: tally.failed.len() };
        if run.shards.is_empty() {
            self.end_shards(index, total, outcome(step, fan_out, total, tally));
            return None;
        }
        Some(run)
    }

    /// Shards of cancelled steps that are not sealed yet.
    pub(super) fn seal_canceled(&mut self) {
        let content = self.content;
        for (index, step) in content.steps.iter().enumerate() {
            let known = &self.status.steps[index];
            let Some(fan_out) = &step.fan_out else { continue };
            let unsealed = state(known) == StepState::Canceled && known.manifest.is_none() && known.attempt.is_some();
            if let Some(total) = total(&self.status, &content.steps, index, fan_out).filter(|_| unsealed) {
                self.end_shards(index, total, ShardsEnd::Canceled);
            }
        }
    }
}

/// Why shards have no result, for the retry rules.
fn cause(tally: &Tally, end: &JobEnd) -> Cause {
    let kind = match end {
        // A Job that gave up early left shards alone that never had their turn.
        _ if !tally.held_up.is_empty() => Kind::Platform,
        JobEnd::Gone => Kind::Of(FailureKind::Lost),
        JobEnd::Succeeded | JobEnd::Failed { .. } => Kind::Of(FailureKind::OutputNotCommitted),
    };
    Cause { kind, exit_code: None }
}

fn rest(step: &str, tally: &Tally, cause: Cause) -> Failure {
    let (reason, why) = match cause.kind {
        Kind::Platform => {
            let first = tally.held_up_by.as_deref().unwrap_or("nobody left a word");
            ("PlatformFailed", format!("through no fault of the program ({first})"))
        }
        Kind::Of(FailureKind::Lost) => ("Lost", "because their Job is gone".to_owned()),
        Kind::Of(_) | Kind::Permanent => {
            ("OutputNotCommitted", "although their pods ended with exit code 0".to_owned())
        }
    };
    let shards = if tally.lost().len() == 1 { "shard" } else { "shards" };
    let message = format!("{shards} {} gave no result {why}: run again", tally.lost().cut(200));
    Failure { step: Some(step.to_owned()), reason: reason.into(), message, ..blank() }
}

/// How the step ends.
fn outcome(step: &ValidatedStep, fan_out: &FanOut, total: u32, tally: &Tally) -> ShardsEnd {
    let partial = tally.without_result() > 0 || tally.items.failed > 0;
    intolerable(step, fan_out, total, tally).map_or(ShardsEnd::Done { partial }, ShardsEnd::Failed)
}

/// Why the step has failed, if it has.
fn intolerable(step: &ValidatedStep, fan_out: &FanOut, total: u32, tally: &Tally) -> Option<Failure> {
    let failures = tally.failures();
    let failed = |reason: &str, message: String| {
        let code = failures.first().map(|failure| failure.code.clone());
        let failure = Failure { step: Some(step.name.clone()), reason: reason.into(), code, message, ..blank() };
        Some(failure::bounded(failure))
    };
    let (without, tolerated) = (u64::from(tally.without_result()), fan_out.shards.of(total.into()));
    if without > tolerated {
        let what = format!("{without} of {total} shards gave no result, {tolerated} are tolerated");
        let next = "See kubectl asynctask shards --failed; kubectl asynctask retry runs only these again";
        return failed("ShardsFailed", format!("{what}: {}. {next}", clusters(&failures)));
    }
    let (failed_items, attempted) = (tally.items.failed, tally.items.attempted);
    let tolerated = fan_out.items.of(attempted);
    if failed_items > tolerated {
        let what = format!("{failed_items} of {attempted} items failed, {tolerated} are tolerated");
        return failed("ItemsFailed", format!("{what}: {}", clusters(&failures)));
    }
    None
}

/// `43 shards InvalidEmail (no such domain), 12 items Bounced`
pub(super) fn clusters(failures: &[FailureCount]) -> String {
    let one = |failure: &FailureCount| {
        let (count, what) = match (failure.shards, failure.items) {
            (Some(count), _) => (count, "shard"),
            (None, count) => (count.unwrap_or(0), "item"),
        };
        let plural = if count == 1 { "" } else { "s" };
        let why = if failure.message.is_empty() { String::new() } else { format!(" ({})", failure.message) };
        format!("{count} {what}{plural} {}{why}", failure.code)
    };
    let told: Vec<String> = failures.iter().map(one).collect();
    if told.is_empty() { "nobody left a word".to_owned() } else { told.join(", ") }
}
