//! The budgets, measured: ours beside what Kubernetes does without us, in turns, in the same run. `tests/bench/run.sh`
//! boots a cluster of its own and calls this; `make bench` builds all of it with optimisations before.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod around;
mod audit;
mod burst;
mod document;
mod fan_out;
mod figures;
mod gateway;
mod idle;
mod memory;
mod process;
mod site;
mod sizes;
mod stand_in;
mod work;

#[allow(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../e2e/api.rs"]
mod api;
#[allow(dead_code, unreachable_pub, unused_imports, reason = "the end-to-end tests use the rest")]
#[path = "../e2e/support.rs"]
mod support;

#[allow(dead_code, reason = "the fault tests use the rest")]
#[path = "../faults/operator.rs"]
mod operator;

#[path = "../support/seaweedfs.rs"]
mod seaweedfs;

use crate::figures::{Figures, regressions};
use crate::site::Site;
use crate::sizes::wanted;

/// A part of the bench.
type Part = fn(&Site, &mut Figures);

#[test]
#[ignore = "takes most of an hour on a machine of its own: make bench"]
fn the_budgets_are_measured() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let site = Site::new(&runtime);
    let mut figures = Figures::default();
    // What fills the cluster comes last.
    let parts: [(&str, Part); 5] = [
        ("idle", idle::measure),
        ("burst", burst::measure),
        ("fan-out", fan_out::measure),
        ("gateway", gateway::measure),
        ("memory", memory::measure),
    ];
    for (name, part) in parts.into_iter().filter(|(name, _)| wanted(name)) {
        println!("== {name}");
        part(&site, &mut figures);
        figures.save(&document::last_run());
    }
    println!("\n{}", figures.table());
    let regressions = regressions(&figures, &document::baseline());
    assert!(
        regressions.is_empty(),
        "worse than the baseline:\n{}\nmend it, or accept it with `make bench-accept`",
        regressions.join("\n")
    );
}

#[test]
#[ignore = "writes the book's table and the baseline from the last run: make bench-accept"]
fn the_last_run_becomes_the_baseline() {
    document::accept(&Figures::read(&document::last_run()).expect("there is a last run: `make bench` makes one"));
}
