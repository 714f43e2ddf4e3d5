//! Reads what `why` speaks of, and nothing else. What may not be read is no error: the answer says so.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::cause::{Facts, JobFact, Known};
use super::cluster::{ClusterError, status};
use super::connect::Session;
use asynctask_api::condition::READY;
use asynctask_api::names::{KUEUE_QUEUE, LABEL_STEP, LABEL_TASK_UID};
use asynctask_api::{AsyncTask, TaskState};

/// What the state of the run asks for.
pub(crate) async fn facts(session: &Session, task: &AsyncTask) -> Result<Facts, ClusterError> {
    let mut facts = Facts::default();
    let Some(known) = &task.status else { return Ok(facts) };
    match known.state {
        Some(TaskState::Pending) if known.reason.as_deref() == Some("DefinitionNotReady") => {
            facts.definition = definition(session, task).await?;
        }
        Some(TaskState::Pending) => {
            if let Some(lease) = known.queue.as_ref().and_then(|queue| queue.lease.as_deref()) {
                facts.holder = holder(session, task, lease).await?;
            }
        }
        Some(TaskState::InProgress) => {
            let jobs = jobs(session, task).await?;
            if let Known::Is(jobs) = &jobs
                && let Some(job) = jobs.iter().find(|job| !is_active(job) && !is_over(job))
            {
                facts.refusal = refusal(session, job).await?;
            }
            facts.jobs = map(jobs, |jobs| jobs.iter().filter(|job| !is_over(job)).map(fact).collect());
        }
        _ => {}
    }
    Ok(facts)
}

/// A refusal to let somebody read is an answer of its own.
fn readable<T>(
    read: Result<T, kube::Error>,
    kinds: &'static str,
    act: impl Into<String>,
) -> Result<Known<T>, ClusterError> {
    match read {
        Ok(found) => Ok(Known::Is(found)),
        Err(error) if status(&error).is_some_and(|s| s.code == 403) => Ok(Known::Denied(kinds)),
        Err(error) => Err(ClusterError::new(act, error)),
    }
}

fn map<T, U>(known: Known<T>, change: impl FnOnce(T) -> U) -> Known<U> {
    match known {
        Known::Nothing => Known::Nothing,
        Known::Denied(kinds) => Known::Denied(kinds),
        Known::Is(found) => Known::Is(change(found)),
    }
}

fn flat<T>(known: Known<Option<T>>) -> Known<T> {
    match known {
        Known::Is(Some(found)) => Known::Is(found),
        Known::Is(None) | Known::Nothing => Known::Nothing,
        Known::Denied(kinds) => Known::Denied(kinds),
    }
}

async fn definition(session: &Session, task: &AsyncTask) -> Result<Known<String>, ClusterError> {
    let name = &task.spec.definition.name;
    let found = session.definitions().get_opt(name).await;
    let found = readable(found, "TaskDefinitions", format!("read TaskDefinition {name:?}"))?;
    let why = |found: Option<asynctask_api::TaskDefinition>| {
        let Some(definition) = found else { return Some("there is none of this name".to_owned()) };
        let conditions = definition.status.map(|s| s.conditions).unwrap_or_default();
        conditions.into_iter().find(|c| c.type_ == READY && c.status != "True").map(|c| c.message)
    };
    Ok(flat(map(found, why)))
}

/// Who holds a concurrency key: the Lease belongs to its holder.
async fn holder(session: &Session, task: &AsyncTask, name: &str) -> Result<Known<String>, ClusterError> {
    let leases: Api<Lease> = Api::namespaced(session.client.clone(), &session.namespace);
    let found = readable(leases.get_opt(name).await, "Leases", format!("read Lease {name:?}"))?;
    let other = |lease: Option<Lease>| {
        let lease = lease?;
        let uid = lease.spec.as_ref()?.holder_identity.clone()?;
        let owner = lease.owner_references().iter().find(|owner| owner.uid == uid)?;
        Some(owner.name.clone()).filter(|_| task.uid().as_ref() != Some(&uid))
    };
    Ok(flat(map(found, other)))
}

async fn jobs(session: &Session, task: &AsyncTask) -> Result<Known<Vec<Job>>, ClusterError> {
    let api: Api<Job> = Api::namespaced(session.client.clone(), &session.namespace);
    let params = ListParams::default().labels(&format!("{LABEL_TASK_UID}={}", task.uid().unwrap_or_default()));
    let found = api.list(&params).await.map(|list| list.items);
    readable(found, "Jobs", "list the Jobs of the run")
}

/// The Job controller's newest sentence about a pod it could not make.
async fn refusal(session: &Session, job: &Job) -> Result<Known<String>, ClusterError> {
    let api: Api<Event> = Api::namespaced(session.client.clone(), &session.namespace);
    let fields = format!("involvedObject.uid={},reason=FailedCreate", job.uid().unwrap_or_default());
    let found = api.list(&ListParams::default().fields(&fields)).await.map(|list| list.items);
    let found = readable(found, "Events", "list the Events of the run's Job")?;
    let at = |event: &Event| {
        let last = event.last_timestamp.as_ref().or(event.first_timestamp.as_ref()).map(|at| at.0);
        last.or(event.event_time.as_ref().map(|at| at.0))
    };
    Ok(flat(map(found, |events| events.into_iter().max_by_key(at).and_then(|event| event.message))))
}

fn is_active(job: &Job) -> bool {
    job.status.as_ref().and_then(|s| s.active).unwrap_or(0) > 0
}

fn is_over(job: &Job) -> bool {
    let mut conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.any(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

fn fact(job: &Job) -> JobFact {
    JobFact {
        step: job.labels().get(LABEL_STEP).cloned().unwrap_or_default(),
        queue: job.labels().get(KUEUE_QUEUE).cloned(),
        suspended: job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true),
        active: is_active(job),
    }
}

#[cfg(test)]
mod tests {
    use super::{Known, fact, is_over, readable};
    use k8s_openapi::api::batch::v1::Job;
    use kube::core::Status;
    use serde_json::json;

    #[test]
    fn a_right_that_is_missing_is_an_answer_and_a_broken_read_is_an_error() {
        let failed = |code: u16| Err::<(), _>(kube::Error::Api(Status::failure("no", "").with_code(code).boxed()));
        assert_eq!(readable(failed(403), "Events", "read").expect("an answer"), Known::Denied("Events"));
        assert!(readable(failed(500), "Events", "read").is_err());
    }

    #[test]
    fn of_a_job_its_queue_and_what_became_of_it_matter() {
        let labels = json!({"asynctask.dev/step": "import", "kueue.x-k8s.io/queue-name": "night"});
        let ended = json!([{"type": "Failed", "status": "True"}]);
        let job = |status| -> Job {
            let template = json!({"spec": {"containers": []}});
            let spec = json!({"suspend": true, "template": template});
            serde_json::from_value(json!({"metadata": {"labels": labels}, "spec": spec, "status": status}))
                .expect("a Job")
        };
        let held = job(json!({}));
        assert!(!is_over(&held) && is_over(&job(json!({"conditions": ended}))));
        let fact = fact(&held);
        assert_eq!((fact.step.as_str(), fact.queue.as_deref()), ("import", Some("night")));
        assert!(fact.suspended && !fact.active);
    }
}
