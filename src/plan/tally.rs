//! What came of the shards of a fan-out, added up shard by shard: costs memory by intervals and kinds, never by shards.

use std::collections::BTreeMap;

use super::shards::ShardSet;
use asynctask_api::condition::cut;
use asynctask_api::task::{FailureCount, ItemsStatus};
use asynctask_contract::wire::{FailedBy, ItemCounts, REASONS};

/// Kinds of failure told apart while they are counted; a status shows the most frequent of them.
const KINDS: usize = 64;
/// Of them so many are shown.
const SHOWN: usize = 8;
/// Stands for kinds beyond [`KINDS`].
const OTHER: &str = "Other";
const CODE_MAX: usize = 63;
const MESSAGE_MAX: usize = 256;

/// What is known of one shard, once no pod of it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardFact {
    /// It gave its result.
    Committed {
        /// What became of its items.
        items: Option<ItemCounts>,
    },
    /// It gave none, and its last attempt said why.
    Failed {
        /// The author's word or ours.
        code: String,
        /// A sentence.
        message: String,
        /// Whose failure it was.
        failed_by: FailedBy,
    },
    /// It gave none, and nobody left a word.
    Silent,
}

/// The sum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Shards that gave their result.
    pub committed: u32,
    /// Shards whose program failed.
    pub failed: ShardSet,
    /// Shards that gave no result because something other than their program stood in the way.
    pub held_up: ShardSet,
    /// What stood in the way of the first of them.
    pub held_up_by: Option<String>,
    /// Shards that gave no result, and nobody left a word: they never ran, or ended without a commit.
    pub silent: ShardSet,
    /// What became of all items.
    pub items: ItemCounts,
    shards: BTreeMap<String, Kind>,
    reasons: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kind {
    count: u64,
    message: String,
}

impl Tally {
    /// Adds a shard. Shards come in ascending order, each once.
    pub fn add(&mut self, shard: u32, fact: ShardFact) {
        match fact {
            ShardFact::Committed { items } => {
                self.committed += 1;
                self.count(items.unwrap_or_default());
            }
            ShardFact::Silent => {
                self.silent.push(shard);
            }
            ShardFact::Failed { code, message, failed_by } => {
                match failed_by {
                    FailedBy::Platform | FailedBy::Agent => {
                        self.held_up.push(shard);
                        self.held_up_by.get_or_insert_with(|| cut(&format!("{code}: {message}"), MESSAGE_MAX));
                    }
                    FailedBy::Program | FailedBy::Contract | FailedBy::PlatformForGood | FailedBy::Unknown => {
                        self.failed.push(shard);
                    }
                }
                self.fail(&code, &message);
            }
        }
    }

    fn fail(&mut self, code: &str, message: &str) {
        let code = cut(code, CODE_MAX);
        let code = if self.shards.contains_key(&code) || self.shards.len() < KINDS { code } else { OTHER.to_owned() };
        let kind = self.shards.entry(code).or_default();
        kind.count += 1;
        if kind.message.is_empty() {
            kind.message = cut(message, MESSAGE_MAX);
        }
    }

    fn count(&mut self, items: ItemCounts) {
        self.items.attempted = self.items.attempted.saturating_add(items.attempted);
        self.items.failed = self.items.failed.saturating_add(items.failed);
        self.items.skipped = self.items.skipped.saturating_add(items.skipped);
        for (reason, count) in items.reasons {
            let known = self.reasons.contains_key(&reason) || self.reasons.len() < KINDS;
            let reason = if known { reason } else { OTHER.to_owned() };
            let sum = self.reasons.entry(reason).or_default();
            *sum = sum.saturating_add(count);
        }
    }

    /// Shards that gave no result.
    #[must_use]
    pub fn without_result(&self) -> u32 {
        self.failed.len() + self.held_up.len() + self.silent.len()
    }

    /// Shards that gave no result through no fault of their program.
    #[must_use]
    pub fn lost(&self) -> ShardSet {
        self.held_up.union(&self.silent)
    }

    /// What became of the items; `None` where there were none.
    #[must_use]
    pub fn items(&self) -> Option<ItemsStatus> {
        items_status(&self.items)
    }

    /// Equal failures, the most frequent first.
    #[must_use]
    pub fn failures(&self) -> Vec<FailureCount> {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let shards = self.shards.iter().map(|(code, kind)| FailureCount {
            code: code.clone(),
            shards: Some(number(kind.count)),
            items: None,
            message: kind.message.clone(),
        });
        let items = self.reasons.iter().map(|(reason, count)| FailureCount {
            code: reason.clone(),
            shards: None,
            items: Some(number(*count)),
            message: String::new(),
        });
        let mut all: Vec<FailureCount> = shards.chain(items).collect();
        // A shard that failed weighs more than an item.
        all.sort_by_key(|failure| std::cmp::Reverse((failure.shards.is_some(), failure.shards.or(failure.items))));
        all.truncate(SHOWN);
        all
    }
}

/// What became of items, as a status says it.
#[must_use]
pub fn items_status(items: &ItemCounts) -> Option<ItemsStatus> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let done = items.attempted.saturating_sub(items.failed).saturating_sub(items.skipped);
    (*items != ItemCounts::default()).then(|| ItemsStatus {
        attempted: number(items.attempted),
        succeeded: number(done),
        failed: number(items.failed),
        skipped: number(items.skipped),
    })
}

const _: () = assert!(REASONS <= SHOWN, "a pod tells no more reasons than a status shows");

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(code: &str, failed_by: FailedBy) -> ShardFact {
        ShardFact::Failed { code: code.into(), message: format!("{code} happened"), failed_by }
    }

    #[test]
    fn shards_are_counted_and_equal_failures_told_together() {
        let mut tally = Tally::default();
        let reasons = BTreeMap::from([("Bounced".to_owned(), 2)]);
        let items = ItemCounts { attempted: 10, failed: 2, skipped: 1, reasons };
        tally.add(0, ShardFact::Committed { items: Some(items) });
        tally.add(1, failed("InvalidEmail", FailedBy::Program));
        tally.add(2, failed("InvalidEmail", FailedBy::Contract));
        tally.add(3, failed("GatewayUnreachable", FailedBy::Platform));
        tally.add(4, ShardFact::Silent);
        assert_eq!((tally.committed, tally.without_result()), (1, 4));
        assert_eq!((tally.failed.to_string(), tally.lost().to_string()), ("1-2".into(), "3-4".into()));
        assert_eq!(tally.silent.to_string(), "4");
        let items = tally.items().expect("items");
        assert_eq!((items.attempted, items.succeeded, items.failed, items.skipped), (10, 7, 2, 1));
        let told: Vec<_> = tally.failures().into_iter().map(|f| (f.code, f.shards, f.items)).collect();
        assert_eq!(told[0], ("InvalidEmail".to_owned(), Some(2), None));
        assert_eq!(told[2], ("Bounced".to_owned(), None, Some(2)));
    }

    #[test]
    fn a_million_kinds_of_failure_cost_no_more_than_some() {
        let mut tally = Tally::default();
        for shard in 0..100_000 {
            tally.add(shard, failed(&format!("Code{shard}"), FailedBy::Program));
        }
        assert_eq!((tally.failures().len(), tally.shards.len()), (SHOWN, KINDS + 1));
        assert_eq!(tally.failures()[0].code, OTHER);
        assert_eq!(tally.failed.to_string(), "0-99999");
    }
}
