//! Finding runs of the past: the records that the operator keeps in the store.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use kube::ResourceExt;
use serde::Deserialize;

use super::found::since;
use crate::Shared;
use crate::authorize::Access;
use crate::identity::Caller;
use crate::problem::Refusal;
use crate::request::{self, Filters, Names};
use crate::stores::stores;
use asynctask_api::OutputStore;
use asynctask_api::names::subresource::HISTORY;
use asynctask_contract::people::{PastRuns, Problem};
use asynctask_plan::stores::is_open;
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::StoreError;
use asynctask_storage::records::{HistoryRecord, RECORD_MAX, decode};

/// How far back is looked where the caller does not say.
const DAYS: i32 = 30;
/// How far back anybody can look: each month costs a listing.
const YEARS: i32 = 10;
/// Most records read for one answer.
const READS: usize = 200;
/// Keys listed at once.
const KEYS: usize = 200;

/// Which runs are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Of this owner.
    owner: Option<String>,
    /// Of this team.
    team: Option<String>,
    /// Of this definition.
    definition: Option<String>,
    /// That ended in this state.
    state: Option<String>,
    /// Created since this date or time (RFC 3339); absent: in the last 30 days.
    since: Option<String>,
    /// Where the page before ended.
    r#continue: Option<String>,
}

impl Wanted {
    fn fits(&self, record: &HistoryRecord, since: Timestamp) -> bool {
        let said = |field: &str| record.spec[field].as_str();
        let same =
            |wanted: &Option<String>, is: Option<&str>| wanted.as_deref().is_none_or(|wanted| is == Some(wanted));
        record.created_at >= since
            && same(&self.owner, said("owner"))
            && same(&self.team, said("team"))
            && same(&self.definition, record.spec["definition"]["name"].as_str())
            && same(&self.state, Some(&record.state))
    }
}

/// Find past runs
///
/// Needs the right to `list` `asynctasks/history` in the namespace. Records of runs that started, also of those whose objects are
/// gone; parameters are included. The newest month comes first, within it the names. A page may be empty and not the last.
/// A store that cannot be asked is named beside what the others hold.
#[utoipa::path(
    get, path = "/api/v1/namespaces/{namespace}/history", tag = "tasks", operation_id = "findHistory",
    params(("namespace" = String, Path, description = "Namespace"), Wanted),
    responses((status = 200, body = PastRuns), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    State(gateway): State<Shared>,
    caller: Caller,
    Names(namespace): Names<String>,
    Filters(wanted): Filters<Wanted>,
) -> Result<Json<PastRuns>, Refusal> {
    let namespace = request::namespace(&namespace)?;
    gateway.authorizer.require(&caller, Access::namespace("list", namespace).of(HISTORY)).await?;
    let now = Timestamp::now();
    let unsaid = || now.checked_sub((DAYS * 24).hours()).unwrap_or(Timestamp::MIN);
    let since = wanted.since.as_deref().map_or_else(|| Ok(unsaid()), since)?;
    let since = since.max(now.checked_sub((YEARS * 366 * 24).hours()).unwrap_or(Timestamp::MIN));
    let (all, labels) = stores(&gateway, namespace).await?;
    let open: BTreeMap<String, &OutputStore> =
        all.iter().filter(|store| is_open(store, &labels)).map(|store| (store.name_any(), store)).collect();
    let mut place = wanted.r#continue.as_deref().map(Place::read).transpose()?;
    let mut search = Search { namespace, wanted: &wanted, since, runs: Vec::new(), reads: 0, unread: 0 };
    let (count, mut away) = (open.len(), Vec::new());
    for (name, store) in open {
        if place.as_ref().is_some_and(|place| name < place.store) {
            continue;
        }
        let from = place.take().filter(|place| place.store == name);
        let found = match gateway.stores.open(store).await {
            Ok(store) => search.within(&store, now, from).await,
            Err(error) => Err(error.into()),
        };
        match found {
            Ok(Some((month, after))) => {
                let next = Place { store: name, month, after }.write();
                return Ok(Json(search.found(away, Some(next))));
            }
            Ok(None) => {}
            // The others have records too.
            Err(refusal @ (Refusal::Store(_) | Refusal::OpenStore(_))) => {
                tracing::warn!(store = name, error = %refusal, "a store cannot be asked for past runs, and is left out");
                away.push((name, refusal));
            }
            Err(refusal) => return Err(refusal),
        }
    }
    match away.pop() {
        // Nobody could be asked.
        Some((_, refusal)) if away.len() + 1 == count => Err(refusal),
        last => {
            away.extend(last);
            Ok(Json(search.found(away, None)))
        }
    }
}

/// Where a page ended: the last key that was looked at, below the folder of its month.
struct Place {
    store: String,
    /// First day of the month.
    month: Date,
    after: Option<String>,
}

impl Place {
    /// No part holds a `~`.
    fn write(&self) -> String {
        format!("{}~{}~{}", self.store, self.month, self.after.as_deref().unwrap_or_default())
    }

    fn read(text: &str) -> Result<Self, Refusal> {
        let read = || {
            let mut parts = text.splitn(3, '~');
            let (store, month, after) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
            let after = (!after.is_empty()).then(|| after.to_owned());
            Some(Self { store: store.to_owned(), month, after })
        };
        read().ok_or_else(|| Refusal::BadRequest("`continue` is not one this list gave".into()))
    }
}

struct Search<'a> {
    namespace: &'a str,
    wanted: &'a Wanted,
    since: Timestamp,
    runs: Vec<serde_json::Value>,
    reads: usize,
    /// Records that cannot be read.
    unread: usize,
}

impl Search<'_> {
    /// Looks into one store, month by month back to `since`. `Some`: enough was read, and that is where.
    async fn within(
        &mut self,
        open: &OpenStore,
        now: Timestamp,
        from: Option<Place>,
    ) -> Result<Option<(Date, Option<String>)>, Refusal> {
        let (mut month, mut after) = from.map_or((first_of(now), None), |place| (place.month, place.after));
        while month >= first_of(self.since) {
            let folder = open.layout.history_in(self.namespace, month.year(), month.month());
            let folder = folder.map_err(|_| Refusal::NotFound)?;
            let mut last = after.take().map(|below| format!("{folder}{below}"));
            loop {
                let page = open.store.list(&folder, last.as_deref(), KEYS).await?;
                for meta in page.objects {
                    if self.reads == READS {
                        let below = last.as_deref().and_then(|key| key.strip_prefix(folder.as_str()));
                        return Ok(Some((month, below.map(str::to_owned))));
                    }
                    if open.layout.parse_history(&meta.key).is_some() {
                        self.read(open, &meta.key).await?;
                    }
                    last = Some(meta.key);
                }
                if !page.more {
                    break;
                }
            }
            month = month.checked_sub(1.month()).map_err(|_| Refusal::NotFound)?;
        }
        Ok(None)
    }

    fn found(self, away: Vec<(String, Refusal)>, next: Option<String>) -> PastRuns {
        let unread =
            (self.unread > 0).then(|| format!("{} records cannot be read: the gateway's log names them", self.unread));
        let missing = away
            .into_iter()
            .map(|(store, why)| format!("OutputStore {store}: {}", why.sentence()))
            .chain(unread)
            .collect();
        PastRuns { runs: self.runs, missing, next }
    }

    async fn read(&mut self, open: &OpenStore, key: &str) -> Result<(), Refusal> {
        self.reads += 1;
        let record: HistoryRecord = match open.store.get_bytes(key, RECORD_MAX).await {
            Ok(bytes) => match decode(&bytes) {
                Ok(record) => record,
                Err(error) => {
                    tracing::warn!(key, error = %error, "a history record cannot be read, and is passed over");
                    self.unread += 1;
                    return Ok(());
                }
            },
            // Its time was up while we looked.
            Err(StoreError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if self.wanted.fits(&record, self.since) {
            let shown = serde_json::to_value(record).map_err(|error| Refusal::Defect(error.to_string()))?;
            self.runs.push(shown);
        }
        Ok(())
    }
}

fn first_of(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date().first_of_month()
}
