//! What the program is given before it starts: the inputs, and of a shard its items.

use std::path::{Path, PathBuf};

use super::fetch::{FetchError, Peers, Wanted, below, changed, look_again};
use super::items::count;
use asynctask_contract::wire::{InputSource, ItemsSource, SignedRequest, Work};

/// Fetches each input to its place below `folder`.
pub(crate) async fn fetch(peers: Peers<'_>, folder: &Path, work: &Work) -> Result<(), FetchError> {
    for input in &work.inputs {
        let wanted = Wanted {
            what: format!("the input {:?}", input.name),
            size: input.size,
            sha256: Some(input.sha256.clone()),
            source: input.source.clone(),
            place: place(folder, input)?,
            remedy: "upload it again",
        };
        peers.fetch(wanted, async |_| renew(peers, input).await).await?;
    }
    Ok(())
}

/// Fetches the items of a shard; answers how many there are.
pub(crate) async fn fetch_items(peers: Peers<'_>, place: &Path, items: &ItemsSource) -> Result<u64, FetchError> {
    let what = "the list of this shard's items";
    let wanted = Wanted {
        what: what.to_owned(),
        size: items.size,
        sha256: items.sha256.clone(),
        source: items.source.clone(),
        place: place.to_owned(),
        remedy: "run the task again",
    };
    let renew = async |_: &SignedRequest| {
        let fresh = look_again(peers.gateway).await?.shard.and_then(|shard| shard.items);
        let same = |fresh: &ItemsSource| (fresh.size, &fresh.sha256) == (items.size, &items.sha256);
        fresh.filter(same).map(|fresh| fresh.source).ok_or_else(changed)
    };
    peers.fetch(wanted, renew).await?;
    count(place.to_owned()).await.map_err(|source| FetchError::Write { what: what.to_owned(), source })
}

/// Where the input goes: below the folder of inputs and never out of it.
fn place(folder: &Path, input: &InputSource) -> Result<PathBuf, FetchError> {
    below(folder, input.path.as_ref().unwrap_or(&input.name))
}

async fn renew(peers: Peers<'_>, input: &InputSource) -> Result<SignedRequest, FetchError> {
    let fresh = look_again(peers.gateway).await?.inputs;
    let same =
        |fresh: &InputSource| (&fresh.name, &fresh.path, &fresh.sha256) == (&input.name, &input.path, &input.sha256);
    fresh.into_iter().find(same).map(|fresh| fresh.source).ok_or_else(changed)
}
