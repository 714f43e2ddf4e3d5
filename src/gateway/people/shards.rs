//! What became of each shard of a step: from its sealed result, or before that from the records in the store.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use kube::ResourceExt;
use serde::Deserialize;

use super::readable::{read, store, taken_over};
use crate::Shared;
use crate::authorize::Access;
use crate::identity::Caller;
use crate::problem::Refusal;
use crate::request::{self, Filters, Names};
use crate::sealed::{Sealed, keys};
use asynctask_api::AsyncTask;
use asynctask_api::task::StepStatus;
use asynctask_contract::people::{Problem, ShardList, ShardState, ShardView};
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::StoreError;
use asynctask_storage::layout::{AttemptKind, StepKeys};
use asynctask_storage::records::{CommitRecord, FailureRecord, RECORD_MAX, SealedShard, decode};

/// Shards on a page where the caller does not say.
const PAGE: usize = 100;
/// Most shards on a page.
const PAGE_MAX: usize = 500;
/// Pages of keys read for one answer: the rest is for the next one.
const LISTS: usize = 10;

/// Which shards.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// The step; absent: the only one that fans out
    step: Option<String>,
    /// Only those in this state: `Succeeded` or `Failed`
    state: Option<String>,
    /// Most shards in the answer, 1 to 500; absent: 100
    limit: Option<usize>,
    /// From the answer before
    r#continue: Option<String>,
}

impl Wanted {
    fn failed(&self) -> Result<Option<bool>, Refusal> {
        match self.state.as_deref() {
            None => Ok(None),
            Some("Failed") => Ok(Some(true)),
            Some("Succeeded") => Ok(Some(false)),
            Some(_) => Err(Refusal::BadRequest("`state` must be Succeeded or Failed".into())),
        }
    }

    fn limit(&self) -> Result<usize, Refusal> {
        let limit = self.limit.unwrap_or(PAGE);
        let fits = (1..=PAGE_MAX).contains(&limit);
        fits.then_some(limit).ok_or_else(|| Refusal::BadRequest(format!("`limit` must be from 1 to {PAGE_MAX}")))
    }

    fn from(&self) -> Result<u32, Refusal> {
        let wrong = || Refusal::BadRequest("`continue` is not one this list gave".into());
        self.r#continue.as_deref().map_or(Ok(0), |text| text.parse().map_err(|_| wrong()))
    }
}

/// List shards
///
/// Needs the right to `get` `asynctasks`. In the order of their numbers, also while the step runs and when its pods are
/// gone.
#[utoipa::path(
    get, path = "/api/v1/namespaces/{namespace}/tasks/{name}/shards", tag = "tasks", operation_id = "listShards",
    params(
        ("namespace" = String, Path, description = "Namespace"), ("name" = String, Path, description = "Task"), Wanted
    ),
    responses((status = 200, body = ShardList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    State(gateway): State<Shared>,
    caller: Caller,
    Names((namespace, name)): Names<(String, String)>,
    Filters(wanted): Filters<Wanted>,
) -> Result<Json<ShardList>, Refusal> {
    let (namespace, name) = (request::namespace(&namespace)?, request::object(&name)?);
    gateway.authorizer.require(&caller, Access::task("get", namespace, name)).await?;
    let (failed, limit, from) = (wanted.failed()?, wanted.limit()?, wanted.from()?);
    let task = read(&gateway, namespace, name).await?.ok_or(Refusal::NotFound)?;
    let status = meant(&task, wanted.step.as_deref())?;
    let open = store(&gateway, &task).await?.ok_or(Refusal::NotFound)?;
    let (shards, next) = match Sealed::of(&gateway, &open, &task, status).await? {
        Some(sealed) => {
            let (shards, next) = sealed.some_shards(from, limit, failed).await?;
            (shards.into_iter().map(sealed_view).collect(), next)
        }
        None => {
            let keys = keys(&open, namespace, &task.uid().unwrap_or_default(), &status.name)?;
            let taken = taken_over(&gateway, &open, namespace, status).await?;
            live(&open, &keys, status, taken.as_ref(), &Page { from, limit, failed }).await?
        }
    };
    let next = next.map(|next| next.to_string());
    Ok(Json(ShardList { step: status.name.clone(), shards, next }))
}

/// The step that is asked for.
fn meant<'a>(task: &'a AsyncTask, wanted: Option<&str>) -> Result<&'a StepStatus, Refusal> {
    let steps = task.status.iter().flat_map(|status| &status.steps).filter(|step| step.shards.is_some());
    let mut fits = steps.filter(|step| wanted.is_none_or(|wanted| step.name == wanted));
    match (fits.next(), fits.next()) {
        (Some(only), None) => Ok(only),
        _ => {
            let shown: String = wanted.unwrap_or_default().chars().take(63).collect();
            let message =
                format!("`step` {shown:?} is not one step of this run that has shards: name one that fans out");
            Err(Refusal::invalid("UnknownStep", message))
        }
    }
}

fn sealed_view(shard: SealedShard) -> ShardView {
    let state = if shard.failure.is_some() { ShardState::Failed } else { ShardState::Succeeded };
    let failure = shard.failure;
    ShardView {
        shard: shard.shard,
        state,
        attempt: (shard.attempt > 0).then_some(shard.attempt),
        items: shard.items,
        code: failure.as_ref().map(|failure| failure.code.clone()),
        message: failure.as_ref().map(|failure| failure.message.clone()),
        exit_code: failure.and_then(|failure| failure.exit_code),
    }
}

/// Which part of a list.
struct Page {
    from: u32,
    limit: usize,
    failed: Option<bool>,
}

/// What pods have left of a shard.
#[derive(Default)]
struct Left {
    commit: Option<String>,
    failures: Vec<String>,
}

/// Shards of a step that is not over: what has been recorded by now.
async fn live(
    open: &OpenStore,
    keys: &StepKeys,
    status: &StepStatus,
    taken: Option<&Sealed<'_>>,
    page: &Page,
) -> Result<(Vec<ShardView>, Option<u32>), Refusal> {
    let total = status.shards.as_ref().and_then(|shards| u32::try_from(shards.total).ok()).unwrap_or(0);
    let end = total.min(page.from.saturating_add(u32::try_from(page.limit).unwrap_or(u32::MAX)));
    let (left, seen) = recorded(open, keys, page.from, end).await?;
    let taken = match taken {
        Some(sealed) => sealed.shards(page.from..seen).await?,
        None => Vec::new(),
    };
    // What gave a result in the run before is not run again.
    let taken = taken.into_iter().filter(|shard| shard.failure.is_none());
    let mut taken: BTreeMap<u32, ShardView> = taken.map(|shard| (shard.shard, sealed_view(shard))).collect();
    let mut shards = Vec::new();
    for shard in page.from..seen {
        let view = match taken.remove(&shard) {
            Some(view) => view,
            None => view(open, shard, left.get(&shard)).await?,
        };
        let fits = match page.failed {
            None => true,
            Some(false) => view.state == ShardState::Succeeded,
            // None has failed for good as long as its step may try it again.
            Some(true) => view.code.is_some(),
        };
        shards.extend(fits.then_some(view));
    }
    Ok((shards, (seen < total).then_some(seen)))
}

/// What is recorded of the shards of a range, and up to which of them that is known.
async fn recorded(
    open: &OpenStore,
    keys: &StepKeys,
    from: u32,
    end: u32,
) -> Result<(BTreeMap<u32, Left>, u32), Refusal> {
    let mut left: BTreeMap<u32, Left> = BTreeMap::new();
    // Keys are in the order of the shards; nothing sorts between this and the first one of the shard.
    let mut after = Some(keys.shard_prefix(from).as_str().to_owned());
    for _ in 0..LISTS {
        let page = open.store.list(keys.attempts_prefix(), after.as_deref(), 1000).await?;
        let mut last = from;
        for key in page.objects.iter().filter_map(|meta| Some((meta.key.clone(), keys.parse(&meta.key)?))) {
            let (name, key) = key;
            last = key.shard;
            if key.shard >= end {
                return Ok((left, end));
            }
            match key.kind {
                AttemptKind::Commit => drop(left.entry(key.shard).or_default().commit.get_or_insert(name)),
                AttemptKind::Failure => left.entry(key.shard).or_default().failures.push(name),
                AttemptKind::Log | AttemptKind::File { .. } | AttemptKind::Items { .. } => {}
            }
        }
        after = page.objects.last().map(|meta| meta.key.clone());
        if !page.more || after.is_none() {
            return Ok((left, end));
        }
        // The last shard may have more keys on the next page.
        if last > from {
            left.split_off(&last);
        }
    }
    let known = left.keys().next_back().map_or(from, |last| last + 1);
    Ok((left, known.max(from + 1).min(end)))
}

async fn view(open: &OpenStore, shard: u32, left: Option<&Left>) -> Result<ShardView, Refusal> {
    let blank = ShardView {
        shard,
        state: ShardState::Waiting,
        attempt: None,
        items: None,
        code: None,
        message: None,
        exit_code: None,
    };
    let Some(left) = left else { return Ok(blank) };
    if let Some(key) = &left.commit
        && let Some(record) = record::<CommitRecord>(open, key).await?
    {
        let (state, attempt, items) = (ShardState::Succeeded, Some(record.attempt), record.items);
        return Ok(ShardView { state, attempt, items, ..blank });
    }
    let mut newest: Option<FailureRecord> = None;
    for key in &left.failures {
        let found = record::<FailureRecord>(open, key).await?;
        newest = newest.into_iter().chain(found).max_by_key(|failure| failure.failed_at);
    }
    let Some(FailureRecord { attempt, report, .. }) = newest else { return Ok(blank) };
    let exit_code = report.programs_exit_code();
    Ok(ShardView { attempt: Some(attempt), code: Some(report.code), exit_code, message: Some(report.message), ..blank })
}

/// A record; `None` for what is none, or is gone by now.
pub(super) async fn record<T: serde::de::DeserializeOwned>(open: &OpenStore, key: &str) -> Result<Option<T>, Refusal> {
    match open.store.get_bytes(key, RECORD_MAX).await {
        Ok(bytes) => Ok(decode(&bytes).ok()),
        Err(StoreError::NotFound { .. } | StoreError::TooLarge { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
