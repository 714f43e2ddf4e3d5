//! The promises, on a real cluster with the chart installed by helm. `tests/e2e/run.sh` boots it and calls these.
//!
//! Each test has namespaces of its own, which enforce the `restricted` profile, and people of its own: service accounts
//! with tokens, so that every request is authorized for real. Tests that stop or measure what all share are in [`serial`].
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod admission;
mod answers;
mod api;
mod away;
mod bad_input;
mod blame;
mod book;
mod budget;
mod chart;
mod component;
mod crowd;
mod deletion;
mod eviction;
mod harm;
mod held;
mod inside;
mod journey;
mod kueue;
mod ledger;
mod life;
mod outputs;
mod proxy;
mod queue;
mod races;
mod revisions;
mod serial;
mod signed;
mod spread;
mod stores;
mod support;
