//! From a step that fans out to the part of its Job that makes it one pod per shard.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::definition::ValidatedStep;
use super::fanout::FanOut;
use super::retry::{Codes, Policy, Rule};
use super::shards::ShardSet;
use asynctask_api::definition::{FailureKind, RetryAction};
use asynctask_api::names::{ANNOTATION_FAILED_BEFORE, ANNOTATION_SHARDS};
use asynctask_contract::env::CONTAINER;

/// Which shards a Job runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardRun {
    /// The shards, in the order of the Job's indexes; not empty.
    pub shards: ShardSet,
    /// How many there are in all.
    pub total: u32,
    /// How many have failed for good before.
    pub failed_before: u32,
}

impl ShardRun {
    /// All of them.
    #[must_use]
    pub fn whole(total: u32) -> Self {
        Self { shards: ShardSet::all(total), total, failed_before: 0 }
    }

    /// What the Job says of it; nothing when its indexes are the shards.
    pub(super) fn annotations(&self) -> Map<String, Value> {
        let mut annotations = Map::new();
        if self.shards.len() < self.total {
            annotations.insert(ANNOTATION_SHARDS.to_owned(), json!(self.shards.pack()));
            annotations.insert(ANNOTATION_FAILED_BEFORE.to_owned(), json!(self.failed_before.to_string()));
        }
        annotations
    }

    /// The fields of the Job's spec.
    pub(super) fn spec(&self, step: &ValidatedStep, fan_out: &FanOut) -> Map<String, Value> {
        let count = self.shards.len();
        let tolerated = u32::try_from(fan_out.shards.of(u64::from(self.total))).unwrap_or(u32::MAX);
        let spec = json!({
            "completionMode": "Indexed",
            "completions": count,
            "parallelism": fan_out.parallelism.min(count),
            "backoffLimitPerIndex": step.retry.limit,
            // One more ends the Job: whoever knows that the step has failed does not run the rest.
            "maxFailedIndexes": tolerated.saturating_sub(self.failed_before).min(count),
            "podFailurePolicy": {"rules": rules(&step.retry)},
        });
        match spec {
            Value::Object(spec) => spec,
            _ => unreachable!("a literal object"),
        }
    }
}

/// The author's rules as the Job controller knows them: by numbers alone. Whose failure a shard's last one was its report
/// says, and who was not to blame runs again in another Job.
fn rules(policy: &Policy) -> Vec<Value> {
    let authors = policy.rules.iter().flat_map(rule_of);
    authors.chain([json!({"action": "Ignore", "onPodConditions": on_disruption()})]).collect()
}

fn rule_of(rule: &Rule) -> Option<Value> {
    let action = match rule.action {
        RetryAction::Fail => "FailIndex",
        RetryAction::Retry => "Count",
        RetryAction::Ignore => "Ignore",
    };
    if rule.reasons.contains(&FailureKind::Disruption) {
        return Some(json!({"action": action, "onPodConditions": on_disruption()}));
    }
    let codes = codes(&rule.codes);
    (!codes.is_empty()).then(|| json!({"action": action, "onExitCodes": on_codes(codes)}))
}

fn codes(codes: &Codes) -> BTreeSet<i32> {
    (1..=255).filter(|code| !codes.is_empty() && codes.hold(Some(*code))).collect()
}

fn on_codes(codes: BTreeSet<i32>) -> Value {
    json!({"containerName": CONTAINER, "operator": "In", "values": codes})
}

fn on_disruption() -> Value {
    json!([{"type": "DisruptionTarget", "status": "True"}])
}
