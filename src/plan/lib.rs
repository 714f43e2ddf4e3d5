//! PURE: from what was read to what is to be done and said. No client, no clock, no environment, no chance.
//!
//! ```text
//! Snapshot ─► decide::plan ─► Plan {actions, verdict, wake_at} ─► (effects) ─► Applied ─► status::status
//! ```
//! [`parameters`], [`stores`], [`names`] and [`definition`] are shared with the gateway and the command line, so that
//! all of them say the same about the same.

pub mod actor;
mod admit;
mod adopt;
pub mod agent;
mod attempt;
mod built_in;
pub mod cancel;
pub mod decide;
pub mod definition;
pub mod drain;
mod end;
mod failure;
pub mod fanout;
mod findings;
pub mod flow;
mod graph;
pub mod indexed;
pub mod inputs;
pub mod job;
pub mod keep;
mod life;
pub mod names;
pub mod parameters;
pub mod queue;
pub mod retention;
pub mod retry;
pub mod revision;
pub mod seal;
pub mod shards;
pub mod snapshot;
mod spread;
pub mod status;
mod steps;
pub mod stores;
pub mod tally;
mod template;
mod wait;

#[cfg(test)]
mod tests;
