//! Many outputs whose time is up at once.

use std::process::Command;

use crate::component::{back, peak, process};
use crate::support::{Namespace, run, script, stored, task, until};

/// Files a run gives: as many as one commit takes.
const EACH: usize = 999;

/// Runs with as many files each; `make e2e SUITE=expired` has 10.
fn runs() -> usize {
    std::env::var("EXPIRED_RUNS").map_or(2, |text| text.parse().unwrap())
}

#[test]
fn many_outputs_whose_time_is_up_go_though_the_operator_is_killed() {
    let ns = Namespace::new("expired");
    let shell = format!(
        "mkdir $ASYNCTASK_OUTPUTS/part; seq 1 {EACH} | while read n; do echo $n > $ASYNCTASK_OUTPUTS/part/$n; done; echo \
         kept > $ASYNCTASK_OUTPUTS/kept.txt"
    );
    // Names with a common beginning: one goes, the other stays.
    let outputs = "  outputs: [{name: part, step: work, path: part, retention: {for: 20s}}, {name: part-kept, step: work, \
                   path: kept.txt, retention: {forever: true}}]";
    ns.define("many", &script("many", &shell, outputs));
    let names: Vec<String> = (0..runs()).map(|n| format!("r{n}")).collect();
    for name in &names {
        ns.apply(&task(name, "many")).ok();
    }
    let of = |output: &str| {
        stored(&format!("/{}/", ns.name)).iter().filter(|p| p.to_string_lossy().contains(output)).count()
    };
    let pid = process("operator").unwrap();
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    ns.wait("condition=Finished", "asynctask --all", 600);
    let most = of("/files/part/");
    assert!(most > 0, "nothing is stored, or it went before its time");
    until("the first of them go", || (of("/files/part/") < runs() * EACH).then_some(()));
    let before = peak(&pid).unwrap();
    run(Command::new("kill").args(["-9", &pid]), None).ok();
    until("the operator is there again", || process("operator").filter(|new| *new != pid));
    back("operator");

    let gone = |name: &String| {
        let status = ns.status(name);
        status["outputs"]
            .as_array()
            .unwrap()
            .iter()
            .any(|output| output["name"] == "part" && output["gone"]["why"] == "Expired")
    };
    until("all of them are gone, and said to be", || names.iter().all(gone).then_some(()));
    assert_eq!((of("/files/part/"), of("/files/part-kept/")), (0, runs()), "{most} were there");
    let after = peak(&process("operator").unwrap()).unwrap();
    println!(
        "{} files of {} runs: operator {before} KiB when it was killed, {after} KiB after it",
        runs() * EACH,
        runs()
    );
    assert!(after < 150 << 10, "{after} KiB");
}
