//! Tasks by their age: the API server lists by name alone, so that all have to be looked at. Only what orders them is kept of
//! each, and never more than one page.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{DynamicObject, ListParams};
use kube::{Api, ResourceExt};

use crate::Gateway;
use crate::problem::Refusal;

/// Tasks of which the newest are looked for, and how many are read at once.
const MOST: usize = 20_000;
const AT_ONCE: u32 = 500;
/// Objects of the page that are fetched side by side.
const SIDE_BY_SIDE: usize = 8;

/// Namespaces whose tasks are being put in order: it is the dearest of all reads, and of each namespace only one goes on.
#[derive(Debug, Default)]
pub(crate) struct Sorting(Mutex<HashSet<String>>);

impl Sorting {
    /// Until it is dropped; `None`: another goes on.
    fn permit<'a>(&'a self, namespace: &'a str) -> Option<SortPermit<'a>> {
        let busy = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        busy().insert(namespace.to_owned()).then(|| SortPermit { busy: &self.0, namespace })
    }
}

struct SortPermit<'a> {
    busy: &'a Mutex<HashSet<String>>,
    namespace: &'a str,
}

impl Drop for SortPermit<'_> {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(self.namespace);
    }
}

/// The newest tasks that fit the selector, from behind the end of the page before on, and where this page ends.
///
/// # Errors
/// More tasks than anybody is to look at; a continue token that is none; what the API server says.
pub(super) async fn page(
    gateway: &Gateway,
    namespace: &str,
    tasks: &Api<DynamicObject>,
    selector: &str,
    limit: u32,
    after: Option<&str>,
) -> Result<(Vec<DynamicObject>, Option<String>), Refusal> {
    let after = after.map(SortKey::read).transpose()?;
    let mut newest = Newest { limit: limit as usize, keys: BTreeSet::new(), cut: false };
    let mut params = ListParams::default().limit(AT_ONCE).fields(selector);
    let mut seen = 0;
    let permit = gateway.sorting.permit(namespace).ok_or(Refusal::Crowded)?;
    loop {
        let listed = tasks.list_metadata(&params).await.map_err(refused)?;
        seen += listed.items.len();
        if seen > MOST {
            return Err(Refusal::invalid(
                "TooMany",
                format!(
                    "there are more than {MOST} such tasks to put in order: ask for one owner, definition or state"
                ),
            ));
        }
        let is_older = |key: &SortKey| after.as_ref().is_none_or(|after| key < after);
        listed.items.iter().map(SortKey::of).filter(is_older).for_each(|key| newest.add(key));
        params.continue_token = listed.metadata.continue_.filter(|next| !next.is_empty());
        if params.continue_token.is_none() {
            break;
        }
    }
    let next = newest.cut.then(|| newest.keys.first().map(SortKey::text)).flatten();
    let names: Vec<String> = newest.keys.into_iter().rev().map(|key| key.name).collect();
    let found = stream::iter(names).map(async |name| tasks.get_opt(&name).await.map_err(refused));
    // One that was deleted meanwhile is left out.
    let items = found.buffered(SIDE_BY_SIDE).try_filter_map(async |found| Ok(found)).try_collect().await?;
    drop(permit);
    Ok((items, next))
}

fn refused(source: kube::Error) -> Refusal {
    Refusal::Kube { act: "list AsyncTasks", source }
}

/// Where a task stands among others: by the second it was created in, then by name. Later is greater.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SortKey {
    created: i64,
    name: String,
}

impl SortKey {
    fn of(object: &impl ResourceExt) -> Self {
        Self { created: object.creation_timestamp().map_or(0, |at| at.0.as_second()), name: object.name_any() }
    }

    /// Where a page ended, for the caller to come back with.
    fn text(&self) -> String {
        format!("{}.{}", self.created, self.name)
    }

    fn read(text: &str) -> Result<Self, Refusal> {
        let wrong = || Refusal::BadRequest("`continue` is not one this list gave".into());
        let (created, name) = text.split_once('.').ok_or_else(wrong)?;
        Ok(Self { created: created.parse().map_err(|_| wrong())?, name: name.to_owned() })
    }
}

/// The newest so far.
struct Newest {
    limit: usize,
    keys: BTreeSet<SortKey>,
    /// Whether older ones were left out.
    cut: bool,
}

impl Newest {
    fn add(&mut self, key: SortKey) {
        self.keys.insert(key);
        if self.keys.len() > self.limit {
            self.keys.pop_first();
            self.cut = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(created: i64, name: &str) -> SortKey {
        SortKey { created, name: name.into() }
    }

    #[test]
    fn of_all_the_newest_are_kept_and_the_next_page_begins_behind_them() {
        let all: Vec<SortKey> = (0..10).map(|n| key(100 + n / 2, &format!("t{n}"))).collect();
        let (mut told, mut after) = (Vec::new(), None::<SortKey>);
        loop {
            let mut newest = Newest { limit: 3, keys: BTreeSet::new(), cut: false };
            let behind = all.iter().filter(|key| after.as_ref().is_none_or(|after| *key < after));
            behind.cloned().for_each(|key| newest.add(key));
            let end = newest.keys.first().cloned().filter(|_| newest.cut);
            told.extend(newest.keys.into_iter().rev().map(|key| key.name));
            match end {
                Some(end) => after = Some(SortKey::read(&end.text()).expect("its own word")),
                None => break,
            }
        }
        assert_eq!(told, ["t9", "t8", "t7", "t6", "t5", "t4", "t3", "t2", "t1", "t0"]);
    }

    #[test]
    fn of_each_namespace_one_goes_on() {
        let sorting = Sorting::default();
        let permit = sorting.permit("a").expect("free");
        assert!(sorting.permit("a").is_none() && sorting.permit("b").is_some());
        drop(permit);
        assert!(sorting.permit("a").is_some());
    }

    #[test]
    fn a_word_of_another_list_is_refused() {
        for word in ["", "x", "x.name", "eyJ2IjoibWV0YSJ9"] {
            assert!(matches!(SortKey::read(word), Err(Refusal::BadRequest(_))), "{word:?}");
        }
        assert_eq!(SortKey::read("7.a.b").ok(), Some(key(7, "a.b")), "a name may have dots");
    }
}
