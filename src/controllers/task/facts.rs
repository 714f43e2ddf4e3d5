//! What counts about a Job.

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;

use asynctask_api::AsyncTask;
use asynctask_api::names::{
    ANNOTATION_FAILED_BEFORE, ANNOTATION_REVISION, ANNOTATION_SHARDS, LABEL_ATTEMPT, LABEL_STEP,
};
use asynctask_plan::shards::{InvalidShards, ShardSet};
use asynctask_plan::snapshot::{IndexFact, JobEnd, JobFact};

/// What counts about a Job.
pub(super) fn job_fact(job: &Job, task: &AsyncTask) -> JobFact {
    let owner = job.owner_references().iter().find(|owner| owner.controller == Some(true));
    let status = job.status.as_ref();
    let label = |key: &str| job.labels().get(key).cloned();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let end = conditions.iter().filter(|condition| condition.status == "True").find_map(|condition| {
        match condition.type_.as_str() {
            "Complete" => Some(JobEnd::Succeeded),
            "Failed" => Some(JobEnd::Failed {
                reason: condition.reason.clone().unwrap_or_default(),
                message: condition.message.clone().unwrap_or_default(),
            }),
            _ => None,
        }
    });
    let is = |type_: &str| conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True");
    JobFact {
        name: job.name_any(),
        uid: job.uid().unwrap_or_default(),
        ours: owner.is_some_and(|owner| Some(&owner.uid) == task.metadata.uid.as_ref()),
        revision: job.annotations().get(ANNOTATION_REVISION).cloned(),
        step: label(LABEL_STEP).unwrap_or_default(),
        attempt: label(LABEL_ATTEMPT).and_then(|text| text.parse().ok()).unwrap_or_default(),
        created: job.creation_timestamp().map(|time| time.0),
        started: status.and_then(|status| status.start_time.as_ref()).map(|time| time.0),
        // Also for the moment in which it has been let go on and its controller has not followed yet.
        suspended: job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or_default() || is("Suspended"),
        ready: status.and_then(|status| status.ready).unwrap_or_default() > 0,
        deleting: job.metadata.deletion_timestamp.is_some(),
        end,
        indexes: indexes(job),
    }
}

/// Of a Job with indexes. What cannot be read counts as nothing: what its pods left decides, not its numbers.
fn indexes(job: &Job) -> Option<IndexFact> {
    let spec = job.spec.as_ref().filter(|spec| spec.completion_mode.as_deref() == Some("Indexed"))?;
    let number = |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok()).unwrap_or_default();
    let readable = |set: Result<ShardSet, InvalidShards>| {
        set.unwrap_or_else(|error| {
            tracing::warn!(job = job.name_any(), namespace = job.namespace(), %error, "numbers of shards are unreadable");
            ShardSet::default()
        })
    };
    let status = job.status.as_ref();
    let shards = match job.annotations().get(ANNOTATION_SHARDS) {
        Some(packed) => readable(ShardSet::unpack(packed)),
        None => ShardSet::all(number(spec.completions)),
    };
    let failed = status.and_then(|status| status.failed_indexes.as_deref()).unwrap_or_default();
    let failed = shards.pick(&readable(failed.parse()));
    Some(IndexFact {
        shards,
        failed_before: job.annotations().get(ANNOTATION_FAILED_BEFORE).and_then(|text| text.parse().ok()).unwrap_or(0),
        active: number(status.and_then(|status| status.active)),
        succeeded: number(status.and_then(|status| status.succeeded)),
        failed,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::batch::v1::Job;
    use serde_json::{Value, json};

    use super::job_fact;
    use crate::task::watch::slim_job;
    use asynctask_api::AsyncTask;
    use asynctask_plan::snapshot::IndexFact;

    fn indexes(annotations: &Value, spec: &Value, status: &Value) -> Option<IndexFact> {
        let mut job: Job = serde_json::from_value(json!({
            "metadata": {"name": "j", "uid": "u", "annotations": annotations}, "spec": spec, "status": status,
        }))
        .expect("a Job");
        let task: AsyncTask = serde_json::from_value(json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": "a"},
            "spec": {"definition": {"name": "d"}},
        }))
        .expect("a task");
        let whole = job_fact(&job, &task);
        slim_job(&mut job);
        assert_eq!(job_fact(&job, &task), whole, "the copy tells as much as the whole");
        let kept = job.status.expect("a status");
        assert_eq!((kept.completed_indexes, kept.uncounted_terminated_pods), (None, None));
        whole.indexes
    }

    const TEMPLATE: &str = r#"{"spec": {"containers": [{"name": "task", "image": "i"}]}}"#;

    fn spec(completions: u32) -> Value {
        let template: Value = serde_json::from_str(TEMPLATE).expect("JSON");
        json!({"completionMode": "Indexed", "completions": completions, "template": template})
    }

    #[test]
    fn without_an_annotation_an_index_is_its_shard() {
        let status = json!({"active": 3, "succeeded": 4, "failedIndexes": "1,5-6", "completedIndexes": "0,2-4"});
        let fact = indexes(&json!({}), &spec(10), &status).expect("indexes");
        assert_eq!((fact.shards.to_string(), fact.failed.to_string()), ("0-9".into(), "1,5-6".into()));
        assert_eq!((fact.active, fact.succeeded, fact.failed_before), (3, 4, 0));
    }

    #[test]
    fn of_a_job_that_runs_the_rest_the_indexes_stand_for_the_shards_of_its_annotation() {
        let annotations = json!({"asynctask.dev/shards": "3,7-9", "asynctask.dev/failed-before": "2"});
        let fact = indexes(&annotations, &spec(4), &json!({"failedIndexes": "0,2"})).expect("indexes");
        assert_eq!((fact.shards.to_string(), fact.failed.to_string()), ("3,7-9".into(), "3,8".into()));
        assert_eq!(fact.failed_before, 2);
    }

    #[test]
    fn a_job_is_held_until_its_controller_lets_it_go_on() {
        let task: AsyncTask = serde_json::from_value(json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": "a"},
            "spec": {"definition": {"name": "d"}},
        }))
        .expect("a task");
        let held = |suspend: bool, said: Option<&str>| {
            let conditions: Vec<Value> =
                said.iter().map(|status| json!({"type": "Suspended", "status": status})).collect();
            let spec = json!({"suspend": suspend, "template": serde_json::from_str::<Value>(TEMPLATE).expect("JSON")});
            let job = json!({"metadata": {"name": "j"}, "spec": spec, "status": {"conditions": conditions}});
            job_fact(&serde_json::from_value(job).expect("a Job"), &task).suspended
        };
        assert!(held(true, None) && held(true, Some("True")));
        assert!(held(false, Some("True")), "admitted a moment ago");
        assert!(!held(false, Some("False")) && !held(false, None));
    }

    #[test]
    fn a_job_without_indexes_has_none_and_nonsense_counts_as_nothing() {
        let template: Value = serde_json::from_str(TEMPLATE).expect("JSON");
        assert_eq!(indexes(&json!({}), &json!({"template": template}), &json!({})), None);
        let annotations = json!({"asynctask.dev/shards": "x"});
        let fact = indexes(&annotations, &spec(2), &json!({"failedIndexes": "y"})).expect("indexes");
        assert_eq!(fact, IndexFact::default());
    }
}
