//! Many runs of one step at once, beside as many Jobs.

use std::time::Instant;

use asynctask_operator::api::AsyncTask;
use k8s_openapi::api::batch::v1::Job;
use serde_json::json;

use crate::around::Around;
use crate::figures::{Figures, Row};
use crate::process::{cpu, forget_peak, peak};
use crate::site::Site;
use crate::sizes::{number, rounds};
use crate::stand_in::{StandIn, Voice};
use crate::support::Namespace;
use crate::work::{clear, create_all, define, is_marked, job, job_is_over, of, task, task_is_over, until_all};

/// What one burst of ours took.
struct Took {
    wall: f64,
    cpu: f64,
    peak: f64,
    around: Around,
}

/// Measures ours and raw in turns.
pub(crate) fn measure(site: &Site, figures: &mut Figures) {
    let size = number("BENCH_BURST", 500);
    let (mut raw, mut ours, mut called) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds(size) {
        raw.push(jobs(site, size));
        ours.push(tasks(site, size, Voice::store(site)));
        called.push(tasks(site, size, Voice::gateway(site)));
        println!("round {}: raw {:.1} s, ours {:.1} s", round + 1, raw[round].0, ours[round].wall);
    }
    let (raw, around): (Vec<f64>, Vec<Around>) = raw.into_iter().unzip();
    let all = |took: &[Took], field: fn(&Took) -> f64| took.iter().map(field).collect::<Vec<f64>>();
    let what = format!("burst of {size} one-step tasks ÷ {size} Jobs");
    figures.add(
        Row::new(format!("burst-{size}"), what.clone(), "s", all(&ours, |t| t.wall)).beside(raw.clone()).at_most(1.25),
    );
    figures.add(
        Row::new(
            format!("burst-{size}-gateway"),
            format!("{what}, each committing through the gateway"),
            "s",
            all(&called, |t| t.wall),
        )
        .beside(raw),
    );
    figures.add(
        Row::new(format!("burst-{size}-cpu"), "CPU of the operator for it", "s", all(&ours, |t| t.cpu)).at_most(1.0),
    );
    figures.add(
        Row::new(format!("burst-{size}-peak"), "most memory of the operator in it", "MiB", all(&ours, |t| t.peak))
            .at_most(48.0)
            .steady(),
    );
    for row in Around::rows(&format!("burst-{size}"), ours.iter().map(|took| took.around), around) {
        figures.add(row);
    }
}

fn names(size: usize) -> impl Iterator<Item = String> {
    (0..size).map(|n| format!("t{n:05}"))
}

fn jobs(site: &Site, size: usize) -> (f64, Around) {
    let ns = Namespace::new("raw");
    let hand = StandIn::begin(site, &ns.name, Voice::Silent);
    let around = Around::now(site);
    let wall = site.runtime.block_on(async {
        let over = tokio::spawn(until_all(of::<Job>(site, &ns), size, job_is_over));
        let began = Instant::now();
        create_all(&of(site, &ns), names(size).map(|name| job(&name))).await;
        (over.await.unwrap() - began).as_secs_f64()
    });
    let around = around.since(site);
    drop(hand);
    clear(site, ns);
    (wall, around)
}

fn tasks(site: &Site, size: usize, voice: Voice) -> Took {
    let ns = Namespace::new("burst");
    define(&ns, "one", json!({}), json!({}));
    let hand = StandIn::begin(site, &ns.name, voice);
    let pid = site.operator_pid();
    forget_peak(pid);
    let (before, around) = (cpu(pid), Around::now(site));
    let wall = site.runtime.block_on(async {
        let over = tokio::spawn(until_all(of::<AsyncTask>(site, &ns), size, task_is_over));
        let began = Instant::now();
        create_all(&of(site, &ns), names(size).map(|name| task(&name, "one"))).await;
        let wall = (over.await.unwrap() - began).as_secs_f64();
        // What is still to be written is part of the cost.
        until_all(of(site, &ns), size, is_marked).await;
        wall
    });
    let took = Took { wall, cpu: cpu(pid) - before, peak: peak(pid), around: around.since(site) };
    drop(hand);
    clear(site, ns);
    took
}
