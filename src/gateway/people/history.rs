//! What became of a run, also when its object is gone: the records the operator keeps in the store.

use axum::Json;
use axum::extract::State;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use kube::Api;

use crate::authorize::Access;
use crate::identity::Caller;
use crate::problem::Refusal;
use crate::request::{self, Names};
use crate::stores::stores;
use crate::{Gateway, Shared};
use asynctask_api::AsyncTask;
use asynctask_api::names::subresource::HISTORY;
use asynctask_contract::people::{HistoryList, Problem};
use asynctask_plan::stores::is_open;
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::StoreError;
use asynctask_storage::records::{HistoryRecord, RECORD_MAX, decode};

/// Months looked into, this one included: a year back whatever day it is.
const MONTHS: usize = 13;
/// Most runs of one name that are told.
const RUNS: usize = 20;

/// Read the history of a task
///
/// Needs the right to `get` `asynctasks/history`. Runs of this name of the last 13 months, at most 20, also when their
/// objects are gone; parameters are included.
#[utoipa::path(
    get, path = "/api/v1/namespaces/{namespace}/tasks/{name}/history", tag = "tasks", operation_id = "readHistory",
    params(("namespace" = String, Path, description = "Namespace"), ("name" = String, Path, description = "Task")),
    responses((status = 200, body = HistoryList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn history(
    State(gateway): State<Shared>,
    caller: Caller,
    Names((namespace, name)): Names<(String, String)>,
) -> Result<Json<HistoryList>, Refusal> {
    let (namespace, name) = (request::namespace(&namespace)?, request::object(&name)?);
    gateway.authorizer.require(&caller, Access::task("get", namespace, name).of(HISTORY)).await?;
    let live = Api::<AsyncTask>::namespaced(gateway.client.clone(), namespace).get_opt(name).await;
    let live = live.map_err(|source| Refusal::Kube { act: "read an AsyncTask", source })?;
    let search = Search { namespace, name, months: months(Timestamp::now(), live.as_ref()) };
    let mut records = search.records(&gateway, live.as_ref()).await?;
    if records.is_empty() && live.is_none() {
        return Err(Refusal::NotFound);
    }
    records.sort_by_key(|record| std::cmp::Reverse(record.created_at));
    records.truncate(RUNS);
    let shown = |record| serde_json::to_value(record).map_err(|error| Refusal::Defect(error.to_string()));
    Ok(Json(HistoryList { runs: records.into_iter().map(shown).collect::<Result<_, _>>()? }))
}

/// First days of the months to look into, the newest first; of a task that is there also the one it was created in.
fn months(now: Timestamp, live: Option<&AsyncTask>) -> Vec<Date> {
    let month = |at: Timestamp| at.to_zoned(TimeZone::UTC).date().first_of_month();
    let mut months: Vec<Date> =
        std::iter::successors(Some(month(now)), |at| at.checked_sub(1.month()).ok()).take(MONTHS).collect();
    let created = live.and_then(|task| task.metadata.creation_timestamp.as_ref()).map(|created| month(created.0));
    months.extend(created.filter(|created| !months.contains(created)));
    months
}

/// Whose records are wanted, and from when.
struct Search<'a> {
    namespace: &'a str,
    name: &'a str,
    months: Vec<Date>,
}

impl Search<'_> {
    /// The records of a task that is there are in its store; else, and for earlier runs of its name, every store that is
    /// open to the namespace is looked into. Nothing says which: there are few.
    async fn records(&self, gateway: &Gateway, live: Option<&AsyncTask>) -> Result<Vec<HistoryRecord>, Refusal> {
        let pinned = live.and_then(|task| task.status.as_ref()?.store.as_ref());
        let mut found = Vec::new();
        if let Some(pinned) = pinned {
            found = self.within(&gateway.stores.by_ref(pinned).await?).await?;
        }
        if !found.is_empty() {
            return Ok(found);
        }
        let (stores, labels) = stores(gateway, self.namespace).await?;
        let mut unusable = None;
        for store in stores.iter().filter(|store| is_open(store, &labels)) {
            let looked = match gateway.stores.open(store).await {
                Ok(open) => self.within(&open).await,
                Err(error) => Err(error.into()),
            };
            match looked {
                Ok(more) => found.extend(more),
                Err(refusal) => unusable = Some(refusal),
            }
        }
        // They may be in the one that could not be asked.
        match unusable {
            Some(refusal) if found.is_empty() => Err(refusal),
            _ => Ok(found),
        }
    }

    async fn within(&self, open: &OpenStore) -> Result<Vec<HistoryRecord>, Refusal> {
        let (mut found, mut unread) = (Vec::new(), None);
        for month in &self.months {
            let folder = open.layout.history_of(self.namespace, month.year(), month.month(), self.name);
            let folder = folder.map_err(|_| Refusal::NotFound)?;
            let page = open.store.list(&folder, None, RUNS).await?;
            for object in page.objects.iter().filter(|object| open.layout.parse_history(&object.key).is_some()) {
                match open.store.get_bytes(&object.key, RECORD_MAX).await {
                    Ok(bytes) => match decode(&bytes) {
                        Ok(record) => found.push(record),
                        // One of a newer release, or damaged, hides no other.
                        Err(error) => {
                            tracing::warn!(key = object.key, error = %error, "a history record cannot be read, and is passed over");
                            unread = Some(error);
                        }
                    },
                    // Its time was up while we looked.
                    Err(StoreError::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if found.len() >= RUNS {
                break;
            }
        }
        match unread {
            Some(error) if found.is_empty() => Err(error.into()),
            _ => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_back_is_looked_into_whatever_day_it_is() {
        let months = months("2027-03-31T23:59:59Z".parse().expect("a time"), None);
        let spelt: Vec<String> = months.iter().map(|month| month.strftime("%Y-%m").to_string()).collect();
        assert_eq!(spelt.len(), 13);
        assert_eq!((spelt[0].as_str(), spelt[1].as_str(), spelt[12].as_str()), ("2027-03", "2027-02", "2026-03"));
    }
}
