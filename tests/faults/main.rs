//! Faults, placed: the operator is crashed at every write, answers are lost, watches frozen, old views served.
//! `tests/faults/run.sh` boots a cluster and calls these; README.md says how a fault is placed and what is compared.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod absence;
mod component;
mod drain;
mod every_write;
mod fan_out;
mod ledger;
mod let_go;
mod lost_node;
mod operator;
mod oracle;
mod outage;
mod proxy;
mod rules;
mod scenario;
mod sealing;
mod site;
mod stale;
mod stand_in;
mod table;
mod takeover;

#[path = "../e2e/api.rs"]
mod api;
#[allow(dead_code, unreachable_pub, reason = "the end-to-end tests use the rest")]
#[path = "../e2e/support.rs"]
mod support;

#[path = "../support/seaweedfs.rs"]
mod seaweedfs;
