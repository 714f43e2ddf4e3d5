//! The promises, on a real cluster with the chart installed by helm. `tests/e2e/run.sh` boots it and calls these.
//!
//! Each test has namespaces of its own, which enforce the `restricted` profile, and people of its own: service accounts
//! with tokens, so that every request is authorised for real. Tests that stop the operator or the gateway hold
//! [`support::Cluster::alone`].
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod admission;
mod away;
mod bad_input;
mod budget;
mod canaries;
mod crash;
mod deletion;
mod expired;
mod flood;
mod inside;
mod journey;
mod ledger;
mod life;
mod memory;
mod outputs;
mod queue;
mod races;
mod revisions;
mod signed;
mod spread;
mod stores;
mod support;
mod transfer;
mod uploads;
