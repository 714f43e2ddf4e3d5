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
    fn turn<'a>(&'a self, namespace: &'a str) -> Option<Turn<'a>> {
        let busy = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        busy().insert(namespace.to_owned()).then(|| Turn { busy: &self.0, namespace })
    }
}

struct Turn<'a> {
    busy: &'a Mutex<HashSet<String>>,
    namespace: &'a str,
}

impl Drop for Turn<'_> {
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
    let after = after.map(Place::read).transpose()?;
    let mut newest = Newest { limit: limit as usize, places: BTreeSet::new(), cut: false };
    let mut params = ListParams::default().limit(AT_ONCE).fields(selector);
    let mut seen = 0;
    let turn = gateway.sorting.turn(namespace).ok_or(Refusal::Crowded)?;
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
        let is_older = |place: &Place| after.as_ref().is_none_or(|after| place < after);
        listed.items.iter().map(Place::of).filter(is_older).for_each(|place| newest.add(place));
        params.continue_token = listed.metadata.continue_.filter(|next| !next.is_empty());
        if params.continue_token.is_none() {
            break;
        }
    }
    let next = newest.cut.then(|| newest.places.first().map(Place::text)).flatten();
    let names: Vec<String> = newest.places.into_iter().rev().map(|place| place.name).collect();
    let found = stream::iter(names).map(async |name| tasks.get_opt(&name).await.map_err(refused));
    // One that was deleted meanwhile is left out.
    let items = found.buffered(SIDE_BY_SIDE).try_filter_map(async |found| Ok(found)).try_collect().await?;
    drop(turn);
    Ok((items, next))
}

fn refused(source: kube::Error) -> Refusal {
    Refusal::Kube { act: "list AsyncTasks", source }
}

/// Where a task stands among others: by the second it was created in, then by name. Later is greater.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    created: i64,
    name: String,
}

impl Place {
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
    places: BTreeSet<Place>,
    /// Whether older ones were left out.
    cut: bool,
}

impl Newest {
    fn add(&mut self, place: Place) {
        self.places.insert(place);
        if self.places.len() > self.limit {
            self.places.pop_first();
            self.cut = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(created: i64, name: &str) -> Place {
        Place { created, name: name.into() }
    }

    #[test]
    fn of_all_the_newest_are_kept_and_the_next_page_begins_behind_them() {
        let all: Vec<Place> = (0..10).map(|n| place(100 + n / 2, &format!("t{n}"))).collect();
        let (mut told, mut after) = (Vec::new(), None::<Place>);
        loop {
            let mut newest = Newest { limit: 3, places: BTreeSet::new(), cut: false };
            let behind = all.iter().filter(|place| after.as_ref().is_none_or(|after| *place < after));
            behind.cloned().for_each(|place| newest.add(place));
            let end = newest.places.first().cloned().filter(|_| newest.cut);
            told.extend(newest.places.into_iter().rev().map(|place| place.name));
            match end {
                Some(end) => after = Some(Place::read(&end.text()).expect("its own word")),
                None => break,
            }
        }
        assert_eq!(told, ["t9", "t8", "t7", "t6", "t5", "t4", "t3", "t2", "t1", "t0"]);
    }

    #[test]
    fn of_each_namespace_one_goes_on() {
        let sorting = Sorting::default();
        let turn = sorting.turn("a").expect("free");
        assert!(sorting.turn("a").is_none() && sorting.turn("b").is_some());
        drop(turn);
        assert!(sorting.turn("a").is_some());
    }

    #[test]
    fn a_word_of_another_list_is_refused() {
        for word in ["", "x", "x.name", "eyJ2IjoibWV0YSJ9"] {
            assert!(matches!(Place::read(word), Err(Refusal::BadRequest(_))), "{word:?}");
        }
        assert_eq!(Place::read("7.a.b").ok(), Some(place(7, "a.b")), "a name may have dots");
    }
}
