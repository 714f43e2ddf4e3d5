//! How often the counts of shards are written: they move with every pod that ends, and nobody reads that fast.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use asynctask_api::AsyncTask;
use asynctask_api::state::StepState;

/// Between two writes that tell of nothing but counts.
const PAUSE: Duration = Duration::from_secs(1);

/// When the status of runs whose shards are at work was written last, by UID.
#[derive(Debug, Default)]
pub(super) struct Quiet(Mutex<HashMap<String, Timestamp>>);

impl Quiet {
    /// Notes a status write.
    pub(super) fn wrote(&self, task: &AsyncTask, now: Timestamp) {
        let (Some(uid), Some(status)) = (task.uid(), &task.status) else { return };
        let counts = status.steps.iter().any(|step| step.state == Some(StepState::Running) && step.shards.is_some());
        let mut written = self.lock();
        if counts {
            written.insert(uid, now);
        } else {
            written.remove(&uid);
        }
    }

    /// Until when counts are no news; `None`: they are now.
    pub(super) fn until(&self, uid: &str, now: Timestamp) -> Option<Timestamp> {
        let written = *self.lock().get(uid)?;
        // A clock that was set back keeps nobody quiet for longer.
        let until = written.min(now).checked_add(PAUSE).ok()?;
        (until > now).then_some(until)
    }

    /// The object is gone.
    pub(super) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::{SignedDuration, Timestamp};
    use serde_json::{Value, json};

    use super::Quiet;
    use asynctask_api::AsyncTask;

    fn task(step: &Value) -> AsyncTask {
        serde_json::from_value(json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": "a", "uid": "u"},
            "spec": {"definition": {"name": "d"}}, "status": {"steps": [step]},
        }))
        .expect("a task")
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_millis(millis)
    }

    #[test]
    fn counts_are_news_again_a_second_after_the_last_write() {
        let quiet = Quiet::default();
        let shards = json!({"total": 3, "active": 1, "succeeded": 0, "failed": 0});
        quiet.wrote(&task(&json!({"name": "send", "state": "Running", "shards": shards})), at(5000));
        assert_eq!(quiet.until("u", at(5000)), Some(at(6000)));
        assert_eq!(quiet.until("u", at(5999)), Some(at(6000)));
        assert_eq!(quiet.until("u", at(6000)), None);
        assert_eq!(quiet.until("other", at(5000)), None);
        assert_eq!(quiet.until("u", at(1000)), Some(at(2000)), "a clock set back");
    }

    #[test]
    fn runs_without_shards_at_work_are_not_remembered() {
        let quiet = Quiet::default();
        let shards = json!({"total": 3, "active": 1, "succeeded": 0, "failed": 0});
        quiet.wrote(&task(&json!({"name": "plan", "state": "Running"})), at(0));
        assert_eq!(quiet.until("u", at(1)), None);
        quiet.wrote(&task(&json!({"name": "send", "state": "Running", "shards": shards})), at(0));
        quiet.wrote(&task(&json!({"name": "send", "state": "Complete", "shards": shards})), at(1));
        assert!(quiet.lock().is_empty());
    }
}
