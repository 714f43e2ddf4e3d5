//! What an agent tells while the program runs, and why it failed.
//!
//! Stage and progress go straight into the task's status, under a field manager of their own and only on the version
//! that was looked at: a task that has meanwhile ended is never written to again.

use axum::extract::State;
use axum::http::StatusCode;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

use super::declared::Declared;
use super::files::digest;
use super::{Attempt, DONE, Desk, barrier};
use crate::identity::Agent;
use crate::problem::Refusal;
use crate::request::Payload;
use crate::target;
use crate::{Gateway, Shared};
use asynctask_api::AsyncTask;
use asynctask_api::condition::cut;
use asynctask_api::names::MANAGER_GATEWAY;
use asynctask_api::task::{StepProgress, StepStatus};
use asynctask_contract::env::LOG_OUTPUT;
use asynctask_contract::wire::{CommittedFile, FailureReport, Progress, StageRequest, word};
use asynctask_runtime::client::is_status;
use asynctask_storage::records::{self, FailureRecord};
use asynctask_storage::{PutMode, StoreError};

/// Writes lost to somebody else's in a row before the agent is asked to come again.
const TRIES: usize = 3;

/// `POST /agent/v1/stage`
///
/// A guarded stage is entered by compare-and-swap: on the version on which nobody had asked for the end of the run. Of
/// a shard it goes no further: thousands of them have no place in a status.
pub(super) async fn stage(
    State(gateway): State<Shared>,
    agent: Agent,
    Payload(entered): Payload<StageRequest>,
) -> Result<StatusCode, Refusal> {
    let attempt = gateway.attempts.live(&agent.pod).await?;
    agent.trail.asks("stage", attempt.what());
    let declared = Declared::of(&gateway, &attempt).await?;
    let stages = &declared.step().stages;
    if !stages.contains(&entered.stage) {
        let shown = cut(&entered.stage, 60);
        let message = format!("stage {shown:?} is not declared for step {}: it has {stages:?}", attempt.step);
        return Err(Refusal::invalid(word::UNKNOWN_STAGE, message));
    }
    if attempt.shard.is_some() {
        return attempt.require_open().map(|()| DONE);
    }
    let guarded = declared.definition().cancellation.behind(&attempt.step, stages).contains(&entered.stage);
    if !guarded {
        gateway.reports.pass(&agent.pod.uid)?;
    }
    let enter = |task: &AsyncTask, step: &mut StepStatus| {
        if guarded {
            barrier::pass(task, step)?;
            step.guarded = Some(true);
        }
        enter(step, &entered.stage);
        Ok(())
    };
    match write(&gateway, Attempt::clone(&attempt), enter).await {
        Err(Refusal::Canceled(why)) => {
            agent.trail.refused();
            Err(Refusal::Canceled(why))
        }
        written => written.map(|()| DONE),
    }
}

/// `POST /agent/v1/progress`
pub(super) async fn progress(
    State(gateway): State<Shared>,
    agent: Agent,
    Payload(said): Payload<Progress>,
) -> Result<StatusCode, Refusal> {
    let attempt = gateway.attempts.recent(&agent.pod).await?;
    agent.trail.asks("progress", attempt.what());
    gateway.reports.pass(&agent.pod.uid)?;
    if said.done.is_some_and(i64::is_negative) || said.total.is_some_and(i64::is_negative) {
        return Err(Refusal::invalid("InvalidProgress", "done and total are counts: 0 or more"));
    }
    if attempt.shard.is_some() {
        return attempt.require_open().map(|()| DONE);
    }
    let attempt = gateway.attempts.with_live_task(&attempt).await?;
    let advance = |_: &AsyncTask, step: &mut StepStatus| {
        advance(step, &said);
        Ok(())
    };
    write(&gateway, attempt, advance).await?;
    Ok(DONE)
}

/// A new stage starts counting afresh.
fn enter(step: &mut StepStatus, stage: &str) {
    if step.stage.as_deref() != Some(stage) {
        step.stage = Some(stage.to_owned());
        step.progress = None;
    }
}

/// Absent fields keep their last value.
fn advance(step: &mut StepStatus, said: &Progress) {
    let progress = step.progress.get_or_insert_default();
    progress.done = said.done.or(progress.done);
    progress.total = said.total.or(progress.total);
    if let Some(unit) = &said.unit {
        progress.unit = Some(cut(unit, 30));
    }
    if let Some(message) = &said.message {
        progress.message = Some(cut(message, 256));
    }
}

/// One line for a column: `Verifying 3/10 blocks`.
fn column(step: &StepStatus) -> String {
    let empty = StepProgress::default();
    let progress = step.progress.as_ref().unwrap_or(&empty);
    let count = match (progress.done, progress.total) {
        (Some(done), Some(total)) => Some(format!("{done}/{total}")),
        (Some(done), None) => Some(done.to_string()),
        (None, _) => None,
    };
    let unit = progress.unit.as_deref().filter(|_| count.is_some());
    let words: Vec<&str> = [step.stage.as_deref(), count.as_deref(), unit].into_iter().flatten().collect();
    let text = if count.is_none() && step.stage.is_none() {
        progress.message.clone().unwrap_or_default()
    } else {
        words.join(" ")
    };
    cut(&text, 100)
}

/// Changes the step's live fields. `attempt` must hold the task as it is now; `change` sees that task, and again each
/// newer version that got in between.
async fn write(
    gateway: &Gateway,
    mut attempt: Attempt,
    change: impl Fn(&AsyncTask, &mut StepStatus) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    for _ in 0..TRIES {
        let status = attempt.task.status.clone().unwrap_or_default();
        let before = status.steps.into_iter().find(|step| step.name == attempt.step);
        let before = before.unwrap_or_else(|| StepStatus { name: attempt.step.clone(), ..StepStatus::default() });
        let mut after = before.clone();
        change(&attempt.task, &mut after)?;
        attempt.require_open()?;
        if after == before {
            return Ok(());
        }
        match apply(gateway, &attempt, &after).await {
            Err(source) if is_status(&source, 409) => attempt = gateway.attempts.with_live_task(&attempt).await?,
            Err(source) if is_status(&source, 404) => {
                return Err(Refusal::Superseded("the AsyncTask was deleted".into()));
            }
            Err(source) => return Err(Refusal::Kube { act: "write the status of an AsyncTask", source }),
            Ok(()) => return Ok(()),
        }
    }
    Err(Refusal::NotYet("the task's status is being written by others at this moment: send it again".into()))
}

/// All fields this manager owns, each time: what is left out of an apply is taken away.
async fn apply(gateway: &Gateway, attempt: &Attempt, step: &StepStatus) -> Result<(), kube::Error> {
    let live = StepStatus {
        name: step.name.clone(),
        stage: step.stage.clone(),
        guarded: step.guarded,
        progress: step.progress.clone(),
        ..StepStatus::default()
    };
    let name = attempt.task.name_any();
    let patch = json!({
        "apiVersion": AsyncTask::api_version(&()),
        "kind": AsyncTask::kind(&()),
        // Only this version of this object: a task that ended, or was made anew, since it was read is left alone.
        "metadata": {"name": name, "uid": attempt.task.uid(), "resourceVersion": attempt.task.resource_version()},
        "status": {"progress": column(step), "steps": [live]},
    });
    let manager = format!("{MANAGER_GATEWAY}/{}", attempt.step);
    let tasks = Api::<AsyncTask>::namespaced(gateway.client.clone(), &attempt.namespace);
    tasks.patch_status(&name, &PatchParams::apply(&manager).force(), &Patch::Apply(patch)).await.map(drop)
}

/// `POST /agent/v1/failure`
pub(super) async fn failure(
    State(gateway): State<Shared>,
    agent: Agent,
    Payload(report): Payload<FailureReport>,
) -> Result<StatusCode, Refusal> {
    let attempt = gateway.attempts.recent(&agent.pod).await?;
    agent.trail.asks("fail", attempt.what());
    attempt.require_heard()?;
    let desk = Desk::of(&gateway, &attempt).await?;
    // What an attempt said first stands; saying it again changes nothing. Looked at first, because not every store refuses
    // to write a key twice.
    if target::is_stored(&desk.open, &desk.own.failure()).await? {
        return Ok(DONE);
    }
    let report = bounded(FailureReport { log: stored_log(&desk, report.log.clone()).await?, ..report });
    let record = FailureRecord {
        version: records::VERSION,
        task_uid: attempt.task_uid(),
        step: attempt.step.clone(),
        attempt: attempt.job.attempt,
        shard: attempt.shard.unwrap_or(0),
        pod_uid: attempt.pod_uid.clone(),
        report,
        failed_at: jiff::Timestamp::now(),
    };
    match desk.open.store.put(&desk.own.failure(), records::encode(&record), PutMode::Create).await {
        Ok(()) | Err(StoreError::AlreadyExists { .. }) => Ok(DONE),
        Err(error) => Err(error.into()),
    }
}

/// Fits what comes from an author's program into what the status takes.
fn bounded(report: FailureReport) -> FailureReport {
    let link =
        report.link.filter(|link| link.len() <= 2048 && (link.starts_with("https://") || link.starts_with("http://")));
    FailureReport {
        code: cut(&report.code, 63),
        message: cut(&report.message, 4096),
        link,
        stage: report.stage.map(|stage| cut(&stage, 60)),
        log_tail: tail(&report.log_tail, 2048),
        ..report
    }
}

/// The end of a text, in at most `max` bytes.
fn tail(text: &str, max: usize) -> String {
    let mut from = text.len().saturating_sub(max);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_owned()
}

/// The log, if it is stored as the report says. A report without its log is better than none.
async fn stored_log(desk: &Desk, log: Option<CommittedFile>) -> Result<Option<CommittedFile>, Refusal> {
    let Some(log) = log.filter(|log| log.output == LOG_OUTPUT && log.seq == 0) else { return Ok(None) };
    let sha256 = digest(&log.sha256)?;
    match desk.open.store.head(&desk.own.log()).await {
        Ok(meta) if meta.size == log.size && meta.sha256.is_none_or(|stored| stored == sha256) => Ok(Some(log)),
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step() -> StepStatus {
        StepStatus { name: "import".into(), ..StepStatus::default() }
    }

    #[test]
    fn absent_fields_keep_their_last_value_and_a_new_stage_starts_afresh() {
        let mut step = step();
        enter(&mut step, "Verifying");
        advance(&mut step, &Progress { done: Some(3), total: Some(10), unit: Some("blocks".into()), message: None });
        advance(&mut step, &Progress { done: Some(4), message: Some("almost".into()), ..Progress::default() });
        assert_eq!(column(&step), "Verifying 4/10 blocks");
        enter(&mut step, "Verifying");
        assert_eq!(column(&step), "Verifying 4/10 blocks");
        enter(&mut step, "Updating");
        assert_eq!(column(&step), "Updating");
    }

    #[test]
    fn the_column_says_what_is_known() {
        let with = |done, total, message: &str| {
            let mut step = step();
            let message = Some(message.to_owned());
            advance(&mut step, &Progress { done, total, unit: Some("files".into()), message });
            column(&step)
        };
        assert_eq!(with(Some(3), None, "x"), "3 files");
        assert_eq!(with(None, Some(9), "reading"), "reading");
        assert!(with(None, None, &"ü".repeat(500)).len() <= 100);
    }

    #[test]
    fn an_authors_words_are_cut_to_what_the_status_takes() {
        let report = FailureReport {
            code: "c".repeat(200),
            message: "ü".repeat(5000),
            link: Some("javascript:alert(1)".into()),
            exit_code: 70,
            failed_by: None,
            stopped_by: None,
            stage: Some("s".repeat(100)),
            log_tail: format!("{}end", "ü".repeat(3000)),
            log: None,
        };
        let bounded = bounded(report);
        assert!(bounded.code.len() <= 63 && bounded.message.len() <= 4096 && bounded.log_tail.len() <= 2048);
        assert!(bounded.log_tail.ends_with("end"));
        assert_eq!(bounded.link, None, "only links a browser opens safely");
    }
}
