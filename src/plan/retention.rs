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
use super::snapshot::{Taker, Trouble};
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

/// What is due of a run that is over and marked. `takers`: the runs that read its results where they are.
pub(super) fn plan(task: &AsyncTask, takers: &[Taker], now: Timestamp) -> Plan {
    let is_over = end_of_task(task).is_some_and(|end| end <= now);
    let trim = is_to_be_trimmed(task, now);
    let (held, gone): (Vec<_>, Vec<_>) =
        due(task, now).into_iter().partition(|(name, _)| takers.iter().any(|taker| taker.reads(name)));
    let in_the_way = |taker: &&Taker| is_over || held.iter().any(|(name, _)| taker.reads(name));
    let in_the_way: Vec<&Taker> = takers.iter().filter(in_the_way).collect();
    let mut plan = if is_over && in_the_way.is_empty() {
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
    if !in_the_way.is_empty() {
        plan.actions.extend(taken(&held, &in_the_way));
        plan.news.verdict = Verdict::Stays(needed(&in_the_way));
        return plan.wake(later(now, NEEDED_AGAIN));
    }
    match next(task, now) {
        Some(at) => plan.wake(at.min(later(now, LOOK_AGAIN))),
        None => plan,
    }
}

/// What somebody deleted is deleted wherever it is shown, not only where it was made.
fn taken(held: &[(String, Gone)], takers: &[&Taker]) -> Vec<Action> {
    let deleted = held.iter().filter_map(|(output, gone)| match gone.why {
        GoneWhy::Deleted => Some((output, gone.by.as_deref().unwrap_or_default())),
        GoneWhy::Expired | GoneWhy::Used => None,
    });
    let of = |(output, user): (&String, &str)| {
        let showing = takers.iter().filter(|taker| taker.shows(output));
        let ask = |taker: &&Taker| Action::DeleteTaken {
            run: taker.name.clone(),
            output: output.clone(),
            user: user.to_owned(),
        };
        showing.map(ask).collect::<Vec<_>>()
    };
    deleted.flat_map(of).collect()
}

/// The next moment at which something is due.
fn next(task: &AsyncTask, now: Timestamp) -> Option<Timestamp> {
    let status = task.status.as_ref()?;
    let there = status.outputs.iter().filter(|output| output.gone.is_none());
    let own = status.expires_at.as_ref().map(|at| at.0);
    let all = there.filter_map(|output| expiry(task, output)).chain(end_of_task(task)).chain(own);
    all.filter(|at| *at > now).min()
}

pub(super) fn needed(by: &[&Taker]) -> Trouble {
    const NAMED: usize = 5;
    let named: Vec<&str> = by.iter().take(NAMED).map(|taker| taker.name.as_str()).collect();
    let more = by.len().checked_sub(NAMED).filter(|more| *more > 0);
    let more = more.map(|more| format!(" and {more} more")).unwrap_or_default();
    Trouble {
        reason: "ResultsInUse",
        message: format!(
            "waits for run {}{more}, which reads results of this one where they are (retryOf, or an output as input): what \
             it reads stays until that run has ended and its own outputs are gone",
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
mod tests;
