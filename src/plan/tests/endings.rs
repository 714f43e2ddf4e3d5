//! Whose failure was it? Each way in which an attempt can end without a result: who is told what, what is counted, and what
//! follows. The same table is in the book (`docs/src/programs.md`); `tests/agent/blame.rs` tries the agent's part of it.

use super::*;
use crate::failure::of_step;
use crate::retry::{self, Kind, Next, Policy, Spent};
use FailedBy::{Agent as Ours, Contract, Platform, PlatformForGood, Program, Unknown};
use Follows::{Counts, Ends, Passes};
use asynctask_api::definition::FailureKind;

/// What follows without a rule of the author.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follows {
    /// It counts against `retry.limit`.
    Counts,
    /// Another attempt that does not count, up to `retry.uncountedLimit`.
    Passes,
    /// The step has failed, whatever the limit: another attempt would end the same way.
    Ends,
}

/// How an attempt ended, and what it is taken for.
#[derive(Clone)]
struct Ending {
    what: &'static str,
    end: JobEnd,
    left: Results,
    told: (&'static str, Option<&'static str>),
    follows: Follows,
    kind: Option<FailureKind>,
}

fn reported(code: &str, exit_code: i32, by: FailedBy, stopped_by: Option<StoppedBy>) -> FailureFact {
    let report = FailureReport {
        code: code.into(),
        message: format!("{code} happened"),
        exit_code,
        failed_by: Some(by),
        stopped_by,
        ..report(code, false)
    };
    FailureFact { pod_uid: "p".into(), attempt: 1, failed_at: at(5), report }
}

fn pods(pod: PodFact) -> Results {
    Results { pods: vec![pod], ..Results::default() }
}

fn exited(code: i32, reason: &str) -> PodFact {
    PodFact { started: true, exit: Some(exit(code, reason)), ..pod("p") }
}

/// The agent reported, and its pod ended with its exit code.
fn told(code: &str, exit_code: i32, by: FailedBy, stopped_by: Option<StoppedBy>) -> Results {
    Results { failures: vec![reported(code, exit_code, by, stopped_by)], ..pods(exited(exit_code, "Error")) }
}

/// The agent could not report, and left a word with its pod.
fn left(code: &str, exit_code: i32, by: FailedBy, stopped_by: Option<StoppedBy>) -> Results {
    let ended = ExitFact { said: Some(said(code, by, stopped_by)), ..exit(exit_code, "Error") };
    pods(PodFact { started: true, exit: Some(ended), ..pod("p") })
}

fn waits(reason: &str) -> PodFact {
    PodFact { waiting: Some((reason.into(), "back-off pulling x".into())), ..pod("p") }
}

fn evicted(disrupted: bool) -> PodFact {
    let message = "Usage of EmptyDir volume \"asynctask-work\" exceeds the limit \"16Mi\".";
    PodFact { reason: Some("Evicted".into()), message: Some(message.into()), started: true, disrupted, ..pod("p") }
}

fn with(change: impl FnOnce(&mut PodFact), mut left: Results) -> Results {
    change(left.pods.first_mut().expect("a pod"));
    left
}

fn row(
    what: &'static str,
    left: Results,
    told: (&'static str, Option<&'static str>),
    follows: Follows,
    kind: Option<FailureKind>,
) -> Ending {
    Ending { what, end: backoff(), left, told, follows, kind }
}

fn failed(code: &'static str) -> (&'static str, Option<&'static str>) {
    ("StepFailed", Some(code))
}

fn disruption(code: &'static str) -> (&'static str, Option<&'static str>) {
    ("Disruption", Some(code))
}

fn deadline(pod: &mut PodFact) {
    pod.reason = Some("DeadlineExceeded".into());
}

fn of_program() -> Vec<Ending> {
    let ends = |what, code, exit_code, stopped_by| {
        row(what, told(code, exit_code, Program, stopped_by), failed(code), Counts, Some(FailureKind::ExitCode))
    };
    vec![
        ends("it exits", "ExitCode3", 3, None),
        ends("… with a code of the agent's", "ExitCode241", 241, None),
        ends("… as if it had been told to stop", "ExitCode143", 143, None),
        ends("it says why", "InvalidCourse", 65, None),
        ends("it says why, with a word of the agent's", "UploadFailed", 1, None),
        ends("it kills itself", "Signal15", 143, None),
        ends("it crashes", "Signal11", 139, None),
        ends("it stops its own container", "Terminated", 143, Some(StoppedBy::Inside)),
        ends("a writer was left behind", "WriterKilled", 1, None),
        row(
            "a word of a newer agent",
            told("Novel", 9, Unknown, None),
            failed("Novel"),
            Counts,
            Some(FailureKind::ExitCode),
        ),
        row(
            "it takes too long",
            with(deadline, told("Terminated", 143, Platform, Some(StoppedBy::Outside))),
            ("Timeout", None),
            Counts,
            Some(FailureKind::Timeout),
        ),
    ]
}

fn of_memory() -> Vec<Ending> {
    use FailureKind::{ExitCode, OomKilled};
    let killed = |what, code, exit_code, shown, kind| {
        let left = with(|pod| pod.exit = Some(exit(exit_code, "OOMKilled")), told(code, exit_code, Program, None));
        row(what, left, failed(shown), Counts, Some(kind))
    };
    vec![
        killed("the kernel kills it", "Signal9", 137, "OutOfMemory", OomKilled),
        killed("the kernel kills its child", "ExitCode137", 137, "OutOfMemory", OomKilled),
        killed("… and it says why", "TooLarge", 70, "TooLarge", ExitCode),
        row(
            "the kernel kills the whole container",
            pods(exited(137, "OOMKilled")),
            failed("OutOfMemory"),
            Counts,
            Some(OomKilled),
        ),
    ]
}

fn of_contract() -> Vec<Ending> {
    let ends = |what, code, exit_code| row(what, told(code, exit_code, Contract, None), failed(code), Ends, None);
    let gone = ("InputMissing", Some("InputMissing"));
    vec![
        ends("the command is not there", "CommandNotStarted", 127),
        ends("an output was not written", "OutputMissing", 243),
        ends("a file cannot be stored", "OutputRefused", 243),
        ends("too many files", "TooManyOutputFiles", 243),
        ends("what was emitted is no item", "InvalidItem", 243),
        row("the content is refused", left("CommitRefused", 240, Contract, None), failed("CommitRefused"), Ends, None),
        row("an input is gone", told("InputMissing", 242, PlatformForGood, None), gone, Ends, None),
        row(
            "an input is not what was stored",
            told("InputInvalid", 242, PlatformForGood, None),
            failed("InputInvalid"),
            Ends,
            None,
        ),
    ]
}

fn of_platform() -> Vec<Ending> {
    let passes = |what, code, left| row(what, left, failed(code), Passes, None);
    let refused = |reason: &str| PodFact { reason: Some(reason.into()), ..pod("p") };
    vec![
        passes("gateway or store refuse", "UploadFailed", told("UploadFailed", 241, Platform, None)),
        passes("… and there is only a word", "GatewayRefused", left("GatewayRefused", 240, Platform, None)),
        passes("the fence is closed", "Fenced", left("Fenced", 244, Platform, None)),
        passes("the agent cannot work", "SetUpFailed", told("SetUpFailed", 243, Ours, None)),
        passes("the kubelet refuses the pod", "NodeAffinity", pods(refused("NodeAffinity"))),
        passes("… because its node is short of disk", "Evicted", pods(refused("Evicted"))),
    ]
}

fn of_disruption() -> Vec<Ending> {
    let outside = Some(StoppedBy::Outside);
    let passes = |what, code, left| row(what, left, disruption(code), Passes, Some(FailureKind::Disruption));
    let disrupted = |left| with(|pod| pod.disrupted = true, left);
    let deleted = |left| with(|pod| pod.deleted = true, left);
    let own = |what, left| row(what, left, failed("Evicted"), Counts, Some(FailureKind::ExitCode));
    let told_to_stop = vec![reported("Terminated", 143, Platform, outside)];
    vec![
        passes("drained", "Terminated", disrupted(told("Terminated", 143, Platform, outside))),
        passes("… and it says why it stops", "Interrupted", disrupted(told("Interrupted", 75, Platform, outside))),
        passes("… while it failed by itself", "ExitCode3", disrupted(told("ExitCode3", 3, Program, None))),
        passes("preempted, and nothing is left of it", "Terminated", disrupted(pods(exited(137, "Error")))),
        passes("deleted by somebody", "Terminated", deleted(told("Terminated", 143, Platform, outside))),
        passes("… and killed before it could say so", "Terminated", deleted(pods(exited(137, "Error")))),
        passes("the node is short of disk", "Evicted", pods(evicted(true))),
        own("it wrote more than `workspace.size`", pods(evicted(false))),
        own("… and was told to stop for it", Results { failures: told_to_stop, ..pods(evicted(false)) }),
    ]
}

fn without_a_word() -> Vec<Ending> {
    use FailureKind::{ExitCode, Lost, OutputNotCommitted, StartTimeout, Timeout};
    let counts = |what, left, told, kind| row(what, left, told, Counts, Some(kind));
    let silent = |end: JobEnd, left: Results, told: &'static str, kind| Ending {
        end,
        ..row("nobody left a word", left, (told, None), Counts, Some(kind))
    };
    vec![
        counts("it exits, and the agent is dumb", pods(exited(240, "Error")), failed("ExitCode240"), ExitCode),
        counts("it is killed for an unknown reason", pods(exited(137, "Error")), failed("Signal9"), ExitCode),
        counts("the runtime cannot start it", pods(exited(128, "StartError")), failed("StartError"), StartTimeout),
        counts("its image cannot be pulled", pods(waits("ErrImagePull")), failed("ErrImagePull"), StartTimeout),
        counts("… in time", with(deadline, pods(waits("ImagePullBackOff"))), ("Timeout", None), Timeout),
        counts("the pod says nothing of its end", pods(pod("p")), ("StepFailed", None), StartTimeout),
        silent(JobEnd::Succeeded, pods(exited(0, "Completed")), "OutputNotCommitted", OutputNotCommitted),
        silent(JobEnd::Gone, Results::default(), "Lost", Lost),
        silent(backoff(), Results::default(), "Lost", Lost),
    ]
}

fn endings() -> Vec<Ending> {
    [of_program(), of_memory(), of_contract(), of_platform(), of_disruption(), without_a_word()].concat()
}

#[test]
fn whose_failure_it_was_decides_what_is_told_what_counts_and_what_follows() {
    let endings = endings();
    assert!(endings.len() >= 40, "{}", endings.len());
    for Ending { what, end, left, told, follows, kind } in endings {
        let (failure, cause) = of_step("import", &end, &left);
        assert_eq!((failure.reason.as_str(), failure.code.as_deref()), told, "{what}: {failure:?}");
        assert!(!failure.message.is_empty() && !failure.message.contains("  "), "{what}: {failure:?}");
        if let Some(kind) = kind {
            assert_eq!(cause.kind, Kind::Of(kind), "{what}");
        }
        let generous = Policy { limit: 1, ..Policy::default() };
        let found = match retry::next(&generous, cause, Spent::default(), 1) {
            Next::Again { counts: true, .. } => Counts,
            Next::Again { counts: false, .. } => Passes,
            Next::Over { .. } | Next::Exhausted { .. } => Ends,
        };
        assert_eq!(found, follows, "{what}: {cause:?}");
    }
}

#[test]
fn a_report_says_nothing_of_the_pod_that_came_after() {
    let drained =
        FailureFact { pod_uid: "first".into(), ..reported("Terminated", 143, Platform, Some(StoppedBy::Outside)) };
    let pod = |uid: &str, second| PodFact { uid: uid.into(), created: Some(at(second)), ..exited(3, "Error") };
    let both = Results {
        failures: vec![drained.clone()],
        pods: vec![pod("first", 1), pod("second", 9)],
        ..Results::default()
    };
    let kind = |left: &Results| of_step("import", &backoff(), left).1.kind;
    assert_eq!(kind(&both), Kind::Of(FailureKind::ExitCode));
    let gone = Results { pods: vec![pod("second", 9)], ..both };
    assert_eq!(kind(&gone), Kind::Of(FailureKind::Disruption), "the missing pod may have been the last");
}

/// All of them: no code of a program is taken for a word of ours, and no rule of an author for one about an agent.
#[test]
fn every_exit_code_is_its_programs_and_only_its_programs() {
    for code in 1..=255 {
        for left in [told("X", code, Program, None), left("X", code, Program, None), pods(exited(code, "Error"))] {
            let (failure, cause) = of_step("import", &backoff(), &left);
            assert_eq!(cause, retry::Cause { kind: Kind::Of(FailureKind::ExitCode), exit_code: Some(code) });
            assert_eq!(failure.exit_code, Some(code));
        }
        for by in [Contract, Platform, PlatformForGood, Ours] {
            let (failure, cause) = of_step("import", &backoff(), &told("X", code, by, None));
            assert_eq!((cause.exit_code, failure.exit_code), (None, None), "{by:?}");
        }
    }
}
