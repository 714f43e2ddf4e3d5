//! Which store a run uses.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{ParseExpressionError, Selector, SelectorExt};

use asynctask_api::{OutputStore, condition};

/// Why a run has no store. The sentences do not tell a store that is closed to the namespace from one that does not
/// exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoStore {
    /// The definition names none, and no default is open to the namespace.
    #[error(
        "no default OutputStore is open to this namespace: ask an administrator for one, or name one in the definition's \
         `store`"
    )]
    NoDefault,
    /// The one named is not there, or not for this namespace.
    #[error("OutputStore {0:?} does not exist or is not open to this namespace: correct the definition's `store`")]
    Unknown(String),
    /// It cannot be used now.
    #[error("OutputStore {name:?} is not ready: {message}")]
    NotReady {
        /// Its name.
        name: String,
        /// What its condition `Ready` says.
        message: String,
    },
}

/// The store a run uses: the one the definition names, else of the defaults open to the namespace the oldest.
///
/// # Errors
/// There is none, or it is not Ready.
pub fn choose<'a>(
    stores: &'a [OutputStore],
    wanted: Option<&str>,
    namespace_labels: &BTreeMap<String, String>,
) -> Result<&'a OutputStore, NoStore> {
    let open = stores.iter().filter(|store| is_open(store, namespace_labels));
    let chosen = match wanted {
        Some(wanted) => open
            .into_iter()
            .find(|store| store.metadata.name.as_deref() == Some(wanted))
            .ok_or_else(|| NoStore::Unknown(wanted.to_owned()))?,
        None => {
            let defaults = open.filter(|store| store.spec.default && store.metadata.deletion_timestamp.is_none());
            defaults.min_by_key(|store| age(store)).ok_or(NoStore::NoDefault)?
        }
    };
    if is_ready(chosen) { Ok(chosen) } else { Err(not_ready(chosen)) }
}

/// Whether tasks of a namespace with these labels may use the store. A selector that cannot be read opens it to nobody.
#[must_use]
pub fn is_open(store: &OutputStore, namespace_labels: &BTreeMap<String, String>) -> bool {
    match &store.spec.namespaces {
        None => true,
        Some(wanted) => selector(wanted).is_ok_and(|selector| selector.matches(namespace_labels)),
    }
}

fn selector(wanted: &LabelSelector) -> Result<Selector, ParseExpressionError> {
    wanted.clone().try_into()
}

/// Ready, and being ready is said of the store as it is now. One that is being deleted takes no new run.
fn is_ready(store: &OutputStore) -> bool {
    store.metadata.deletion_timestamp.is_none()
        && store.status.as_ref().is_some_and(|status| {
            condition::is_true(&status.conditions, condition::READY)
                && status.observed_generation == store.metadata.generation
        })
}

fn not_ready(store: &OutputStore) -> NoStore {
    let conditions = store.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let message = conditions
        .iter()
        .find(|condition| condition.type_ == condition::READY && condition.status != "True")
        .map(|ready| ready.message.clone());
    let deleted = store.metadata.deletion_timestamp.is_some();
    let otherwise = if deleted { "it is being deleted" } else { "it has not been probed yet" };
    let message = message.unwrap_or_else(|| otherwise.to_owned());
    NoStore::NotReady { name: store.metadata.name.clone().unwrap_or_default(), message }
}

/// Oldest first; of equal age by name, so that every reader picks the same.
fn age(store: &OutputStore) -> (Option<k8s_openapi::jiff::Timestamp>, Option<&str>) {
    (store.metadata.creation_timestamp.as_ref().map(|time| time.0), store.metadata.name.as_deref())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::{NoStore, choose};
    use asynctask_api::OutputStore;

    fn store(name: &str, day: u32, default: bool, ready: &str, namespaces: Value) -> OutputStore {
        let mut store = json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "OutputStore",
            "metadata": {"name": name, "generation": 1, "creationTimestamp": format!("2026-01-{day:02}T00:00:00Z")},
            "spec": {"filesystem": {"folder": "a"}, "default": default},
            "status": {"observedGeneration": 1, "conditions": [{
                "type": "Ready", "status": ready, "reason": "R", "message": "the bucket is gone",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]},
        });
        if !namespaces.is_null() {
            store["spec"]["namespaces"] = namespaces;
        }
        serde_json::from_value(store).expect("a store")
    }

    fn name(chosen: Result<&OutputStore, NoStore>) -> Result<&str, NoStore> {
        chosen.map(|store| store.metadata.name.as_deref().expect("named"))
    }

    #[test]
    fn of_several_defaults_the_oldest_wins() {
        let stores = [
            store("new", 3, true, "True", Value::Null),
            store("old", 2, true, "True", Value::Null),
            store("other", 1, false, "True", Value::Null),
        ];
        assert_eq!(name(choose(&stores, None, &BTreeMap::new())), Ok("old"));
        assert_eq!(name(choose(&stores, Some("other"), &BTreeMap::new())), Ok("other"));
    }

    #[test]
    fn a_closed_store_looks_like_a_missing_one() {
        let closed = [store("a", 1, true, "True", json!({"matchLabels": {"team": "x"}}))];
        let labels = |team: &str| BTreeMap::from([("team".to_owned(), team.to_owned())]);
        assert_eq!(name(choose(&closed, Some("a"), &labels("x"))), Ok("a"));
        assert_eq!(choose(&closed, Some("a"), &labels("y")), choose(&[], Some("a"), &labels("y")));
        assert_eq!(choose(&closed, None, &labels("y")), Err(NoStore::NoDefault));
        let unreadable = [store("a", 1, true, "True", json!({"matchExpressions": [{"key": "k", "operator": "Like"}]}))];
        assert_eq!(choose(&unreadable, None, &labels("x")), Err(NoStore::NoDefault));
    }

    #[test]
    fn a_store_that_is_not_ready_says_why() {
        let down = [store("a", 1, true, "False", Value::Null)];
        let error = choose(&down, None, &BTreeMap::new()).expect_err("down").to_string();
        assert_eq!(error, r#"OutputStore "a" is not ready: the bucket is gone"#);
        let mut changed = store("a", 1, true, "True", Value::Null);
        changed.metadata.generation = Some(2);
        let error = choose(std::slice::from_ref(&changed), None, &BTreeMap::new()).expect_err("changed since");
        assert!(error.to_string().contains("not been probed yet"), "{error}");
    }

    #[test]
    fn a_store_that_is_being_deleted_takes_no_run_and_gives_way_to_the_next_default() {
        let mut stores = [store("a", 1, true, "True", Value::Null), store("b", 2, true, "True", Value::Null)];
        stores[0].metadata.deletion_timestamp = stores[0].metadata.creation_timestamp.clone();
        let chosen = choose(&stores, None, &BTreeMap::new()).expect("the next one");
        assert_eq!(chosen.metadata.name.as_deref(), Some("b"));
        let error = choose(&stores, Some("a"), &BTreeMap::new()).expect_err("it goes");
        assert!(error.to_string().contains("being deleted"), "{error}");
    }
}
