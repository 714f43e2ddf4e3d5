//! A store that goes away in the middle of an upload, and of a deletion, for as long as `STORE_AWAY` says.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::stores::seaweed;
use crate::support::{Namespace, SYSTEM, cli, get, host_ip, kubectl, kubectl_in, steps, task, until};

/// Seconds; `make e2e SUITE=away` says 600.
fn away() -> Duration {
    Duration::from_secs(std::env::var("STORE_AWAY").map_or(20, |text| text.parse().unwrap()))
}

/// Lines of the output: about 110 MB, which go in several parts.
const LINES: usize = 14_000_000;
/// After so many bytes of an upload the store goes away.
const HALF_WAY: u64 = 40 << 20;

/// Stands before the store, lets bytes pass or does not, and counts who asks in vain.
#[derive(Default)]
pub(crate) struct Gate {
    closed: AtomicBool,
    /// Whoever comes is let in, and never hears anything.
    silent: AtomicBool,
    refused: AtomicU64,
    /// Bytes towards the store since it was opened; it closes itself at this many.
    passed: AtomicU64,
    closes_at: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Gate {
    fn before(store: SocketAddr) -> (Arc<Self>, SocketAddr) {
        let listener = TcpListener::bind((host_ip(), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::new(Self { closes_at: AtomicU64::new(u64::MAX), ..Self::default() });
        let keeper = Arc::clone(&gate);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if keeper.silent.load(Ordering::SeqCst) {
                    keeper.open.lock().unwrap().push(client);
                    continue;
                }
                if keeper.closed.load(Ordering::SeqCst) {
                    keeper.refused.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                keeper.connect(client, store);
            }
        });
        (gate, address)
    }

    fn connect(self: &Arc<Self>, client: TcpStream, store: SocketAddr) {
        let Ok(server) = TcpStream::connect(store) else { return };
        let copies = || (client.try_clone().unwrap(), server.try_clone().unwrap());
        self.open.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
        let (from, to) = copies();
        let gate = Arc::clone(self);
        std::thread::spawn(move || gate.pass(from, to, true));
        let (to, from) = copies();
        let gate = Arc::clone(self);
        std::thread::spawn(move || gate.pass(from, to, false));
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream, counts: bool) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if counts {
                let passed = self.passed.fetch_add(length as u64, Ordering::SeqCst);
                if passed >= self.closes_at.load(Ordering::SeqCst) {
                    self.close();
                }
            }
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }

    /// The store is gone, and with it every connection.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.closes_at.store(u64::MAX, Ordering::SeqCst);
        for connection in self.open.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// The store answers nobody any more, and breaks off no connection.
    pub(crate) fn fall_silent(&self) {
        self.silent.store(true, Ordering::SeqCst);
        self.close();
    }

    /// It answers again.
    pub(crate) fn speak(&self) {
        self.silent.store(false, Ordering::SeqCst);
        self.closed.store(false, Ordering::SeqCst);
        self.open.lock().unwrap().clear();
    }

    /// Waits while it is away, and says how often it was asked each minute by so many runs.
    pub(crate) fn stay_closed(&self, what: &str, runs: usize, meanwhile: impl Fn()) {
        let (started, before) = (Instant::now(), self.refused.load(Ordering::SeqCst));
        while started.elapsed() < away() {
            meanwhile();
            std::thread::sleep(Duration::from_secs(1));
        }
        let asked = self.refused.load(Ordering::SeqCst) - before;
        let minutes = away().as_secs_f64() / 60.0;
        println!("{what}: away for {:?}, asked {asked} times, {:.0} a minute", away(), asked as f64 / minutes);
        assert!(asked as f64 / minutes < 200.0 * runs as f64, "a hot loop: {asked} in {minutes} minutes");
        assert!(asked > 0, "nobody looks whether it is back");
        self.closed.store(false, Ordering::SeqCst);
    }
}

/// An OutputStore in the bucket of [`seaweed`] that is reached through a gate. Its keys begin with `e2e-` and its name.
pub(crate) fn gated(name: &str) -> Arc<Gate> {
    seaweed();
    let mut spec = get(&["outputstore", "seaweed"])["spec"].clone();
    let real = spec["s3"]["endpoint"].as_str().unwrap().trim_start_matches("http://").parse().unwrap();
    let (gate, address) = Gate::before(real);
    spec["s3"]["endpoint"] = json!(format!("http://{address}"));
    spec["prefix"] = json!(format!("e2e-{name}"));
    let store = json!({"apiVersion": "asynctask.dev/v1alpha1", "kind": "OutputStore", "metadata": {"name": name}, "spec": spec});
    kubectl_in(&["apply"], &store.to_string()).ok();
    crate::support::wait("condition=Ready", &format!("outputstore/{name}"), 60);
    gate
}

#[test]
fn a_store_that_is_away_loses_nothing_and_nothing_is_half_there() {
    let gate = gated("away");
    let ns = Namespace::new("away");
    let outputs = "  store: away\n  outputs: [{name: numbers, step: count, path: numbers.txt}]";
    let shell = format!(r#"seq 1 {LINES} > "$ASYNCTASK_OUTPUTS/numbers.txt""#);
    let definition = steps("count", outputs, &[("count", &shell, "")]).replace("timeout: 5m", "timeout: 30m");
    ns.define("count", &definition);
    gate.passed.store(0, Ordering::SeqCst);
    gate.closes_at.store(HALF_WAY, Ordering::SeqCst);
    ns.apply(&task("t", "count")).ok();
    until("the upload is half way", || gate.closed.load(Ordering::SeqCst).then_some(()));
    gate.stay_closed("an upload", 1, || {
        assert_eq!(ns.status("t")["state"], "InProgress", "neither failed nor succeeded: {:#}", ns.status("t"));
    });
    ns.wait("condition=Finished", "asynctask/t", 300);
    let status = ns.status("t");
    assert_eq!(status["state"], "Complete", "{status:#}");
    assert_eq!(status["steps"][0]["attempt"], 1, "the attempt waited: {status:#}");
    let numbers = cli(&["-n", &ns.name, "outputs", "get", "t", "numbers", "-o", "-"]).ok();
    assert!(numbers.lines().map(|line| line.parse::<usize>().unwrap()).eq(1..=LINES), "byte for byte");

    gate.close();
    ns.kubectl(&["delete", "asynctask", "t", "--wait=false"]).ok();
    gate.stay_closed("a deletion", 1, || {
        let held = ns.get("asynctask", "t");
        assert!(held["metadata"]["finalizers"].as_array().is_some_and(|held| !held.is_empty()), "{held:#}");
    });
    ns.wait("delete", "asynctask/t", 180);
    let logs = kubectl(&["-n", SYSTEM, "logs", "deployment/asynctask-operator", "--since=2m"]).ok();
    let deleted = |line: &str| line.contains("outputs deleted") && line.contains(&ns.name);
    assert!(logs.lines().any(deleted), "{logs}");
    kubectl(&["delete", "outputstore", "away", "--timeout=60s"]).ok();
}
