//! PID 1 of a task container: it wraps the author's command and hands the result to the gateway.
//!
//! ```text
//! assignment (the fence) ─► inputs, items ─► child ─► outputs + log ─► commit ─► exit 0
//!             progress, stage, item results, log ─┤
//!                  emitted items, shard by shard ─┴─► while the child runs
//! ```
//!
//! Invariants:
//! * exit code 0 means that the gateway acknowledged the commit;
//! * what is reported says whose failure it was, and never by a number;
//! * after SIGTERM a bare exit 0 of the program is no success, unless the program called `done`;
//! * a signed URL or a token never reaches a log line, an error or the termination message;
//! * memory does not grow with the size of inputs, outputs or logs, or with the number of items.
//!
//! The room imports `contract` only: no Kubernetes client, no store SDK.

mod assemble;
mod built_in;
mod child;
mod client;
mod cut;
mod door;
mod emit;
mod fetch;
pub mod helper;
mod inputs;
pub mod install;
mod items;
mod last_words;
mod layout;
mod log;
mod outputs;
mod progress;
mod report;
mod retry;
mod run;
mod signals;
mod spool;
mod stragglers;
mod upload;

pub use layout::Layout;
pub use run::run;

/// One line for whoever reads the pod's log. A closed stderr must not end the task.
pub(crate) fn notice(sentence: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "asynctask-agent: {sentence}");
}
