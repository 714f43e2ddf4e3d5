//! The items of a shard: what the winning attempt of the planner has stored for it.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::declared::Declared;
use super::source::Source;
use super::{Attempt, Desk, attempt::not_yet};
use crate::identity::Agent;
use crate::problem::Refusal;
use crate::sealed::{Sealed, status_of};
use crate::{Gateway, Shared};
use asynctask_contract::wire::{ItemsSource, ShardWork, path};
use asynctask_storage::Meta;
use asynctask_storage::digest::Digest;

/// Which shard an attempt runs; `None`: the step is one pod.
pub(super) async fn work(
    gateway: &Gateway,
    desk: &Desk,
    attempt: &Attempt,
    declared: &Declared,
) -> Result<Option<ShardWork>, Refusal> {
    let Some(number) = attempt.shard else { return Ok(None) };
    let total =
        status_of(&attempt.task, &attempt.step).and_then(|step| step.shards.as_ref()).map(|shards| shards.total);
    let of = total.and_then(|total| u32::try_from(total).ok()).ok_or_else(not_yet)?;
    if number >= of {
        return Err(Refusal::Forbidden(format!("this pod is for shard {number}, and there are {of}")));
    }
    let items = match key(gateway, desk, attempt, declared).await? {
        None => None,
        Some(key) => {
            let Meta { size, sha256, .. } = desk.open.store.head(&key).await?;
            let source = Source::own(key).request(desk, || format!("{}/content", path::ITEMS)).await?;
            Some(ItemsSource { size, sha256: sha256.map(|digest| digest.to_string()), source })
        }
    };
    Ok(Some(ShardWork { number, of, items }))
}

/// Where the items of the attempt's shard are; `None`: it has none.
async fn key(
    gateway: &Gateway,
    desk: &Desk,
    attempt: &Attempt,
    declared: &Declared,
) -> Result<Option<String>, Refusal> {
    let (Some(number), Some(planner)) = (attempt.shard, declared.planner()) else { return Ok(None) };
    let sealed = Sealed::of_step(gateway, &desk.open, &attempt.task, &planner.name).await?;
    // Sealed before the Job of the shards was made.
    Ok(Some(sealed.ok_or_else(not_yet)?.winner()?.items(number)))
}

/// `GET /agent/v1/items/content`
pub(super) async fn content(
    State(gateway): State<Shared>,
    agent: Agent,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let attempt = gateway.attempts.recent(&agent.pod).await?;
    agent.trail.asks("read", attempt.what());
    attempt.require_open()?;
    let declared = Declared::of(&gateway, &attempt).await?;
    let desk = Desk::of(&gateway, &attempt).await?;
    let key = key(&gateway, &desk, &attempt, &declared).await?.ok_or(Refusal::NotFound)?;
    // Stores whose bytes pass through here know the digests; of others it only names the version.
    let digest = desk.open.store.head(&key).await?.sha256.unwrap_or_else(|| Digest::of(key.as_bytes()));
    Source::own(key).answer(&desk, digest, &headers).await
}
