//! Which outputs of a run somebody sees, whether they are still there, and what is written down when somebody claims or
//! deletes one.
//!
//! Claims and deletions are decided by a write that is bound to the version that was read: of many who claim at once one
//! is first, whichever gateway they ask.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::readable::{Readable, read};
use crate::identity::{Caller, Person};
use crate::problem::Refusal;
use crate::{Gateway, Shared};
use asynctask_api::AsyncTask;
use asynctask_api::TaskState;
use asynctask_api::names::MANAGER_GATEWAY;
use asynctask_api::outputs::{Gone, GoneWhy, OutputClaim, OutputDeletion, OutputStatus, Visibility};
use asynctask_api::task::AsyncTaskStatus;
use asynctask_contract::env::LOG_OUTPUT;
use asynctask_plan::definition::ValidatedDefinition;
use asynctask_plan::retention::expiry;
use asynctask_runtime::client::is_status;

/// How long an output for one use is there after its last byte was sent through here, should its end not have arrived.
const AFTER_LAST_BYTE: Duration = Duration::from_secs(30);
/// Tries at a write that others are faster with.
const TRIES: usize = 20;

/// How near somebody is to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Near {
    /// Its owner, or one who may see all.
    Owner,
    /// A member of its team.
    Team,
    /// Anybody else who may see outputs here.
    Other,
}

impl Near {
    pub(super) fn of(task: &AsyncTask, person: &Person) -> Self {
        let team = task.spec.team.as_ref();
        if task.spec.owner.as_deref() == Some(person.user.as_str()) {
            Self::Owner
        } else if team.is_some_and(|team| person.groups.contains(team)) {
            Self::Team
        } else {
            Self::Other
        }
    }

    pub(super) fn sees(self, visibility: Visibility) -> bool {
        match visibility {
            Visibility::Owner => self == Self::Owner,
            Visibility::Team => self != Self::Other,
            Visibility::Namespace => true,
        }
    }
}

/// Who may see an output: as the run says, or, where it says nothing yet, as its definition does.
pub(super) fn visibility(task: &AsyncTask, definition: Option<&ValidatedDefinition>, output: &str) -> Visibility {
    if let Some(said) = known(task, output).and_then(|output| output.visibility) {
        return said;
    }
    let unsaid = if output == LOG_OUTPUT { Visibility::Team } else { Visibility::Owner };
    definition.map_or(unsaid, |definition| definition.visibility(output))
}

/// What the status says of an output. Of a log of several steps: of the first.
pub(super) fn known<'a>(task: &'a AsyncTask, output: &str) -> Option<&'a OutputStatus> {
    task.status.as_ref()?.outputs.iter().find(|known| known.name == output)
}

/// Why an output is not there any more, or will not be in a moment.
pub(super) fn gone(task: &AsyncTask, output: &str) -> Option<Gone> {
    if let Some(gone) = known(task, output).and_then(|output| output.gone.clone()) {
        return Some(gone);
    }
    let status = task.status.as_ref()?;
    if let Some(asked) = status.deletions.iter().find(|deletion| deletion.output == output) {
        return Some(Gone { at: asked.at.clone(), why: GoneWhy::Deleted, by: Some(asked.user.clone()) });
    }
    // From that second on, whether or not the operator has got to it.
    let expired =
        expiry(task, known(task, output)?).filter(|at| *at <= Timestamp::now() && claim(task, output).is_none());
    expired.map(|at| Gone { at: Time(at), why: GoneWhy::Expired, by: None })
}

fn require_there(task: &AsyncTask, output: &str) -> Result<(), Refusal> {
    let Some(Gone { at, why, by }) = gone(task, output) else { return Ok(()) };
    let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
    Err(Refusal::Gone(match why {
        GoneWhy::Expired => format!("output {output} was kept until {} and is deleted: run the task again", at.0),
        GoneWhy::Deleted => format!("output {output} was deleted{by} at {}: run the task again", at.0),
        GoneWhy::Used => format!("output {output} was for one use: it was fetched{by} and is deleted"),
    }))
}

/// The claim on an output that is for one use.
pub(super) fn claim<'a>(task: &'a AsyncTask, output: &str) -> Option<&'a OutputClaim> {
    task.status.as_ref()?.claims.iter().find(|claim| claim.output == output)
}

fn window(task: &AsyncTask, definition: Option<&ValidatedDefinition>, output: &str) -> Option<Duration> {
    let said = known(task, output).and_then(|output| output.use_once_seconds).and_then(|s| u64::try_from(s).ok());
    said.map(Duration::from_secs).or_else(|| definition?.use_once(output))
}

/// Whether the caller may have the bytes of an output now, without a claim of theirs being written down.
pub(super) fn require_readable(
    readable: &Readable,
    definition: Option<&ValidatedDefinition>,
    output: &str,
) -> Result<(), Refusal> {
    let task = &readable.task;
    if !readable.near.sees(visibility(task, definition, output)) {
        return Err(Refusal::NotFound);
    }
    require_there(task, output)?;
    if window(task, definition, output).is_none() {
        return Ok(());
    }
    match claim(task, output) {
        Some(claim) if is_theirs(claim, &readable.user, Timestamp::now()) => Ok(()),
        Some(claim) => Err(taken(claim)),
        None => Err(Refusal::Conflict {
            word: "ClaimFirst",
            message: format!(
                "output {output} is for one use: a POST to this path claims it for you (kubectl asynctask outputs get \
                 does that). Reading it does not use it up"
            ),
        }),
    }
}

fn is_theirs(claim: &OutputClaim, user: &str, now: Timestamp) -> bool {
    claim.user == user && now < claim.until.0
}

fn taken(claim: &OutputClaim) -> Refusal {
    Refusal::Gone(format!(
        "output {} is for one use and was claimed by {} at {}: run the task again",
        claim.output, claim.user, claim.at.0
    ))
}

/// Claims an output that is for one use; of any other nothing is written. The same user may claim it again within its
/// window, should a download break off.
pub(super) async fn claim_for(
    gateway: &Gateway,
    caller: &Caller,
    readable: &mut Readable,
    definition: Option<&ValidatedDefinition>,
    output: &str,
) -> Result<(), Refusal> {
    for _ in 0..TRIES {
        match require_readable(readable, definition, output) {
            Err(Refusal::Conflict { word: "ClaimFirst", .. }) => {}
            decided => return decided,
        }
        let Some(window) = window(&readable.task, definition, output) else { return Ok(()) };
        require_over(&readable.task)?;
        let now = Timestamp::now();
        let until = now.checked_add(window).unwrap_or(Timestamp::MAX);
        let claim = OutputClaim {
            output: output.to_owned(),
            user: caller.person.user.clone(),
            at: Time(now),
            until: Time(until),
        };
        let mut claims = status(&readable.task).claims.clone();
        claims.push(claim);
        caller.trail.asks("claim", format!("asynctasks/outputs {}/{}", readable.namespace, readable.task.name_any()));
        write(gateway, readable, &json!({"claims": claims})).await?;
    }
    Err(busy())
}

/// An output for one use that is one file, claimed by who asks for it. Where its bytes pass through here its window ends
/// soon after the last of them; whoever gets a URL of the store has the window.
pub(super) struct Once {
    readable: Readable,
    output: String,
}

impl Once {
    pub(super) fn of(readable: Readable, output: &str) -> Option<Self> {
        let known = known(&readable.task, output)?;
        let claimed = claim(&readable.task, output).is_some_and(|claim| claim.user == readable.user);
        (claimed && known.use_once_seconds.is_some() && known.files == 1)
            .then(|| Self { output: output.to_owned(), readable })
    }

    /// All of it was sent. If that cannot be written down the window ends when it would have.
    pub(super) async fn used_up(self, gateway: Shared) {
        let Self { mut readable, output } = self;
        let until = Timestamp::now().checked_add(AFTER_LAST_BYTE).unwrap_or(Timestamp::MAX);
        for _ in 0..TRIES {
            let mut claims = status(&readable.task).claims;
            match claims.iter_mut().find(|claim| claim.output == output && claim.user == readable.user) {
                Some(claim) if claim.until.0 > until => claim.until = Time(until),
                _ => return,
            }
            if let Err(refusal) = write(&gateway, &mut readable, &json!({"claims": claims})).await {
                let task = readable.task.name_any();
                tracing::warn!(namespace = readable.namespace, task, output, error = %refusal,
                    "an output for one use was sent, and stays until its window ends");
                return;
            }
        }
    }
}

/// Writes down that an output is to be deleted. Saying it twice is saying it once.
pub(super) async fn delete(
    gateway: &Gateway,
    caller: &Caller,
    readable: &mut Readable,
    definition: Option<&ValidatedDefinition>,
    output: &str,
) -> Result<(), Refusal> {
    for _ in 0..TRIES {
        if !readable.near.sees(visibility(&readable.task, definition, output)) {
            return Err(Refusal::NotFound);
        }
        let gone = known(&readable.task, output).ok_or(Refusal::NotFound)?.gone.is_some();
        let asked = status(&readable.task).deletions.iter().any(|asked| asked.output == output);
        // One whose time is up may still be kept longer: who deletes it wants it gone.
        if gone || asked {
            return Ok(());
        }
        require_over(&readable.task)?;
        let status = status(&readable.task);
        let done =
            |deletion: &OutputDeletion| known(&readable.task, &deletion.output).is_none_or(|it| it.gone.is_some());
        let mut deletions: Vec<OutputDeletion> = status.deletions.iter().filter(|it| !done(it)).cloned().collect();
        let (output, user) = (output.to_owned(), caller.person.user.clone());
        deletions.push(OutputDeletion { output, user, at: Time(Timestamp::now()) });
        write(gateway, readable, &json!({"deletions": deletions})).await?;
    }
    Err(busy())
}

fn status(task: &AsyncTask) -> AsyncTaskStatus {
    task.status.clone().unwrap_or_default()
}

fn busy() -> Refusal {
    Refusal::NotYet("the task is being written by others at this moment: send it again".into())
}

fn require_over(task: &AsyncTask) -> Result<(), Refusal> {
    if task.status.as_ref().and_then(|status| status.state).is_some_and(TaskState::is_terminal) {
        return Ok(());
    }
    let message = "the run has not ended: its outputs are claimed and deleted when it has, ask again then".into();
    Err(Refusal::Conflict { word: "NotEnded", message })
}

/// Only the version that was read; then, whoever has written, the task is read anew and looked at again.
async fn write(gateway: &Gateway, readable: &mut Readable, part: &Value) -> Result<(), Refusal> {
    let (task, name) = (&readable.task, readable.task.name_any());
    let patch = json!({
        "metadata": {"uid": task.uid(), "resourceVersion": task.resource_version()},
        "status": part,
    });
    let params = PatchParams { field_manager: Some(MANAGER_GATEWAY.to_owned()), ..PatchParams::default() };
    let tasks = Api::<AsyncTask>::namespaced(gateway.client.clone(), &readable.namespace);
    readable.task = match tasks.patch_status(&name, &params, &Patch::Merge(patch)).await {
        Ok(written) => written,
        Err(error) if is_status(&error, 409) => {
            let uid = readable.task.uid();
            let read = read(gateway, &readable.namespace, &name).await?;
            read.filter(|live| live.uid() == uid).ok_or(Refusal::NotFound)?
        }
        Err(source) => return Err(Refusal::Kube { act: "write down who has an output", source }),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn task(status: &Value) -> AsyncTask {
        serde_json::from_value(json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask",
            "metadata": {"name": "t", "namespace": "ns"},
            "spec": {"definition": {"name": "d"}, "owner": "ada", "team": "course"}, "status": status,
        }))
        .expect("a task")
    }

    fn person(user: &str, groups: &[&str]) -> Person {
        let groups = groups.iter().map(ToString::to_string).collect();
        Person { user: user.into(), groups, ..Person::default() }
    }

    fn readable(user: &str, groups: &[&str], status: &Value) -> Readable {
        let task = task(status);
        let near = Near::of(&task, &person(user, groups));
        Readable { task, namespace: "ns".into(), near, user: user.into() }
    }

    fn with(visibility: &str) -> Value {
        json!({"state": "Complete", "outputs": [
            {"name": "report", "step": "s", "files": 1, "size": 1, "visibility": visibility},
        ]})
    }

    #[test]
    fn who_sees_an_output_hangs_on_who_they_are_to_the_run() {
        let table = [("ada", [true, true, true]), ("tom", [false, true, true]), ("eve", [false, false, true])];
        for (user, sees) in table {
            let groups: &[&str] = if user == "tom" { &["course"] } else { &["other"] };
            for (visibility, sees) in ["Owner", "Team", "Namespace"].into_iter().zip(sees) {
                let answer = require_readable(&readable(user, groups, &with(visibility)), None, "report");
                assert_eq!(answer.is_ok(), sees, "{user} {visibility}");
                assert!(sees || matches!(answer, Err(Refusal::NotFound)), "as if it were not there");
            }
        }
    }

    #[test]
    fn what_nothing_is_said_of_is_the_owners_and_a_log_the_teams() {
        let status = json!({"state": "Complete"});
        let tom = readable("tom", &["course"], &status);
        assert!(require_readable(&tom, None, "report").is_err());
        assert!(require_readable(&tom, None, "log").is_ok());
    }

    #[test]
    fn a_claim_lets_its_user_in_until_its_window_ends_and_nobody_else() {
        let once = |until: &str| {
            json!({"state": "Complete",
                "outputs": [{"name": "report", "step": "s", "files": 1, "size": 1, "visibility": "Namespace", "useOnceSeconds": 60}],
                "claims": [{"output": "report", "user": "ada", "at": "2026-01-01T00:00:00Z", "until": until}]})
        };
        let open = once("9000-01-01T00:00:00Z");
        assert!(require_readable(&readable("ada", &[], &open), None, "report").is_ok());
        let other = require_readable(&readable("eve", &[], &open), None, "report").expect_err("taken");
        assert!(other.to_string().contains("claimed by ada"), "{other}");
        let over = once("2026-01-01T00:01:00Z");
        assert!(require_readable(&readable("ada", &[], &over), None, "report").is_err());
    }

    #[test]
    fn what_was_deleted_is_told_with_who_and_when() {
        let mut status = with("Owner");
        status["deletions"] = json!([{"output": "report", "user": "tom", "at": "2026-01-01T00:00:00Z"}]);
        let told = require_readable(&readable("ada", &[], &status), None, "report").expect_err("gone").to_string();
        assert!(told.contains("deleted by tom at 2026-01-01T00:00:00Z"), "{told}");
        let told = require_readable(&readable("eve", &[], &status), None, "report");
        assert!(matches!(told, Err(Refusal::NotFound)), "who may not see it is told nothing");
    }
}
