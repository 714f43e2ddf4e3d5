//! What a planner says it has emitted, against what it has stored.

use super::Desk;
use crate::problem::Refusal;
use asynctask_contract::wire::{Emitted, word};
use asynctask_plan::fanout::{MAX_ITEMS, MAX_SHARDS};
use asynctask_storage::layout::AttemptKind;

/// Whether a commit speaks of emitted items as it must: `per_shard` is how the step emits.
pub(super) fn check(per_shard: Option<u32>, said: Option<Emitted>) -> Result<(), String> {
    let (per_shard, Emitted { shards, items }) = match (per_shard, said) {
        (None, None) => return Ok(()),
        (None, Some(_)) => return Err("the step emits no items, and the commit speaks of some".into()),
        (Some(_), None) => return Err("the step emits items, and the commit does not say how many".into()),
        (Some(per_shard), Some(said)) => (per_shard, said),
    };
    if shards > MAX_SHARDS || items > MAX_ITEMS {
        return Err(format!(
            "{items} items in {shards} shards were emitted: at most {MAX_ITEMS} and {MAX_SHARDS} are possible"
        ));
    }
    let cut = items.div_ceil(u64::from(per_shard.max(1)));
    if cut != u64::from(shards) {
        return Err(format!("{items} items make {cut} shards of {per_shard}, not {shards}"));
    }
    Ok(())
}

/// Exactly these shards are in the store, none of them empty. Costs a byte of memory for each shard.
pub(super) async fn stored(desk: &Desk, said: Emitted) -> Result<(), Refusal> {
    let wrong = |message: String| Refusal::invalid(word::NOT_STORED, message);
    let mut missing = said.shards;
    let mut seen = vec![false; usize::try_from(said.shards).unwrap_or_default()];
    let mut after: Option<String> = None;
    loop {
        let page = desk.open.store.list(&desk.own.items_prefix(), after.as_deref(), 1000).await?;
        for object in &page.objects {
            let Some(AttemptKind::Items { number }) = desk.step.parse(&object.key).map(|key| key.kind) else {
                continue;
            };
            match seen.get_mut(usize::try_from(number).unwrap_or(usize::MAX)) {
                None => {
                    return Err(wrong(format!(
                        "shard {number} of the items is stored, and {} were emitted",
                        said.shards
                    )));
                }
                Some(_) if object.size == 0 => return Err(wrong(format!("shard {number} of the items is empty"))),
                Some(seen) => {
                    missing -= u32::from(!*seen);
                    *seen = true;
                }
            }
        }
        after = page.objects.into_iter().last().map(|last| last.key);
        if !page.more || after.is_none() {
            break;
        }
    }
    match seen.iter().position(|seen| !seen) {
        None => Ok(()),
        Some(first) => Err(wrong(format!(
            "{missing} of {} shards of items are not in the store, the first is number {first}: upload them before",
            said.shards
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_that_emits_speaks_of_items_and_they_are_cut_as_declared() {
        let said = |shards, items| Some(Emitted { shards, items });
        assert_eq!(check(None, None), Ok(()));
        assert_eq!(check(Some(100), said(0, 0)), Ok(()));
        assert_eq!(check(Some(100), said(1, 100)), Ok(()));
        assert_eq!(check(Some(100), said(2, 101)), Ok(()));
        assert_eq!(check(Some(500), said(MAX_SHARDS, MAX_ITEMS)), Ok(()));
        for (per_shard, wrong, part) in [
            (None, said(1, 1), "emits no items"),
            (Some(100), None, "does not say"),
            (Some(100), said(1, 101), "make 2 shards"),
            (Some(100), said(1, 0), "make 0 shards"),
            (Some(1), said(MAX_SHARDS + 1, u64::from(MAX_SHARDS) + 1), "at most"),
            (Some(1000), said(50_001, MAX_ITEMS + 1), "at most"),
        ] {
            let said = check(per_shard, wrong).expect_err("refused");
            assert!(said.contains(part), "{said}");
        }
    }
}
