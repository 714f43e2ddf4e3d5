//! Objects of a watch by what they have to do with: nobody looks through a whole copy to find a few.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event;

/// Objects of a kind by their keys. It is told of each event before the copy is, so it may name an object that the copy does
/// not show yet, or not so: whoever asks looks at the object as well.
pub(super) struct Index<K: Resource<DynamicType = ()>, Q> {
    keys_of: fn(&K) -> Vec<Q>,
    kept: Arc<Mutex<Kept<K, Q>>>,
}

struct Kept<K: Resource<DynamicType = ()>, Q> {
    objects: HashMap<Q, HashSet<ObjectRef<K>>>,
    keys: HashMap<ObjectRef<K>, Vec<Q>>,
    /// While a list is read: what was there before it and has not been in it yet.
    unseen: HashSet<ObjectRef<K>>,
}

impl<K: Resource<DynamicType = ()>, Q> Clone for Index<K, Q> {
    fn clone(&self) -> Self {
        Self { keys_of: self.keys_of, kept: Arc::clone(&self.kept) }
    }
}

impl<K: Resource<DynamicType = ()>, Q: Clone + Eq + Hash> Index<K, Q> {
    pub(super) fn new(keys_of: fn(&K) -> Vec<Q>) -> Self {
        let kept = Kept { objects: HashMap::new(), keys: HashMap::new(), unseen: HashSet::new() };
        Self { keys_of, kept: Arc::new(Mutex::new(kept)) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept<K, Q>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The objects that have this key.
    pub(super) fn get(&self, key: &Q) -> Vec<ObjectRef<K>> {
        self.kept().objects.get(key).into_iter().flatten().cloned().collect()
    }

    pub(super) fn see(&self, event: &Event<K>) {
        let mut kept = self.kept();
        match event {
            Event::Apply(object) | Event::InitApply(object) => {
                let object_ref = ObjectRef::from_obj(object);
                kept.unseen.remove(&object_ref);
                kept.set(object_ref, (self.keys_of)(object));
            }
            Event::Delete(object) => kept.set(ObjectRef::from_obj(object), Vec::new()),
            Event::Init => kept.unseen = kept.keys.keys().cloned().collect(),
            Event::InitDone => {
                for object in std::mem::take(&mut kept.unseen) {
                    kept.set(object, Vec::new());
                }
            }
        }
    }
}

impl<K: Resource<DynamicType = ()>, Q: Clone + Eq + Hash> Kept<K, Q> {
    fn set(&mut self, object: ObjectRef<K>, keys: Vec<Q>) {
        for key in self.keys.remove(&object).unwrap_or_default() {
            if let Some(objects) = self.objects.get_mut(&key) {
                objects.remove(&object);
                if objects.is_empty() {
                    self.objects.remove(&key);
                }
            }
        }
        if keys.is_empty() {
            return;
        }
        for key in &keys {
            self.objects.entry(key.clone()).or_default().insert(object.clone());
        }
        self.keys.insert(object, keys);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::batch::v1::Job;
    use kube::ResourceExt;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::Index;

    fn job(name: &str, labels: &[&str]) -> Job {
        let labels: serde_json::Map<_, _> = labels.iter().map(|label| ((*label).to_owned(), json!("x"))).collect();
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "studio", "labels": labels}}))
            .expect("a Job")
    }

    fn names(index: &Index<Job, String>, key: &str) -> Vec<String> {
        let mut names: Vec<String> = index.get(&key.to_owned()).into_iter().map(|object| object.name).collect();
        names.sort();
        names
    }

    #[test]
    fn an_object_is_found_by_the_keys_it_has_now() {
        let index = Index::new(|job: &Job| job.labels().keys().cloned().collect());
        index.see(&Event::Apply(job("a", &["red", "big"])));
        index.see(&Event::Apply(job("b", &["red"])));
        assert_eq!((names(&index, "red"), names(&index, "big")), (vec!["a".into(), "b".into()], vec!["a".into()]));
        index.see(&Event::Apply(job("a", &["big"])));
        index.see(&Event::Delete(job("b", &["red"])));
        assert_eq!((names(&index, "red"), names(&index, "big")), (Vec::new(), vec!["a".to_owned()]));
        // What vanished while nobody watched.
        index.see(&Event::Apply(job("c", &["red"])));
        index.see(&Event::Init);
        index.see(&Event::InitApply(job("c", &["red"])));
        assert_eq!(names(&index, "big"), ["a"], "it may be there until the list is whole");
        index.see(&Event::InitDone);
        assert_eq!((names(&index, "red"), names(&index, "big")), (vec!["c".to_owned()], Vec::new()));
        index.see(&Event::Delete(job("c", &[])));
        let kept = index.kept();
        assert!(kept.keys.is_empty() && kept.objects.is_empty(), "nothing is remembered of what is gone");
    }
}
