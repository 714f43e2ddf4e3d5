//! What a run costs the API server, read from its audit log; what the agent weighs.

use crate::support::{Namespace, audit, by_account, script, task, until};

#[test]
fn a_run_of_one_step_costs_at_most_four_writes_and_two_events() {
    let ns = Namespace::new("budget");
    ns.define("quick", &script("quick", "echo done", ""));
    ns.apply(&task("t", "quick")).ok();
    ns.finished("t");
    until("the mark that a finished task bears", || {
        ns.get("asynctask", "t")["metadata"]["annotations"]["asynctask.dev/finished"].as_str().map(str::to_owned)
    });
    until("the Event of the end is in the audit log", || {
        (audit(&ns.name).iter().filter(|l| is_event(l) && about(l, "t")).count() >= 2).then_some(())
    });

    let lines = audit(&ns.name);
    let ours = |line: &&serde_json::Value| {
        (by_account(line, "asynctask-operator") || by_account(line, "asynctask-gateway"))
            && ["create", "update", "patch", "delete"].contains(&line["verb"].as_str().unwrap_or_default())
            && !line["requestURI"].as_str().unwrap_or_default().contains("dryRun")
            && !["taskdefinitions", "taskrevisions"]
                .contains(&line["objectRef"]["resource"].as_str().unwrap_or_default())
    };
    let (events, writes): (Vec<_>, Vec<_>) = lines.iter().filter(ours).partition(|line| is_event(line));
    let events = events.into_iter().filter(|line| about(line, "t")).count();
    for line in &writes {
        let object = &line["objectRef"];
        println!("write: {} {} {}", line["verb"], object["resource"], object["subresource"]);
    }
    println!("API writes of operator and gateway for one one-step task: {}; Events: {events}", writes.len());
    assert!(!writes.is_empty() && writes.len() <= 4, "{} writes", writes.len());
    assert!(events <= 2, "{events} Events");
}

fn is_event(line: &serde_json::Value) -> bool {
    line["objectRef"]["resource"] == "events"
}

/// Whether an Event of the operator speaks of this task: our Events are named after their object.
fn about(line: &serde_json::Value, task: &str) -> bool {
    by_account(line, "asynctask-operator")
        && line["objectRef"]["name"].as_str().is_some_and(|n| n.starts_with(&format!("{task}.")))
}

#[test]
fn the_agent_is_static_and_below_8_mb() {
    let file = std::env::var("E2E_AGENT").expect("E2E_AGENT is set by run.sh");
    let bytes = std::fs::metadata(&file).unwrap().len();
    println!("agent: {bytes} bytes");
    assert!(bytes < 8_000_000);
    let ldd = crate::support::run(std::process::Command::new("ldd").arg(&file), None);
    let said = format!("{}{}", ldd.out, ldd.err);
    assert!(said.contains("statically linked") || said.contains("not a dynamic executable"), "{said}");
}
