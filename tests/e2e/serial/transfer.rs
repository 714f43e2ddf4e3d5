//! A large file, up by one step and down by the next: the agent's memory, the gateway's where the bytes pass through it,
//! and beside a client that everybody knows.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use super::memory::watched;
use crate::component::{forget, peak, process};
use crate::stores::{access_key, awscli, seaweed, secret_key};
use crate::support::{Namespace, SYSTEM, get, kubectl, run, steps, task, until};

/// Bytes of the file; `make e2e SUITE=transfer` says 1 GiB.
fn size() -> u64 {
    std::env::var("TRANSFER_SIZE").map_or(128 << 20, |text| text.parse().unwrap())
}

/// How often ours and the other client take turns. 0: it is not asked, and nothing is compared.
fn rounds() -> usize {
    std::env::var("TRANSFER_ROUNDS").map_or(0, |text| text.parse().unwrap())
}

/// What an agent may need, in KiB.
const AGENT: u64 = 16 << 10;
/// A file of a few parts, after which the gateway has all the buffers it will ever have.
const SMALL: u64 = 80 << 20;
/// How much more the gateway may need for a large file.
const MORE: f64 = 1.10;

/// What one run took.
struct Took {
    /// From the end of the program to the commit, in seconds: hashing included.
    up: f64,
    /// From the agent's first call to the begin of the program.
    down: f64,
    /// Peaks of the agents, in KiB.
    peaks: BTreeMap<String, u64>,
}

/// Writes a file of so many bytes, and reads it again in another pod.
fn there_and_back(store: &str, size: u64) -> Took {
    let ns = Namespace::new("transfer");
    let write = format!("head -c {size} /dev/urandom > $ASYNCTASK_OUTPUTS/data; date +%s.%N");
    let read = format!("date +%s.%N; test $(stat -c %s $ASYNCTASK_INPUTS/data) = {size}");
    let more = format!("  store: {store}\n  outputs: [{{name: data, step: write, path: data}}]");
    let said = "workspace: {size: 4Gi}";
    let reads = format!("{said}, inputs: [{{name: data, output: data}}]");
    ns.define("large", &steps("large", &more, &[("write", &write, said), ("read", &read, &reads)]));
    let (status, peaks) = watched(&ns.name, || {
        ns.apply(&task("run", "large")).ok();
        ns.wait("condition=Finished", "asynctask/run", 600);
        ns.status("run")
    });
    assert_eq!(status["state"], "Complete", "{status:#}");
    let (written, read) = (pod(&ns, "write"), pod(&ns, "read"));
    let up = audited(&written, "/agent/v1/commit") - said_at(&ns, &written);
    let down = said_at(&ns, &read) - audited(&read, "/agent/v1/assignment");
    ns.kubectl(&["delete", "asynctask", "run", "--timeout=120s"]).ok();
    Took { up, down, peaks }
}

fn pod(ns: &Namespace, step: &str) -> String {
    let step = format!("asynctask.dev/step={step}");
    ns.kubectl(&["get", "pods", "-l", &step, "-o", "jsonpath={.items[0].metadata.name}"]).ok()
}

/// When a program said so, in seconds.
fn said_at(ns: &Namespace, pod: &str) -> f64 {
    ns.kubectl(&["logs", pod, "-c", "task"]).ok().trim().parse().unwrap()
}

/// When the gateway answered a call of a pod.
fn audited(pod: &str, route: &str) -> f64 {
    until(&format!("the call {route} of {pod} is in the gateway's log"), || {
        let log = kubectl(&["-n", SYSTEM, "logs", "deploy/asynctask-gateway", "--since=15m"]).ok();
        let mut lines = log.lines().filter(|line| line.contains(route) && line.contains(pod));
        let line: Value = serde_json::from_str(lines.next_back()?).unwrap();
        let at: jiff::Timestamp = line["timestamp"].as_str().unwrap().parse().unwrap();
        Some(at.as_microsecond() as f64 / 1e6)
    })
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Another client of the same store, on this machine.
struct Peer {
    size: u64,
    store: Value,
    folder: tempfile::TempDir,
}

impl Peer {
    fn new(size: u64) -> Self {
        awscli(); // installed before anything is timed
        let folder = tempfile::tempdir().unwrap();
        Self { size, store: get(&["outputstore", seaweed()])["spec"]["s3"].clone(), folder }
    }

    /// How long a copy takes, in seconds.
    fn copies(&self, from: &str, to: &str) -> f64 {
        let began = Instant::now();
        let endpoint = self.store["endpoint"].as_str().unwrap();
        let mut command = awscli();
        command.args(["--endpoint-url", endpoint, "s3", "cp", "--only-show-errors", from, to]);
        command.envs([("AWS_ACCESS_KEY_ID", access_key()), ("AWS_SECRET_ACCESS_KEY", secret_key())]);
        run(command.env("AWS_DEFAULT_REGION", "us-east-1"), None).ok();
        began.elapsed().as_secs_f64()
    }

    fn there_and_back(&self) -> (f64, f64) {
        let file = |name: &str| -> String { Path::new(self.folder.path()).join(name).display().to_string() };
        // Written a moment before, as the program's.
        let write = format!("head -c {} /dev/urandom > {}", self.size, file("up"));
        run(Command::new("bash").args(["-c", &write]), None).ok();
        let remote = format!("s3://{}/peer/data", self.store["bucket"].as_str().unwrap());
        (self.copies(&file("up"), &remote), self.copies(&remote, &file("down")))
    }
}

#[test]
fn a_large_file_needs_little_memory_and_no_more_time_than_with_another_client() {
    let size = size();
    let mut took = vec![there_and_back(seaweed(), size)];
    let mut other = Vec::new();
    if rounds() > 0 {
        let peer = Peer::new(size);
        // In turns; what comes first finds a cluster that has just been made, and is not compared.
        peer.there_and_back();
        for _ in 0..rounds() {
            took.push(there_and_back(seaweed(), size));
            other.push(peer.there_and_back());
        }
    }
    for (what, peak) in took.iter().flat_map(|took| &took.peaks) {
        println!("{what}: {peak} KiB for {} MiB", size >> 20);
        assert!(*peak < AGENT, "{what} needs {peak} KiB");
    }
    if rounds() == 0 {
        return;
    }
    took.remove(0);
    let ours = [took.iter().map(|took| took.up).collect(), took.iter().map(|took| took.down).collect::<Vec<_>>()];
    let theirs = [other.iter().map(|times| times.0).collect(), other.iter().map(|times| times.1).collect::<Vec<_>>()];
    for (what, (ours, theirs)) in ["up", "down"].into_iter().zip(ours.into_iter().zip(theirs)) {
        println!("{what}: agent {ours:.2?} s, aws s3 cp {theirs:.2?} s");
        println!("{what}: ratio of the medians {:.2}", median(ours) / median(theirs));
    }
}

#[test]
fn the_gateway_needs_the_same_memory_for_a_file_of_any_size() {
    let gateway = process("gateway").unwrap();
    let highest = |size: u64| {
        forget(&gateway);
        let took = there_and_back("trial", size);
        (peak(&gateway).unwrap(), took)
    };
    highest(SMALL);
    let (before, _) = highest(SMALL);
    let (after, took) = highest(size().max(4 * SMALL));
    let times = json!({"up": took.up, "down": took.down});
    println!("through the gateway: {before} KiB, then {after} KiB; {times}, agents {:?}", took.peaks);
    assert!(after as f64 <= before as f64 * MORE, "{before} KiB for a small file, {after} KiB for a large one");
}
