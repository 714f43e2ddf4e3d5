//! Many runs that go on: what each costs the operator's memory, and how soon an operator that begins anew knows them.

use std::time::{Duration, Instant};

use asynctask_operator::api::AsyncTask;
use asynctask_operator::api::state::TaskState;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::audit;
use crate::figures::{Figures, Row};
use crate::process::{peak, resident};
use crate::site::Site;
use crate::sizes::number;
use crate::support::{Namespace, in_time};
use crate::work::{create_all, define, of, task, until_all};

/// Steps in which the runs are made.
const MARKS: usize = 5;
/// Without a reconcile for this long the operator is through.
const QUIET: Duration = Duration::from_secs(3);
/// Longest time that it may take to get there.
const PATIENCE: Duration = Duration::from_secs(300);

/// Fills the cluster, and leaves it so.
pub(crate) fn measure(site: &Site, figures: &mut Figures) {
    let size = number("BENCH_LIVE", 10_000);
    // What went before has left room in the heap.
    site.restart_operator();
    let ns = Namespace::new("live");
    define(&ns, "one", json!({}), json!({}));
    let mut marks = vec![(0.0, resident(site.operator_pid()))];
    for mark in 1..=MARKS {
        let (from, to) = (size * (mark - 1) / MARKS, size * mark / MARKS);
        site.runtime.block_on(async {
            create_all(&of(site, &ns), (from..to).map(|n| task(&format!("t{n:05}"), "one"))).await;
            until_all(of(site, &ns), to, in_progress).await;
            until_all(of(site, &ns), to, runs).await;
        });
        marks.push((to as f64, resident(site.operator_pid())));
        println!("{to} runs: {:.1} MiB", marks[mark].1);
    }
    let full = marks[MARKS].1;
    let what = format!("memory of the operator per run that goes on, up to {size}");
    figures.add(Row::new(format!("slope-{size}"), what, "KiB", vec![slope(&marks) * 1024.0]).at_most(12.0).steady());
    let what = format!("memory of the operator with {size} tasks and {size} pods");
    figures.add(Row::new(format!("live-{size}"), what, "MiB", vec![full]).at_most(150.0).steady());
    restart(site, &ns, size, figures);
    std::mem::forget(ns);
}

fn in_progress(task: &AsyncTask) -> bool {
    task.status.as_ref().and_then(|status| status.state) == Some(TaskState::InProgress)
}

fn runs(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// MiB per run: the line that is closest to all marks.
fn slope(marks: &[(f64, f64)]) -> f64 {
    let count = marks.len() as f64;
    let mean = |part: fn(&(f64, f64)) -> f64| marks.iter().map(part).sum::<f64>() / count;
    let (x, y) = (mean(|mark| mark.0), mean(|mark| mark.1));
    let above: f64 = marks.iter().map(|mark| (mark.0 - x) * (mark.1 - y)).sum();
    above / marks.iter().map(|mark| (mark.0 - x).powi(2)).sum::<f64>()
}

/// An operator that begins anew has looked at every run when it has done at least as many reconciles and does no more:
/// later than the first look at the last of them, never earlier.
fn restart(site: &Site, ns: &Namespace, size: usize, figures: &mut Figures) {
    let mark = audit::mark();
    site.operator.kill();
    let began = Instant::now();
    site.operator.start();
    let (mut count, mut last) = (0, Instant::now());
    while count < size as u64 || last.elapsed() < QUIET {
        in_time(&format!("{size} tasks of {} are reconciled, now {count}", ns.name), began, PATIENCE);
        if let Some(now) = site.reconciles().filter(|now| *now > count) {
            (count, last) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = (last - began).as_secs_f64();
    let writes = audit::ours_since(mark, &ns.name).len();
    println!("{count} reconciles after {took:.1} s, {writes} writes; {:.1} MiB", resident(site.operator_pid()));
    let what = format!("restart with {size} unfinished tasks → each looked at");
    figures.add(Row::new(format!("restart-{size}"), what, "s", vec![took]).at_most(20.0));
    let what = "writes about them";
    figures.add(Row::new(format!("restart-{size}-writes"), what, "", vec![writes as f64]).at_most(0.0).steady());
    let peak = vec![peak(site.operator_pid())];
    figures.add(Row::new(format!("restart-{size}-peak"), "most memory meanwhile", "MiB", peak).at_most(150.0).steady());
}

#[test]
fn the_slope_is_that_of_the_line_through_all_marks() {
    assert!((slope(&[(0.0, 10.0), (100.0, 20.0), (200.0, 30.0)]) - 0.1).abs() < 1e-9);
    assert!(slope(&[(0.0, 10.0), (100.0, 10.0)]).abs() < 1e-9);
}
