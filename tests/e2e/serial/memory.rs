//! A hundred times as many items: the same memory, and a status of the same size.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::component::{forget, peak, process};
use crate::support::{Namespace, cli, steps, task};

/// Items of the larger run; `make e2e SUITE=spread` sends a million.
fn items() -> usize {
    std::env::var("SPREAD_ITEMS").map_or(100_000, |text| text.parse().unwrap())
}

/// The smaller run has this part of them.
const PART: usize = 100;
/// Shards of the larger run, on one node; `make e2e SUITE=spread` has 200.
fn shards() -> usize {
    std::env::var("SPREAD_SHARDS").map_or(40, |text| text.parse().unwrap())
}

/// How much higher the peak of operator and gateway may be in the larger run.
const MORE: f64 = 1.10;
/// What an agent may need, in KiB.
const AGENT: u64 = 16 << 10;
/// Largest status, in bytes.
const STATUS: usize = 32 << 10;

/// Peaks of resident memory in KiB, by what runs: `operator`, `gateway`, and the agent of each step.
pub(crate) type Peaks = BTreeMap<String, u64>;

/// The agents of a namespace's pods that run now: step and process.
fn agents(namespace: &str) -> Vec<(String, String)> {
    let of = |pid: &str| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let program = PathBuf::from(String::from_utf8_lossy(command.split(|byte| *byte == 0).next()?).into_owned());
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let value = |name: &str| {
            let mut all = environment.split(|byte| *byte == 0);
            all.find_map(|pair| {
                std::str::from_utf8(pair).ok()?.strip_prefix(name)?.strip_prefix('=').map(str::to_owned)
            })
        };
        let ours = program.ends_with("asynctask-agent") && value("ASYNCTASK_NAMESPACE")? == namespace;
        ours.then(|| value("ASYNCTASK_STEP").map(|step| (step, pid.to_owned())))?
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|entry| of(entry.file_name().to_str()?)).collect()
}

/// Does something and looks at the agents meanwhile.
pub(crate) fn watched<T>(namespace: &str, act: impl FnOnce() -> T) -> (T, Peaks) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peaks = Peaks::new();
            while !over.load(Ordering::Relaxed) {
                for (step, pid) in agents(namespace) {
                    let highest = peaks.entry(format!("agent of {step}")).or_default();
                    *highest = peak(&pid).unwrap_or_default().max(*highest);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            peaks
        });
        let done = act();
        over.store(true, Ordering::Relaxed);
        (done, watch.join().unwrap())
    })
}

/// One run of so many items, from the planner to the file.
fn run(definition: &str, items: usize, per_shard: usize) -> (Peaks, usize) {
    let ns = Namespace::new("memory");
    let plan = format!(r#"seq -f '{{"id":%.0f}}' 1 {items} > "$ASYNCTASK_EMIT""#);
    let send = r#"sed 's/[^0-9]//g' "$ASYNCTASK_ITEMS" > "$ASYNCTASK_OUTPUTS/part.csv""#;
    let fan_out = format!("fanOut: {{itemsFrom: {{step: plan}}, itemsPerShard: {per_shard}, parallelism: 6}}");
    let outputs = "  outputs: [{name: all, step: send, path: part.csv, append: {header: false}}]";
    let plan = ("plan", plan.as_str(), "emitsItems: true");
    ns.define(definition, &steps(definition, outputs, &[plan, ("send", send, &fan_out)]));
    let components = ["operator", "gateway"].map(|component| (component, process(component).unwrap()));
    components.iter().for_each(|(_, pid)| forget(pid));
    let started = Instant::now();
    let (status, mut peaks) = watched(&ns.name, || {
        ns.apply(&task("run", definition)).ok();
        ended(&ns)
    });
    let wall = started.elapsed();
    peaks.extend(components.map(|(component, pid)| (component.to_owned(), peak(&pid).unwrap())));
    assert_eq!(status["state"], "Complete", "{status:#}");
    let all = cli(&["-n", &ns.name, "outputs", "get", "run", "all", "-o", "-"]).ok();
    assert!(all.lines().map(|line| line.parse::<usize>().unwrap()).eq(1..=items), "each item once and in order");
    let size = serde_json::to_vec(&status).unwrap().len();
    println!(
        "{items} items: {:.0} s ({}), status {size} bytes, peaks in KiB: {peaks:?}",
        wall.as_secs_f64(),
        split(&status)
    );
    (peaks, size)
}

/// Waits longer than other tests do.
fn ended(ns: &Namespace) -> Value {
    ns.wait("condition=Finished", "asynctask/run", 1200);
    ns.status("run")
}

/// How long each step took.
fn split(status: &Value) -> String {
    let seconds = |step: &Value| {
        let at = |field: &str| step[field].as_str()?.parse::<jiff::Timestamp>().ok();
        Some(at("finishTime")?.duration_since(at("startTime")?).as_secs())
    };
    let steps = status["steps"].as_array().unwrap().iter();
    let each = steps.map(|step| format!("{} {} s", step["name"].as_str().unwrap(), seconds(step).unwrap_or_default()));
    each.collect::<Vec<_>>().join(", ")
}

#[test]
fn a_hundred_times_as_many_items_need_the_same_memory() {
    let (many, few) = (items(), items() / PART);
    // More shards than an agent sends at a time, in both: with two it has fewer buffers than with two hundred.
    let fewer = few.div_ceil(20);
    // Once before it counts: allocators and caches are warm then, in both.
    run("warm", few, fewer);
    let (before, _) = run("few", few, fewer);
    let (after, size) = run("many", many, many.div_ceil(shards()));
    for (what, peak) in &after {
        let grown = *peak as f64 / before[what] as f64;
        println!("{what}: {} KiB, then {peak} KiB: {:+.1} %", before[what], (grown - 1.0) * 100.0);
    }
    for (what, peak) in &after {
        // An agent is small, so a few hundred KiB of its buffers are much of it: it has a bound of its own.
        let bound = if what.starts_with("agent") { AGENT as f64 } else { before[what] as f64 * MORE };
        assert!(*peak as f64 <= bound, "{what} needs {peak} KiB, {bound:.0} are allowed");
    }
    assert!(size <= STATUS, "{size} bytes");
}
