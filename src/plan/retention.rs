//! How long what a run gave back is kept: what the definition says, made dates when the run ends, and what is due.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::civil::Date;
use k8s_openapi::jiff::tz::TimeZone;
use serde_json::Value;

use super::decide::{Action, News, Plan, Verdict, later};
use super::definition::ValidatedDefinition;
use super::findings::Findings;
use super::keep;
use super::snapshot::Trouble;
use asynctask_api::AsyncTask;
use asynctask_api::definition::{OutputSpec, TaskDefinitionSpec};
use asynctask_api::outputs::{
    Gone, GoneWhy, HistoryParameters, KeepStatus, KeptUntil, OutputRetention, OutputStatus, Until, Visibility,
};
use asynctask_api::task::{AsyncTaskStatus, StepStatus};
use asynctask_contract::env::LOG_OUTPUT;

/// How long a download may be repeated where the definition does not say.
const WINDOW: Duration = Duration::from_secs(3600);
/// When what is kept for ever expires: a date that sorts after all others.
const FOREVER: &str = "9999-01-01T00:00:00Z";
/// Longest time between two looks: timers are not made for years.
const LOOK_AGAIN: Duration = Duration::from_secs(12 * 3600);
/// Between two looks at runs that need the results of one whose time is up.
const NEEDED_AGAIN: Duration = Duration::from_secs(60);

/// What a definition says of keeping and showing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Of each declared output.
    outputs: BTreeMap<String, Rule>,
    /// How long the AsyncTask is kept; absent: until it is deleted.
    pub(super) task: Option<Duration>,
    /// What is no output.
    pub(super) keep: Option<KeepStatus>,
}

impl Retention {
    /// How long an object is there at most after its end, as far as the definition says; `None`: it is deleted by hand only.
    pub(super) fn longest(&self) -> Option<Duration> {
        let forever = Duration::MAX;
        let of = |rule: &Rule| match &rule.keep {
            Keep::WithTask | Keep::UseOnce(_) => Duration::ZERO,
            Keep::For(span) => *span,
            Keep::Until(_) | Keep::UntilParameter(_) | Keep::Forever => forever,
        };
        let outputs = self.outputs.values().map(|rule| of(rule).max(rule.at_most.unwrap_or_default()));
        Some(outputs.fold(self.task?, Duration::max))
    }

    /// Whether the history has the parameters of runs.
    pub(super) fn records_parameters(&self) -> bool {
        !self.keep.as_ref().is_some_and(|keep| keep.history_parameters == Some(HistoryParameters::Drop))
    }
}

/// Who may see an output, and how long it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    visibility: Visibility,
    keep: Keep,
    /// How long after the end of the run a user may keep it.
    at_most: Option<Duration>,
}

/// How long an output is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Keep {
    /// As long as the AsyncTask.
    WithTask,
    /// Until one person has fetched it; they may do so again for this long.
    UseOnce(Duration),
    /// So long after the end of the run.
    For(Duration),
    /// To a date.
    Until(Timestamp),
    /// To the date in a parameter.
    UntilParameter(String),
    /// Until somebody deletes it.
    Forever,
}

// ---- what the definition says

/// Reads it; every violation is found.
pub(super) fn validate(spec: &TaskDefinitionSpec, findings: &mut Findings) -> Option<Retention> {
    let mut outputs = BTreeMap::new();
    for output in &spec.outputs {
        if let Some(rule) = rule(output, spec, findings) {
            outputs.insert(output.name.clone(), rule);
        }
    }
    let said = spec.retention.clone().unwrap_or_default();
    let task = findings.maybe_duration("retention.task", said.task.as_deref());
    let keep = keep::validate(&said, findings);
    let (task, keep) = (task?, keep?);
    (outputs.len() == spec.outputs.len()).then_some(Retention { outputs, task, keep })
}

fn rule(output: &OutputSpec, spec: &TaskDefinitionSpec, findings: &mut Findings) -> Option<Rule> {
    let visibility = output.visibility.unwrap_or_default();
    let Some(declared) = &output.retention else {
        return Some(Rule { visibility, keep: Keep::WithTask, at_most: None });
    };
    let field = format!("outputs[{}].retention", output.name);
    let keep = span(&field, declared, spec, findings);
    let at_most = findings.maybe_duration(format!("{field}.atMost"), declared.at_most.as_deref());
    if declared.at_most.is_some()
        && !matches!(keep, Some(Keep::For(_) | Keep::Until(_) | Keep::UntilParameter(_)) | None)
    {
        findings.plan(format!("{field}.atMost: says nothing beside useOnce and forever: leave it out"));
    }
    Some(Rule { visibility, keep: keep?, at_most: at_most? })
}

fn span(field: &str, declared: &OutputRetention, spec: &TaskDefinitionSpec, findings: &mut Findings) -> Option<Keep> {
    match (&declared.use_once, &declared.span, &declared.until, declared.forever) {
        (Some(once), None, None, None) => {
            findings.duration(format!("{field}.useOnce.window"), once.window.as_deref(), WINDOW).map(Keep::UseOnce)
        }
        (None, Some(span), None, None) => findings.maybe_duration(format!("{field}.for"), Some(span))?.map(Keep::For),
        (None, None, Some(until), None) => date(field, until, spec, findings),
        (None, None, None, Some(true)) => Some(Keep::Forever),
        _ => {
            findings.plan(format!(
                "{field}: say with exactly one of useOnce, for, until and forever: true how long it is kept"
            ));
            None
        }
    }
}

fn date(field: &str, until: &Until, spec: &TaskDefinitionSpec, findings: &mut Findings) -> Option<Keep> {
    match (&until.date, &until.parameter) {
        (Some(date), None) => Some(Keep::Until(date.0)),
        (None, Some(name)) => {
            let schema = spec.parameters.as_ref();
            let required = schema.and_then(|schema| schema.get("required")?.as_array());
            if required.is_none_or(|names| names.iter().all(|other| other != name.as_str())) {
                findings.plan(format!(
                    "{field}.until.parameter: a run may come without {name}, and nobody would know the date: declare it in \
                     `parameters.properties` and add it to `parameters.required`"
                ));
                return None;
            }
            Some(Keep::UntilParameter(name.clone()))
        }
        _ => {
            findings.plan(format!("{field}.until: name exactly one of date and parameter"));
            None
        }
    }
}

// ---- what a run makes of it

/// The dates that hang on the run's parameters.
///
/// # Errors
/// Every parameter that is no date.
pub(super) fn pinned(retention: &Retention, parameters: &Value) -> Result<Vec<KeptUntil>, Vec<String>> {
    let (mut dates, mut wrong) = (Vec::new(), Vec::new());
    for (output, rule) in &retention.outputs {
        let Keep::UntilParameter(name) = &rule.keep else { continue };
        let value = &parameters[name.as_str()];
        match value.as_str().and_then(moment) {
            Some(until) => dates.push(KeptUntil { output: output.clone(), until: Time(until) }),
            None => wrong.push(format!(
                "/{name}: {value} is not a date: output {output} is kept until then. Write 2027-01-31, or a time with its zone \
                 (RFC 3339) such as 2027-01-31T23:59:59+01:00"
            )),
        }
    }
    if wrong.is_empty() { Ok(dates) } else { Err(wrong) }
}

/// A time with its zone, or the beginning of a day in UTC. A time without a zone is rejected: it is ambiguous, and
/// the parser would read it as the start of its day.
#[must_use]
pub fn moment(text: &str) -> Option<Timestamp> {
    let is_date = text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    let day = || text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|start| start.timestamp());
    text.parse().ok().or_else(|| if is_date { day() } else { None })
}

/// Says of each output who may see it, as soon as it is there.
pub(super) fn describe(outputs: &mut [OutputStatus], retention: &Retention) {
    for output in outputs {
        let rule = retention.outputs.get(&output.name);
        output.visibility = match rule {
            Some(rule) => Some(rule.visibility),
            // A log helps the whole team.
            None if output.name == LOG_OUTPUT => Some(Visibility::Team),
            None => None,
        };
        output.use_once_seconds = match rule.map(|rule| &rule.keep) {
            Some(Keep::UseOnce(window)) => i64::try_from(window.as_secs()).ok(),
            _ => None,
        };
    }
}

/// The run has ended: from now on there are dates.
pub(super) fn ended(status: &mut AsyncTaskStatus, retention: &Retention, now: Timestamp) {
    let forever: Timestamp = FOREVER.parse().expect("invariant: FOREVER is a time");
    for output in &mut status.outputs {
        let Some(rule) = retention.outputs.get(&output.name) else { continue };
        let date = status.kept_until.iter().find(|kept| kept.output == output.name).map(|kept| kept.until.0);
        let expires = match &rule.keep {
            Keep::WithTask | Keep::UseOnce(_) => None,
            Keep::For(span) => Some(later(now, *span)),
            Keep::Until(date) => Some(*date),
            Keep::UntilParameter(_) => date,
            Keep::Forever => Some(forever),
        };
        // Of another run, where it was taken over from.
        output.gone = None;
        output.expires_at = expires.map(Time);
        output.extensible_to = rule.at_most.map(|most| Time(later(now, most)));
    }
    status.expires_at = retention.task.map(|span| Time(later(now, span)));
}

/// When an output is deleted; `None`: not before the AsyncTask is.
#[must_use]
pub fn expiry(task: &AsyncTask, output: &OutputStatus) -> Option<Timestamp> {
    let claims = task.status.as_ref().map(|status| status.claims.as_slice()).unwrap_or_default();
    if let Some(claim) = claims.iter().find(|claim| claim.output == output.name && output.use_once_seconds.is_some()) {
        return Some(claim.until.0);
    }
    let expires = output.expires_at.as_ref()?.0;
    let kept = task.spec.keep_until.as_ref().zip(output.extensible_to.as_ref());
    Some(kept.map_or(expires, |(until, most)| expires.max(until.0.min(most.0))))
}

/// Whether an output is not there any more, or will not be in a moment: somebody asked for its end, or its time is up.
#[must_use]
pub fn is_leaving(task: &AsyncTask, output: &OutputStatus, now: Timestamp) -> bool {
    let asked = task.status.iter().flat_map(|status| &status.deletions).any(|asked| asked.output == output.name);
    output.gone.is_some() || asked || expiry(task, output).is_some_and(|at| at <= now)
}

/// When the AsyncTask is deleted: when its own time and that of its outputs is up; `None`: never.
#[must_use]
pub fn end_of_task(task: &AsyncTask) -> Option<Timestamp> {
    let status = task.status.as_ref()?;
    let own = status.expires_at.as_ref()?.0;
    let there = status.outputs.iter().filter(|output| output.gone.is_none());
    Some(there.filter_map(|output| expiry(task, output)).fold(own, Timestamp::max))
}

/// Outputs that are to be deleted now, by name, and why.
#[must_use]
pub fn due(task: &AsyncTask, now: Timestamp) -> Vec<(String, Gone)> {
    let Some(status) = &task.status else { return Vec::new() };
    let mut due: BTreeMap<String, Gone> = BTreeMap::new();
    for output in status.outputs.iter().filter(|output| output.gone.is_none()) {
        let gone = |why, by: Option<&String>| Gone { at: Time(now), why, by: by.cloned() };
        let asked = status.deletions.iter().find(|deletion| deletion.output == output.name);
        let over = expiry(task, output).is_some_and(|at| at <= now);
        let claim = status.claims.iter().find(|claim| claim.output == output.name);
        let why = match (asked, claim) {
            (Some(asked), _) => gone(GoneWhy::Deleted, Some(&asked.user)),
            (None, Some(claim)) if over => gone(GoneWhy::Used, Some(&claim.user)),
            (None, _) if over => gone(GoneWhy::Expired, None),
            (None, _) => continue,
        };
        due.insert(output.name.clone(), why);
    }
    due.into_iter().collect()
}

/// Whether there is anything to do about a run that is over.
#[must_use]
pub fn is_due(task: &AsyncTask, now: Timestamp) -> bool {
    !due(task, now).is_empty() || end_of_task(task).is_some_and(|end| end <= now)
}

/// What is due of a run that is over and marked. `needed_by`: names of the runs that read its results where they are.
pub(super) fn plan(task: &AsyncTask, needed_by: &[String], now: Timestamp) -> Plan {
    let end = end_of_task(task);
    let trim = is_to_be_trimmed(task, now);
    let gone = due(task, now);
    let plan = if is_due(task, now) && !needed_by.is_empty() {
        return Plan::say(Verdict::Stays(needed(needed_by))).wake(later(now, NEEDED_AGAIN));
    } else if end.is_some_and(|end| end <= now) {
        // With the object goes all there is.
        let recorded = task.status.as_ref().is_some_and(|status| status.store.is_some());
        let record = recorded.then_some(Action::RecordExpiry);
        return Plan::act(record.into_iter().chain([Action::DeleteTask]).collect(), Verdict::Unchanged);
    } else if gone.is_empty() {
        Plan { news: News { trim, ..News::default() }, ..Plan::default() }
    } else {
        let outputs: BTreeSet<String> = gone.iter().map(|(name, _)| name.clone()).collect();
        Plan {
            actions: vec![Action::DeleteOutputs(outputs)],
            news: News { gone, trim, ..News::default() },
            ..Plan::default()
        }
    };
    match next(task, now) {
        Some(at) => plan.wake(at.min(later(now, LOOK_AGAIN))),
        None => plan,
    }
}

/// The next moment at which something is due.
fn next(task: &AsyncTask, now: Timestamp) -> Option<Timestamp> {
    let status = task.status.as_ref()?;
    let there = status.outputs.iter().filter(|output| output.gone.is_none());
    let own = status.expires_at.as_ref().map(|at| at.0);
    let all = there.filter_map(|output| expiry(task, output)).chain(end_of_task(task)).chain(own);
    all.filter(|at| *at > now).min()
}

pub(super) fn needed(by: &[String]) -> Trouble {
    const NAMED: usize = 5;
    let named: Vec<&str> = by.iter().take(NAMED).map(String::as_str).collect();
    let more = by.len().checked_sub(NAMED).filter(|more| *more > 0);
    let more = more.map(|more| format!(" and {more} more")).unwrap_or_default();
    Trouble {
        reason: "ResultsInUse",
        message: format!(
            "waits for the end of run {}{more}, which reads results of this one where they are (retryOf, or an output as \
             input): delete that first",
            named.join(", ")
        ),
    }
}

// ---- what is left when only outputs are

fn is_to_be_trimmed(task: &AsyncTask, now: Timestamp) -> bool {
    let status = task.status.as_ref();
    status.is_some_and(|status| status.expires_at.as_ref().is_some_and(|at| at.0 <= now) && !status.plan.is_empty())
}

/// Drops what only tells how it went: the history record has it. What leads to the outputs stays.
pub(super) fn trimmed(status: AsyncTaskStatus) -> AsyncTaskStatus {
    let step = |step: StepStatus| StepStatus {
        name: step.name,
        state: step.state,
        shards: step.shards,
        adopted: step.adopted,
        manifest: step.manifest,
        ..StepStatus::default()
    };
    let last = status.transitions.len().saturating_sub(1);
    AsyncTaskStatus {
        plan: Vec::new(),
        steps: status.steps.into_iter().map(step).collect(),
        transitions: status.transitions.into_iter().skip(last).collect(),
        failure: status.failure.map(|failure| asynctask_api::task::Failure { log_tail: None, ..failure }),
        ..status
    }
}

impl ValidatedDefinition {
    /// Who may see an output of this name.
    #[must_use]
    pub fn visibility(&self, output: &str) -> Visibility {
        match self.retention.outputs.get(output) {
            Some(rule) => rule.visibility,
            None if output == LOG_OUTPUT => Visibility::Team,
            None => Visibility::Owner,
        }
    }

    /// Of an output for one use: how long whoever claims it may fetch it again.
    #[must_use]
    pub fn use_once(&self, output: &str) -> Option<Duration> {
        match self.retention.outputs.get(output)?.keep {
            Keep::UseOnce(window) => Some(window),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::definition::validate as definition;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn spec(outputs: &Value, retention: &Value) -> TaskDefinitionSpec {
        let template = json!({"spec": {"containers": [{"name": "task", "image": "a:1", "command": ["/run"]}]}});
        serde_json::from_value(json!({
            "title": "Report", "steps": [{"name": "s", "template": template}], "outputs": outputs, "retention": retention,
            "parameters": {"type": "object", "required": ["end"], "properties": {"end": {}, "other": {}}},
        }))
        .expect("a definition")
    }

    fn output(retention: &Value) -> Value {
        json!({"name": "report", "step": "s", "path": "r", "retention": retention})
    }

    fn retention(outputs: &Value, task: &Value) -> Retention {
        definition(&spec(outputs, task)).expect("valid").retention
    }

    /// A run that ended at the beginning of 2026 with one file a declared output, and a log.
    fn ended_run(outputs: &Value, task: &Value, parameters: &Value) -> AsyncTask {
        let retention = retention(outputs, task);
        let names = outputs.as_array().expect("a list").iter().map(|output| output["name"].as_str().expect("a name"));
        let given =
            |name: &str| OutputStatus { name: name.into(), step: "s".into(), files: 1, ..OutputStatus::default() };
        let mut status = AsyncTaskStatus {
            state: Some(asynctask_api::TaskState::Complete),
            outputs: names.chain([LOG_OUTPUT]).map(given).collect(),
            kept_until: pinned(&retention, parameters).expect("dates"),
            ..AsyncTaskStatus::default()
        };
        describe(&mut status.outputs, &retention);
        ended(&mut status, &retention, at("2026-01-01T00:00:00Z"));
        serde_json::from_value(json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": "t"},
            "spec": {"definition": {"name": "d"}}, "status": status,
        }))
        .expect("a task")
    }

    fn status(task: &mut AsyncTask) -> &mut AsyncTaskStatus {
        task.status.as_mut().expect("a status")
    }

    /// What a plan deletes, in words.
    fn deletes(plan: &Plan) -> Vec<String> {
        let words = plan.actions.iter().map(|action| match action {
            Action::DeleteOutputs(names) => names.iter().cloned().collect::<Vec<_>>().join(","),
            Action::RecordExpiry => "recorded".to_owned(),
            Action::DeleteTask => "the task".to_owned(),
            other => format!("{other:?}"),
        });
        words.collect()
    }

    fn apply(task: &mut AsyncTask, plan: &Plan) {
        for output in &mut status(task).outputs {
            if let Some((_, gone)) = plan.news.gone.iter().find(|(name, _)| *name == output.name) {
                output.gone = Some(gone.clone());
            }
        }
        if plan.news.trim {
            let before = std::mem::take(status(task));
            *status(task) = trimmed(before);
        }
    }

    #[test]
    fn a_retention_says_one_thing() {
        let wrong = [
            (json!({}), "outputs[report].retention: say with exactly one of useOnce, for, until and forever"),
            (json!({"for": "1h", "forever": true}), "outputs[report].retention: say with exactly one"),
            (json!({"forever": false}), "outputs[report].retention: say with exactly one"),
            (json!({"for": "soon"}), "outputs[report].retention.for: \"soon\" is not a duration"),
            (json!({"useOnce": {"window": "0s"}}), "outputs[report].retention.useOnce.window: \"0s\" is not"),
            (json!({"useOnce": {}, "atMost": "2h"}), "outputs[report].retention.atMost: says nothing beside"),
            (json!({"until": {}}), "outputs[report].retention.until: name exactly one of date and parameter"),
            (
                json!({"until": {"parameter": "other"}}),
                "outputs[report].retention.until.parameter: a run may come without",
            ),
        ];
        for (declared, start) in wrong {
            let invalid = definition(&spec(&json!([output(&declared)]), &json!({}))).expect_err("a violation");
            let said: Vec<_> = invalid.violations.iter().map(|violation| violation.sentence.as_str()).collect();
            assert!(said.iter().any(|sentence| sentence.starts_with(start)), "{start}: {said:?}");
        }
    }

    #[test]
    fn each_output_has_its_own_date_and_the_task_the_last() {
        let outputs = json!([
            {"name": "for", "step": "s", "path": "a", "retention": {"for": "24h"}},
            {"name": "date", "step": "s", "path": "b", "retention": {"until": {"date": "2026-02-01T00:00:00Z"}}},
            {"name": "course", "step": "s", "path": "c", "retention": {"until": {"parameter": "end"}}},
            {"name": "plain", "step": "s", "path": "d"},
        ]);
        let task = ended_run(&outputs, &json!({"task": "720h"}), &json!({"end": "2026-06-30"}));
        let expiry_of = |name: &str| {
            let outputs = &task.status.as_ref().expect("a status").outputs;
            expiry(&task, outputs.iter().find(|output| output.name == name).expect("there"))
        };
        assert_eq!(expiry_of("for"), Some(at("2026-01-02T00:00:00Z")));
        assert_eq!(expiry_of("date"), Some(at("2026-02-01T00:00:00Z")));
        assert_eq!(expiry_of("course"), Some(at("2026-06-30T00:00:00Z")));
        assert_eq!((expiry_of("plain"), expiry_of("log")), (None, None));
        assert_eq!(end_of_task(&task), Some(at("2026-06-30T00:00:00Z")), "it outlives its own 30 days");
    }

    #[test]
    fn a_parameter_that_is_no_date_is_told() {
        let retention = retention(&json!([output(&json!({"until": {"parameter": "end"}}))]), &json!({}));
        for good in ["2026-06-30", "2026-06-30T12:00:00Z", "2026-06-30T12:00:00+02:00"] {
            assert!(pinned(&retention, &json!({"end": good})).is_ok(), "{good}");
        }
        let naive = ["2026-06-30T23:59:59", "2026-06-30T23:59", "2026-06-30 23:59:59", "2026-06-30t12", "2026-06-30 "];
        let naive = naive.map(|text| json!(text));
        for bad in [json!("June"), json!(7), json!(null), json!("2026-13-01")].into_iter().chain(naive) {
            let said = pinned(&retention, &json!({"end": bad})).expect_err("no date");
            assert!(said[0].starts_with("/end: ") && said[0].contains("output report"), "{said:?}");
        }
    }

    #[test]
    fn what_is_due_goes_and_the_rest_stays_until_its_time() {
        let outputs = json!([
            {"name": "a", "step": "s", "path": "a", "retention": {"for": "1h"}},
            {"name": "ab", "step": "s", "path": "b", "retention": {"for": "2h"}},
        ]);
        let mut task = ended_run(&outputs, &json!({"task": "3h"}), &json!({"end": ""}));
        let first = plan(&task, &[], at("2026-01-01T00:30:00Z"));
        assert_eq!((deletes(&first), first.wake_at), (vec![], Some(at("2026-01-01T01:00:00Z"))));
        let second = plan(&task, &[], at("2026-01-01T01:00:00Z"));
        assert_eq!(deletes(&second), ["a"], "a neighbour with the same beginning stays");
        apply(&mut task, &second);
        let again = plan(&task, &[], at("2026-01-01T01:00:00Z"));
        assert_eq!((deletes(&again), again.wake_at), (vec![], Some(at("2026-01-01T02:00:00Z"))), "nothing twice");
        assert_eq!(deletes(&plan(&task, &[], at("2026-01-01T03:00:00Z"))), ["the task"]);
    }

    #[test]
    fn what_is_kept_for_ever_holds_the_task_and_its_details_go() {
        let mut task = ended_run(&json!([output(&json!({"forever": true}))]), &json!({"task": "1h"}), &json!({}));
        let step = json!({"name": "s", "title": "S", "dependsOn": []});
        status(&mut task).plan = vec![serde_json::from_value(step).expect("a step")];
        let now = at("2100-01-01T00:00:00Z");
        let trims = plan(&task, &[], now);
        assert!(deletes(&trims).is_empty() && trims.news.trim);
        apply(&mut task, &trims);
        let rests = plan(&task, &[], now);
        assert!(rests.actions.is_empty() && !rests.news.trim, "{rests:?}");
        assert!(rests.wake_at.is_some_and(|at| at <= later(now, LOOK_AGAIN)));
        assert_eq!(status(&mut task).outputs.len(), 2);
    }

    #[test]
    fn a_user_keeps_it_longer_within_what_the_definition_allows() {
        let outputs = json!([output(&json!({"for": "1h", "atMost": "48h"}))]);
        let mut task = ended_run(&outputs, &json!({}), &json!({"end": ""}));
        let until = |task: &AsyncTask| expiry(task, &task.status.as_ref().expect("a status").outputs[0]);
        for (wanted, kept) in [
            ("2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"),
            ("2026-01-02T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("2027-01-01T00:00:00Z", "2026-01-03T00:00:00Z"),
        ] {
            task.spec.keep_until = Some(Time(at(wanted)));
            assert_eq!(until(&task), Some(at(kept)), "{wanted}");
        }
        let mut fixed = ended_run(&json!([output(&json!({"for": "1h"}))]), &json!({}), &json!({"end": ""}));
        fixed.spec.keep_until = Some(Time(at("2027-01-01T00:00:00Z")));
        assert_eq!(until(&fixed), Some(at("2026-01-01T01:00:00Z")));
    }

    #[test]
    fn what_was_claimed_goes_when_its_window_ends_and_is_told_with_the_user() {
        let mut task = ended_run(&json!([output(&json!({"useOnce": {"window": "10m"}}))]), &json!({}), &json!({}));
        assert!(plan(&task, &[], at("2027-01-01T00:00:00Z")).actions.is_empty(), "unclaimed it stays");
        let claim =
            json!({"output": "report", "user": "ada", "at": "2026-01-01T01:00:00Z", "until": "2026-01-01T01:10:00Z"});
        status(&mut task).claims = vec![serde_json::from_value(claim).expect("a claim")];
        assert!(plan(&task, &[], at("2026-01-01T01:09:59Z")).actions.is_empty());
        let goes = plan(&task, &[], at("2026-01-01T01:10:00Z"));
        assert_eq!(deletes(&goes), ["report"]);
        let (_, gone) = &goes.news.gone[0];
        assert_eq!((gone.why, gone.by.as_deref()), (GoneWhy::Used, Some("ada")));
    }

    #[test]
    fn what_somebody_deletes_goes_at_once_with_their_name() {
        let mut task = ended_run(&json!([output(&json!({"forever": true}))]), &json!({}), &json!({}));
        let deletion = json!({"output": "report", "user": "tom", "at": "2026-01-01T01:00:00Z"});
        status(&mut task).deletions = vec![serde_json::from_value(deletion).expect("a deletion")];
        let goes = plan(&task, &[], at("2026-01-01T01:00:01Z"));
        assert_eq!((deletes(&goes), goes.news.gone[0].1.by.as_deref()), (vec!["report".to_owned()], Some("tom")));
    }

    #[test]
    fn what_another_run_reads_waits_for_it() {
        let task = ended_run(&json!([output(&json!({"for": "1h"}))]), &json!({}), &json!({"end": ""}));
        let waits = plan(&task, &["again".to_owned()], at("2026-01-01T02:00:00Z"));
        assert!(waits.actions.is_empty());
        let Verdict::Stays(trouble) = &waits.news.verdict else { panic!("{waits:?}") };
        assert!(trouble.message.contains("run again"), "{trouble:?}");
    }
}
