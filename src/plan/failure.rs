//! Why a run failed, in words that say what to do next.

use std::time::Duration;

use super::retry::{Cause, Kind};
use super::snapshot::{ExitFact, FailureFact, JobEnd, PodFact, Results};
use asynctask_api::condition::cut;
use asynctask_api::definition::FailureKind;
use asynctask_api::task::{Failure, StepFailure, Waiting};
use asynctask_contract::env::exit;

/// Longest text of a failure in a status.
const MESSAGE_MAX: usize = 4096;
const WORD_MAX: usize = 63;
const LINK_MAX: usize = 2048;
const TAIL_MAX: usize = 2048;

/// What the agent calls a program that was killed.
const KILLED: &str = "Signal9";
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

/// An attempt that ended without a commit, and what its failure means for the next one. What the agent reported says
/// most; then what it left with the pod; then what Kubernetes says of the pod; then what it says of the Job.
pub(super) fn of_step(step: &str, end: &JobEnd, results: &Results) -> (Failure, Cause) {
    let report = results.failures.iter().max_by(|a, b| (a.failed_at, &a.pod_uid).cmp(&(b.failed_at, &b.pod_uid)));
    let pod = results.pods.iter().max_by(|a, b| (a.created, &a.uid).cmp(&(b.created, &b.uid)));
    let found = match (end, report, pod) {
        (JobEnd::Succeeded, ..) => not_committed(),
        (_, report, Some(pod)) if pod.reason.as_deref() == Some("DeadlineExceeded") => timeout(pod, report),
        (_, Some(report), _) => reported(report, &results.pods),
        (_, None, Some(pod)) => of_pod(pod),
        (JobEnd::Gone, None, None) => lost(),
        (JobEnd::Failed { reason, message }, None, None) => of_job(reason, message),
    };
    let cause = cause(&found, pod);
    let disrupted = cause.kind == Kind::Of(FailureKind::Disruption);
    let reason = if disrupted && found.reason == "StepFailed" { "Disruption".to_owned() } else { found.reason };
    (bounded(Failure { step: Some(step.to_owned()), reason, ..found }), cause)
}

/// What kind of failure it was. The agent's own exit codes are judged before any rule of an author.
fn cause(failure: &Failure, pod: Option<&PodFact>) -> Cause {
    let exit_code = failure.exit_code;
    let agents = exit_code.and_then(|code| u8::try_from(code).ok());
    let code = failure.code.as_deref().unwrap_or_default();
    let kind = match failure.reason.as_str() {
        "Timeout" => Kind::Of(FailureKind::Timeout),
        "OutputNotCommitted" => Kind::Of(FailureKind::OutputNotCommitted),
        "Lost" => Kind::Of(FailureKind::Lost),
        _ if pod.is_some_and(|pod| pod.disrupted) => Kind::Of(FailureKind::Disruption),
        _ if code == OUT_OF_MEMORY_CODE => Kind::Of(FailureKind::OomKilled),
        _ if code == "CommandNotFound" => Kind::Permanent,
        _ => match agents {
            Some(exit::GATEWAY | exit::UPLOAD | exit::FENCED | exit::CANCELED) => Kind::Platform,
            Some(exit::TERMINATED) => Kind::Of(FailureKind::Disruption),
            Some(_) => Kind::Of(FailureKind::ExitCode),
            None if pod.is_some_and(|pod| !pod.started) => Kind::Of(FailureKind::StartTimeout),
            None => Kind::Of(FailureKind::Lost),
        },
    };
    Cause { kind, exit_code }
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
    let report = report.map(|failure| &failure.report);
    Failure {
        reason: "Timeout".into(),
        message,
        exit_code: report.map(|report| report.exit_code).or(pod.exit.as_ref().map(|exit| exit.code)),
        log_tail: report.map(|report| report.log_tail.clone()),
        ..blank()
    }
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
    // From inside, the agent sees a kill and no cause. An author's own words are never replaced.
    let exit = pods.iter().find(|pod| pod.uid == failure.pod_uid).and_then(|pod| pod.exit.as_ref());
    match exit.filter(|exit| report.code == KILLED && exit.reason == OUT_OF_MEMORY) {
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
    let (code, message) = of_exit(exit);
    // A pod that was evicted says why itself.
    let message = pod.message.clone().unwrap_or(message);
    Failure { code: Some(code), message, exit_code: Some(exit.code), ..step_failed }
}

/// What an exit code means when nobody said anything about it.
fn of_exit(exit: &ExitFact) -> (String, String) {
    let code = exit.code;
    if exit.reason == OUT_OF_MEMORY {
        let message = "the program was killed because it used more memory than its limit: raise resources.limits.memory \
                       in the definition, or give it less to do";
        return (OUT_OF_MEMORY_CODE.into(), message.into());
    }
    let agents = u8::try_from(code).ok().and_then(|code| match code {
        exit::GATEWAY => {
            Some(("GatewayUnreachable", "the agent could not reach the gateway, so nothing was committed"))
        }
        exit::UPLOAD => Some(("UploadFailed", "an output could not be stored, so nothing was committed")),
        exit::INPUT => Some(("InputInvalid", "an input could not be fetched")),
        exit::CONTRACT => Some(("ContractBroken", "the program did not write what the definition declares")),
        exit::FENCED => Some(("Fenced", "the gateway told the attempt not to start")),
        exit::NOT_FOUND => {
            Some(("CommandNotFound", "the container's command is not in the image, or cannot be executed"))
        }
        exit::TERMINATED => {
            Some(("Terminated", "the pod was told to end (drained, evicted or deleted) before the program was done"))
        }
        _ => None,
    });
    if let Some((word, message)) = agents {
        return (word.into(), format!("{message} (exit code {code}). Look at the pod's log (kubectl logs)"));
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
