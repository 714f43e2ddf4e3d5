//! What a fan-out counts: in the status, and nowhere by its single shards.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a planner emitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmittedStatus {
    /// Shards it cut the items into.
    pub shards: i64,
    /// Items.
    pub items: i64,
}

/// What became of the shards of a fan-out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardsStatus {
    /// How many there are.
    pub total: i64,
    /// Whose pod runs or is about to.
    pub active: i64,
    /// That gave their result.
    pub succeeded: i64,
    /// That will give none.
    pub failed: i64,
    /// Numbers of the failed ones as intervals, `3,7-9`; a long list is cut and ends in `…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub failed_indexes: Option<String>,
}

/// What became of items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ItemsStatus {
    /// Given to programs that gave a result.
    pub attempted: i64,
    /// Done.
    pub succeeded: i64,
    /// Called failed by the program.
    pub failed: i64,
    /// Skipped by the program.
    pub skipped: i64,
}

/// Equal failures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureCount {
    /// The author's word, or ours.
    #[schemars(length(max = 63))]
    pub code: String,
    /// Shards that failed so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<i64>,
    /// Items that failed so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<i64>,
    /// The message of the first one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub message: String,
}
