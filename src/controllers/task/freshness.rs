//! Whether a copy from the watch is as new as our own last write. Deciding on an older one repeats what was done: that
//! costs calls and harms nobody, so nobody waits for ever.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kube::ResourceExt;

use asynctask_api::AsyncTask;
use asynctask_runtime::client::SILENCE;

/// The versions we wrote last, and when, by UID, of objects whose watch has not caught up yet.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    written: Mutex<HashMap<String, (u64, Instant)>>,
}

impl Freshness {
    /// Notes the version that a write of ours gave the object.
    pub(super) fn wrote(&self, task: &AsyncTask) {
        if let (Some(uid), Some(version)) = (task.uid(), version(task)) {
            self.lock().insert(uid, (version, Instant::now()));
        }
    }

    /// Whether the copy is older than our last write, and the watch may still show that.
    pub(super) fn is_stale(&self, task: &AsyncTask) -> bool {
        self.is_stale_at(task, Instant::now())
    }

    fn is_stale_at(&self, task: &AsyncTask, now: Instant) -> bool {
        let (Some(uid), Some(seen)) = (task.uid(), version(task)) else { return false };
        let mut written = self.lock();
        match written.get(&uid) {
            // A watch that shows nothing for longer was begun again. What it shows then is what there is: an API server
            // that was restored from a backup counts from a smaller number.
            Some((ours, since)) if *ours > seen && now.duration_since(*since) < SILENCE => true,
            Some(_) => {
                written.remove(&uid);
                false
            }
            None => false,
        }
    }

    /// The object is gone.
    pub(super) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (u64, Instant)>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Versions of one resource are numbers that grow; a server where they are not gets no such check.
fn version(task: &AsyncTask) -> Option<u64> {
    task.resource_version().and_then(|version| version.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::{Freshness, SILENCE};
    use asynctask_api::AsyncTask;

    fn task(version: &str) -> AsyncTask {
        serde_json::from_value(json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask",
            "metadata": {"name": "a", "uid": "u", "resourceVersion": version},
            "spec": {"definition": {"name": "d"}},
        }))
        .expect("a task")
    }

    #[test]
    fn a_copy_older_than_our_write_is_stale_until_the_watch_catches_up() {
        let freshness = Freshness::default();
        assert!(!freshness.is_stale(&task("9")));
        freshness.wrote(&task("10"));
        assert!(freshness.is_stale(&task("9")));
        assert!(!freshness.is_stale(&task("11")));
        assert!(freshness.lock().is_empty(), "what caught up is forgotten");
        freshness.wrote(&task("no number"));
        assert!(!freshness.is_stale(&task("9")));
    }

    #[test]
    fn a_version_that_never_comes_is_not_waited_for_for_ever() {
        let freshness = Freshness::default();
        freshness.wrote(&task("10"));
        let wrote = Instant::now();
        assert!(freshness.is_stale_at(&task("9"), wrote + SILENCE / 2));
        assert!(!freshness.is_stale_at(&task("9"), wrote + SILENCE));
        assert!(!freshness.is_stale(&task("9")), "from then on it is believed");
    }
}
