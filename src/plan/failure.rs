//! Why a run failed, in words that say what to do next.

use std::time::Duration;

use super::retry::{Cause, Kind};
use super::snapshot::{ExitFact, FailureFact, JobEnd, PodFact, Results};
use asynctask_api::condition::cut;
use asynctask_api::definition::FailureKind;
use asynctask_api::task::{Failure, StepFailure, Waiting};
use asynctask_contract::wire::{FailedBy, StoppedBy, word};

/// Longest text of a failure in a status.
const MESSAGE_MAX: usize = 4096;
const WORD_MAX: usize = 63;
const LINK_MAX: usize = 2048;
const TAIL_MAX: usize = 2048;

/// What Kubernetes calls a pod that a kubelet ended for its own sake, or for the pod's limits.
const EVICTED: &str = "Evicted";
/// What container runtimes call a container that never came to run.
const NOT_STARTED: [&str; 2] = ["StartError", "ContainerCannotRun"];
/// What the container runtime calls a container that used more memory than its limit.
const OUT_OF_MEMORY: &str = "OOMKilled";
/// Our word for it.
const OUT_OF_MEMORY_CODE: &str = "OutOfMemory";

/// A run that is refused before any step.
pub(super) fn refusal(reason: &str, message: String) -> Failure {
    Failure { reason: reason.to_owned(), message: cut(&message, MESSAGE_MAX), ..blank() }
}

pub(super) fn blank() -> Failure {
    Failure {
        step: None,
        reason: String::new(),
        code: None,
        message: String::new(),
        exit_code: None,
        retriable: None,
        link: None,
        log_tail: None,
    }
}

/// The same in short, for the step.
pub(super) fn brief(failure: &Failure) -> StepFailure {
    StepFailure {
        reason: failure.reason.clone(),
        code: failure.code.clone(),
        exit_code: failure.exit_code,
        message: cut(&failure.message, 256),
    }
}

/// The run's own time was over while a step ran.
pub(super) fn of_deadline(step: &str) -> Failure {
    let message = "the run took longer than the definition's `deadline`: raise it, or give the run less to do";
    Failure { step: Some(step.to_owned()), reason: "Timeout".into(), message: message.into(), ..blank() }
}

/// The program was not started in time.
pub(super) fn of_start(step: &str, limit: Duration, waiting: &Waiting) -> (Failure, Cause) {
    let is_image = waiting.reason.contains("Image") || waiting.reason.contains("ErrImage");
    let (reason, kind) =
        if is_image { ("ImagePull", FailureKind::ImagePull) } else { ("StartTimeout", FailureKind::StartTimeout) };
    let message = format!(
        "the program did not start within {limit:?}: {} ({}). Mend that, or raise the step's `startTimeout`",
        waiting.message, waiting.reason
    );
    let failure = bounded(Failure {
        step: Some(step.to_owned()),
        reason: reason.into(),
        code: Some(waiting.reason.clone()),
        message,
        ..blank()
    });
    (failure, Cause { kind: Kind::Of(kind), exit_code: None })
}

/// What an agent said of the end of its attempt, in its report or as the last thing in its pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Word {
    failed_by: Option<FailedBy>,
    stopped_by: Option<StoppedBy>,
}

/// An attempt that ended without a commit, and what its failure means for the next one. What the agent reported says
/// most; then what it left with the pod; then what Kubernetes says of the pod; then what it says of the Job. No number is
/// taken for more than it is: a program may end with any.
pub(super) fn of_step(step: &str, end: &JobEnd, results: &Results) -> (Failure, Cause) {
    let pod = results.pods.iter().max_by(|a, b| (a.created, &a.uid).cmp(&(b.created, &b.uid)));
    // Of a pod that was followed by another the report says nothing of how that one ended.
    let followed = |uid: &str| pod.is_some_and(|pod| pod.uid != uid) && results.pods.iter().any(|pod| pod.uid == uid);
    let reports = results.failures.iter().filter(|report| !followed(&report.pod_uid));
    let report = reports.max_by(|a, b| (a.failed_at, &a.pod_uid).cmp(&(b.failed_at, &b.pod_uid)));
    let found = match (end, report, pod) {
        (JobEnd::Succeeded, ..) => not_committed(),
        (_, report, Some(pod)) if pod.reason.as_deref() == Some("DeadlineExceeded") => timeout(pod, report),
        (_, report, Some(pod)) if is_over_its_storage(pod) => over_its_storage(pod, report),
        (_, Some(report), _) => reported(report, &results.pods),
        (_, None, Some(pod)) => of_pod(pod),
        (JobEnd::Gone, None, None) => lost(),
        (JobEnd::Failed { reason, message }, None, None) => of_job(reason, message),
    };
    let said = pod.and_then(|pod| pod.exit.as_ref()?.said.as_ref());
    let word = match (report.map(|failure| &failure.report), said) {
        (Some(report), _) => Word { failed_by: report.failed_by, stopped_by: report.stopped_by },
        (None, Some(said)) => Word { failed_by: said.failed_by, stopped_by: said.stopped_by },
        (None, None) => Word::default(),
    };
    let kind = kind(&found, word, pod);
    // Codes are a program's. Those of an agent that failed itself are of no use to anybody's rules.
    let exit_code = found.exit_code.filter(|_| word.failed_by.is_none_or(FailedBy::is_program));
    let reason = match kind {
        Kind::Of(FailureKind::Disruption) if found.reason == "StepFailed" => "Disruption".to_owned(),
        Kind::Permanent if found.code.as_deref() == Some(word::INPUT_MISSING) => word::INPUT_MISSING.to_owned(),
        _ => found.reason,
    };
    let failure = bounded(Failure { step: Some(step.to_owned()), reason, exit_code, ..found });
    (failure, Cause { kind, exit_code })
}

/// What kind of failure it was: what Kubernetes did to the pod comes before what its agent could see from inside.
fn kind(failure: &Failure, word: Word, pod: Option<&PodFact>) -> Kind {
    let out_of_memory = failure.code.as_deref() == Some(OUT_OF_MEMORY_CODE);
    match failure.reason.as_str() {
        "Timeout" => return Kind::Of(FailureKind::Timeout),
        "OutputNotCommitted" => return Kind::Of(FailureKind::OutputNotCommitted),
        "Lost" => return Kind::Of(FailureKind::Lost),
        _ => {}
    }
    if pod.is_some_and(|pod| pod.disrupted) {
        return Kind::Of(FailureKind::Disruption);
    }
    if pod.is_some_and(is_over_its_storage) {
        return Kind::Of(FailureKind::ExitCode);
    }
    match (word.failed_by, word.stopped_by) {
        (Some(FailedBy::Platform), Some(StoppedBy::Outside)) => Kind::Of(FailureKind::Disruption),
        (Some(FailedBy::Platform | FailedBy::Agent), _) => Kind::Platform,
        (Some(FailedBy::Contract | FailedBy::PlatformForGood), _) => Kind::Permanent,
        (Some(FailedBy::Program | FailedBy::Unknown) | None, _) if out_of_memory => Kind::Of(FailureKind::OomKilled),
        (Some(FailedBy::Program | FailedBy::Unknown), _) => Kind::Of(FailureKind::ExitCode),
        // Nobody was left to say anything: the pod was taken away, or never came to run.
        (None, _) => match pod {
            Some(pod) if pod.deleted => Kind::Of(FailureKind::Disruption),
            Some(pod) if pod.exit.is_some() && !is_not_started(pod) => Kind::Of(FailureKind::ExitCode),
            // The kubelet refused the pod, as one does that shuts down or has no room any more.
            Some(pod) if !pod.started && pod.waiting.is_none() && pod.reason.is_some() => Kind::Platform,
            Some(pod) if !pod.started || is_not_started(pod) => Kind::Of(FailureKind::StartTimeout),
            Some(_) | None => Kind::Of(FailureKind::Lost),
        },
    }
}

/// Evicted at work without having been in anybody's way: it used more disk than its own limits allow. Kubernetes calls every
/// other eviction a disruption, and a pod that a node does not take at all is none.
fn is_over_its_storage(pod: &PodFact) -> bool {
    pod.reason.as_deref() == Some(EVICTED) && pod.started && !pod.disrupted
}

fn over_its_storage(pod: &PodFact, report: Option<&FailureFact>) -> Failure {
    let said = pod.message.as_deref().unwrap_or("it used more storage than it may");
    let message = format!(
        "the pod was evicted because of its own limits: {said}. Raise the step's `workspace.size`, or the limit that the \
         message names, or let the program write less"
    );
    let log_tail = report.map(|report| report.report.log_tail.clone());
    Failure { reason: "StepFailed".into(), code: Some(EVICTED.into()), message, log_tail, ..blank() }
}

/// The container runtime could not start it, so the exit code is the runtime's.
fn is_not_started(pod: &PodFact) -> bool {
    pod.exit.as_ref().is_some_and(|exit| NOT_STARTED.contains(&exit.reason.as_str()))
}

/// The last of too many attempts in a row that failed in ways that do not count.
pub(super) fn exhausted(failure: Failure, attempts: u32) -> Failure {
    let tries = if attempts == 1 { "1 attempt".to_owned() } else { format!("{attempts} attempts") };
    let message = format!(
        "{}. {tries} in a row failed in ways that do not count, and no more are made: fix the cause, then run the \
         task again (`retry.uncountedLimit` of the step says how many there may be)",
        failure.message.trim_end_matches('.')
    );
    bounded(Failure { message, retriable: Some(true), ..failure })
}

fn not_committed() -> Failure {
    let message = "the pod ended with exit code 0 but committed no result, so there are no outputs. Look at the pod's \
                   log (kubectl logs), then run the task again";
    Failure { reason: "OutputNotCommitted".into(), message: message.into(), ..blank() }
}

fn timeout(pod: &PodFact, report: Option<&FailureFact>) -> Failure {
    let message = match &pod.waiting {
        Some((reason, message)) => {
            format!("the step's timeout was over before its program started: it waited for {reason} ({message})")
        }
        None => {
            "the step took longer than its timeout: raise `timeout` in the definition, or give it less to do".into()
        }
    };
    let log_tail = report.map(|failure| failure.report.log_tail.clone());
    Failure { reason: "Timeout".into(), message, log_tail, ..blank() }
}

fn reported(failure: &FailureFact, pods: &[PodFact]) -> Failure {
    let report = &failure.report;
    let found = Failure {
        reason: "StepFailed".into(),
        code: Some(report.code.clone()),
        message: report.message.clone(),
        exit_code: Some(report.exit_code),
        link: report.link.clone(),
        log_tail: Some(report.log_tail.clone()),
        ..blank()
    };
    // From inside, the agent sees how the program ended and no cause: the kernel may have killed a process that it had
    // started. An author's own words are never replaced.
    let exit = pods.iter().find(|pod| pod.uid == failure.pod_uid).and_then(|pod| pod.exit.as_ref());
    match exit.filter(|exit| is_bare(&report.code) && exit.reason == OUT_OF_MEMORY) {
        Some(exit) => {
            let (code, message) = of_exit(exit);
            Failure { code: Some(code), message, ..found }
        }
        None => found,
    }
}

fn of_pod(pod: &PodFact) -> Failure {
    let step_failed = Failure { reason: "StepFailed".into(), ..blank() };
    let Some(exit) = &pod.exit else {
        let (code, why) = match (&pod.reason, &pod.waiting) {
            (Some(reason), _) => (reason, pod.message.clone().unwrap_or_else(|| format!("the pod failed: {reason}"))),
            (None, Some((reason, message))) => (reason, format!("the program never started: {message}")),
            (None, None) => return Failure { message: never_known(&pod.name), ..step_failed },
        };
        return Failure { code: Some(code.clone()), message: why, ..step_failed };
    };
    if let Some(said) = exit.said.as_ref().filter(|said| !said.message.is_empty()) {
        let (message, log_tail) = (said.message.clone(), Some(said.log_tail.clone()));
        return Failure { code: said.code.clone(), message, log_tail, exit_code: Some(exit.code), ..step_failed };
    }
    if pod.deleted || pod.disrupted {
        let why = pod.message.clone().unwrap_or_else(|| "it was drained, evicted or deleted".to_owned());
        let message = format!("the pod was told to end before the program was done, and left no word: {why}");
        return Failure { code: Some("Terminated".into()), message, ..step_failed };
    }
    let (code, message) = of_exit(exit);
    // A pod that was evicted says why itself.
    let message = pod.message.clone().unwrap_or(message);
    Failure { code: Some(code), message, exit_code: Some(exit.code), ..step_failed }
}

/// Whether an agent could say no more than how the program ended.
fn is_bare(code: &str) -> bool {
    let number = ["ExitCode", "Signal"].into_iter().find_map(|word| code.strip_prefix(word));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// What an exit code means when nobody said anything about it.
fn of_exit(exit: &ExitFact) -> (String, String) {
    let code = exit.code;
    if exit.reason == OUT_OF_MEMORY {
        let message = "the program, or a process it had started, was killed because it used more memory than the container's \
                       limit: raise resources.limits.memory in the definition, or reduce its workload";
        return (OUT_OF_MEMORY_CODE.into(), message.into());
    }
    if NOT_STARTED.contains(&exit.reason.as_str()) {
        let message = format!("the container could not be started: {}", exit.message);
        return (exit.reason.clone(), message);
    }
    if code > 128 && code < 160 {
        return (format!("Signal{}", code - 128), format!("the program was killed by signal {}", code - 128));
    }
    let also = if exit.message.is_empty() { String::new() } else { format!(": {}", exit.message) };
    (format!("ExitCode{code}"), format!("the container ended with exit code {code} ({}){also}", exit.reason))
}

fn never_known(pod: &str) -> String {
    format!("pod {pod} failed and says nothing about its end: look at its events (kubectl describe pod)")
}

fn lost() -> Failure {
    let message = "the Job is gone and left neither a result nor a report: it was deleted while it ran, or its node was \
                   lost. Run the task again";
    Failure { reason: "Lost".into(), message: message.into(), ..blank() }
}

fn of_job(reason: &str, message: &str) -> Failure {
    if reason == "DeadlineExceeded" {
        return Failure { reason: "Timeout".into(), message: message.to_owned(), ..blank() };
    }
    let message = format!(
        "the Job failed ({reason}: {message}), its pod is gone and left no report: it was deleted or its node was lost. \
         Run the task again"
    );
    Failure { reason: "Lost".into(), message, ..blank() }
}

/// Fits texts of others into what the status takes. Of a log the end says most.
pub(super) fn bounded(failure: Failure) -> Failure {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    Failure {
        code: failure.code.map(|code| cut(&code, WORD_MAX)).and_then(some),
        message: cut(&failure.message, MESSAGE_MAX),
        link: failure.link.filter(|link| link.len() <= LINK_MAX),
        log_tail: failure.log_tail.map(|text| tail(&text, TAIL_MAX)).and_then(some),
        ..failure
    }
}

fn tail(text: &str, max: usize) -> String {
    let mut from = text.len().saturating_sub(max);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_owned()
}
