//! A fan-out beside an Indexed Job of the same size.

use std::time::Instant;

use asynctask_operator::api::AsyncTask;
use k8s_openapi::api::batch::v1::Job;
use serde_json::json;

use crate::around::Around;
use crate::audit::{self, Write};
use crate::figures::{Figures, Row};
use crate::process::{cpu, forget_peak, peak};
use crate::site::Site;
use crate::sizes::{list, number, rounds};
use crate::stand_in::{StandIn, Voice};
use crate::support::Namespace;
use crate::work::{clear, create_all, define, indexed, job_is_over, of, task, task_is_over, until_all};

fn parallelism() -> usize {
    number("BENCH_PARALLELISM", 500)
}

/// What one fan-out of ours took.
struct Took {
    wall: f64,
    /// From the news that the Job is complete to the news that the run is.
    seal: f64,
    status_bytes: f64,
    /// Status writes in the busiest ten seconds.
    writes: f64,
    cpu: f64,
    peak: f64,
    around: Around,
}

/// Measures ours and raw in turns, size by size.
pub(crate) fn measure(site: &Site, figures: &mut Figures) {
    for size in list("BENCH_SHARDS", &[100, 1_000, 10_000]) {
        let (mut raw, mut ours) = (Vec::new(), Vec::new());
        for round in 0..rounds(size) {
            raw.push(job(site, size));
            ours.push(fan_out(site, size, Voice::store(site)));
            println!("{size} shards, round {}: raw {:.1} s, ours {:.1} s", round + 1, raw[round].0, ours[round].wall);
        }
        let (raw, around) = raw.into_iter().unzip();
        rows(size, &ours, raw, figures);
        for row in Around::rows(&format!("fan-out-{size}"), ours.iter().map(|took| took.around), around) {
            figures.add(row);
        }
    }
    for size in list("BENCH_GATEWAY_SHARDS", &[1_000]) {
        let raw = vec![job(site, size).0];
        let took = fan_out(site, size, Voice::gateway(site));
        let what = format!("fan-out of {size} shards ÷ Indexed Job, each shard committing through the gateway");
        figures.add(Row::new(format!("fan-out-{size}-gateway"), what, "s", vec![took.wall]).beside(raw));
    }
}

fn rows(size: usize, ours: &[Took], raw: Vec<f64>, figures: &mut Figures) {
    let all = |field: fn(&Took) -> f64| ours.iter().map(field).collect::<Vec<f64>>();
    let row = |id: &str, what: &str, unit: &str, field| Row::new(format!("fan-out-{size}{id}"), what, unit, all(field));
    let what = format!("fan-out of {size} shards ÷ Indexed Job, parallelism {}", parallelism());
    figures.add(row("", &what, "s", |t| t.wall).beside(raw).at_most(1.05));
    figures.add(row("-status", "its status at the largest", "bytes", |t| t.status_bytes).at_most(32_768.0).steady());
    // One more than the pause between counts allows: changes of state are never held back.
    figures.add(row("-writes", "status writes in its busiest ten seconds", "", |t| t.writes).at_most(12.0).steady());
    let seal = row("-seal", "seal: Job complete → run complete", "s", |t| t.seal);
    figures.add(if size == 10_000 { seal.at_most(15.0) } else { seal });
    figures.add(row("-cpu", "CPU of the operator for it", "s", |t| t.cpu));
    figures.add(row("-peak", "most memory of the operator in it, seal included", "MiB", |t| t.peak).steady());
}

fn job(site: &Site, size: usize) -> (f64, Around) {
    let ns = Namespace::new("raw");
    let hand = StandIn::begin(site, &ns.name, Voice::Silent);
    let around = Around::now(site);
    let wall = site.runtime.block_on(async {
        let over = tokio::spawn(until_all(of::<Job>(site, &ns), 1, job_is_over));
        let began = Instant::now();
        create_all(&of(site, &ns), [indexed("raw", size, parallelism())]).await;
        (over.await.unwrap() - began).as_secs_f64()
    });
    let around = around.since(site);
    drop(hand);
    clear(site, ns);
    (wall, around)
}

fn fan_out(site: &Site, size: usize, voice: Voice) -> Took {
    let ns = Namespace::new("fan-out");
    define(&ns, "many", json!({"fanOut": {"shards": size, "parallelism": parallelism()}}), json!({}));
    let hand = StandIn::begin(site, &ns.name, voice);
    let pid = site.operator_pid();
    forget_peak(pid);
    let (before, around, mark) = (cpu(pid), Around::now(site), audit::mark());
    let (wall, seal, status_bytes) = site.runtime.block_on(async {
        let jobs = tokio::spawn(until_all(of::<Job>(site, &ns), 1, job_is_over));
        let tasks = of::<AsyncTask>(site, &ns);
        let over = tokio::spawn(async {
            let mut largest = 0;
            let see = |task: &AsyncTask| {
                largest = largest.max(serde_json::to_vec(&task.status).unwrap().len());
                task_is_over(task)
            };
            let at = until_all(tasks, 1, see).await;
            (at, largest)
        });
        let began = Instant::now();
        create_all(&of(site, &ns), [task("many", "many")]).await;
        let (over, largest) = over.await.unwrap();
        let complete = jobs.await.unwrap();
        (over - began, over.saturating_duration_since(complete), largest)
    });
    let (cpu, peak, around) = (cpu(pid) - before, peak(pid), around.since(site));
    let writes: Vec<Write> = audit::ours_since(mark, &ns.name).into_iter().filter(Write::is_status).collect();
    println!("{size} shards: {} status writes in {:.1} s", writes.len(), wall.as_secs_f64());
    let took = Took {
        wall: wall.as_secs_f64(),
        seal: seal.as_secs_f64(),
        status_bytes: status_bytes as f64,
        writes: audit::most_within(&writes, 10) as f64,
        cpu,
        peak,
        around,
    };
    drop(hand);
    clear(site, ns);
    took
}
