//! An idle operator: how soon it makes a Job, and what a run of one step costs the API server.

use std::collections::BTreeMap;
use std::time::Instant;

use futures::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tokio::sync::mpsc;

use crate::audit;
use crate::figures::{Figures, Row, percentile};
use crate::site::Site;
use crate::sizes::number;
use crate::stand_in::{StandIn, Voice};
use crate::support::Namespace;
use crate::work::{clear, define, is_marked, of, task, until_all};

/// Measures runs one after the other.
pub(crate) fn measure(site: &Site, figures: &mut Figures) {
    let count = number("BENCH_IDLE", 200);
    let ns = Namespace::new("idle");
    define(&ns, "one", json!({}), json!({}));
    let _hand = StandIn::begin(site, &ns.name, Voice::store(site));
    let mark = audit::mark();
    let times = site.runtime.block_on(one_by_one(site, &ns, count));
    figures.add(Row::new(
        "idle-p50",
        format!("create → Job created, p50 of {count}"),
        "ms",
        vec![percentile(&times, 0.5)],
    ));
    figures.add(
        Row::new("idle-p99", format!("create → Job created, p99 of {count}"), "ms", vec![percentile(&times, 0.99)])
            .at_most(100.0),
    );
    costs(&ns, mark, count, figures);
    clear(site, ns);
}

/// Milliseconds from the call that creates a task to the news of its Job.
async fn one_by_one(site: &Site<'_>, ns: &Namespace, count: usize) -> Vec<f64> {
    let (seen, mut jobs) = mpsc::unbounded_channel();
    let watched = of::<Job>(site, ns);
    let watch = tokio::spawn(async move {
        let mut made = std::pin::pin!(watcher(watched, watcher::Config::default()).default_backoff().applied_objects());
        while let Some(job) = made.next().await {
            if let Ok(job) = job {
                let _ = seen.send((job.name_any(), Instant::now()));
            }
        }
    });
    let tasks: Api<_> = of(site, ns);
    let mut times = Vec::new();
    for n in 0..=count {
        let name = format!("t{n:04}");
        let began = Instant::now();
        tasks.create(&PostParams::default(), &task(&name, "one")).await.unwrap();
        let at = loop {
            let (job, at) = jobs.recv().await.expect("the watch goes on");
            if job.starts_with(&format!("{name}-")) {
                break at;
            }
        };
        times.push((at - began).as_secs_f64() * 1000.0);
        until_all(tasks.clone(), n + 1, is_marked).await;
    }
    watch.abort();
    // The first one meets cold connections.
    times.split_off(1)
}

/// What operator and gateway wrote for each of the runs.
fn costs(ns: &Namespace, mark: audit::Mark, count: usize, figures: &mut Figures) {
    let (mut writes, mut events) = (BTreeMap::<String, f64>::new(), BTreeMap::<String, f64>::new());
    for write in audit::ours_since(mark, &ns.name) {
        // Jobs and Events are named after their run.
        let name: String = write.object_ref.name.split(['-', '.']).next().unwrap_or_default().to_owned();
        if name.starts_with('t') && name.len() == 5 {
            *if write.is_event() { &mut events } else { &mut writes }.entry(name).or_default() += 1.0;
        }
    }
    let most = |of: &BTreeMap<String, f64>| vec![of.values().copied().fold(0.0, f64::max)];
    assert!(writes.len() >= count, "the audit log tells of {} runs, not {count}", writes.len());
    figures.add(
        Row::new("writes", "API writes of operator and gateway for a run of one step (most)", "", most(&writes))
            .at_most(4.0)
            .steady(),
    );
    figures.add(Row::new("events", "Events for it (most)", "", most(&events)).at_most(2.0).steady());
}
