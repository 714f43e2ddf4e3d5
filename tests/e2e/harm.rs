//! Who can harm whom, and how much: how long the runs of one tenant take while another does what it may. A long form, which
//! wants the machine for itself; `make e2e SUITE=harm` prints the table.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::away::gated;
use crate::component::{forget, peak, process};
use crate::support::{Namespace, gateway_address, gateway_ca, script, steps, task, until, variable};

/// Runs of the quiet tenant that are measured beside each other's harm.
const RUNS: usize = 20;
/// Runs of the other tenant that wait for their turn.
const WAITING: usize = 1000;
/// Runs that are deleted while their store is silent.
const DELETED: usize = 60;

/// A program that says how far it is as fast as it can.
const REPORTS: &str = r#"
import os, ssl, threading, urllib.error, urllib.request
agent = dict(pair.split("=", 1) for pair in open("/proc/1/environ").read().split("\0") if "=" in pair)
url = agent["ASYNCTASK_GATEWAY_URL"].rstrip("/") + "/agent/v1/progress"
trusted = ssl.create_default_context(cadata=agent["ASYNCTASK_GATEWAY_CA"])
token = open("/var/run/secrets/asynctask.dev/token").read().strip()
headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
def loop():
    done = 0
    while True:
        done += 1
        try:
            urllib.request.urlopen(urllib.request.Request(url, b'{"done": %d}' % done, headers), timeout=30, context=trusted).read()
        except urllib.error.HTTPError as refused:
            refused.read()
for _ in range(4):
    threading.Thread(target=loop).start()
"#;

/// Calls with tokens of nobody, on many connections.
const STRANGERS: &str = r#"
import os, socket, ssl, sys, threading
address, ca = sys.argv[1], sys.argv[2]
context = ssl.create_default_context(cafile=ca)
context.check_hostname = False
def loop():
    while True:
        try:
            connection = context.wrap_socket(socket.create_connection((address, 443)))
            for _ in range(200):
                head = "GET /api/v1/namespaces/default/tasks HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\n\r\n" % os.urandom(16).hex()
                connection.sendall(head.encode())
                if not connection.recv(65536):
                    break
        except OSError:
            pass
for _ in range(16):
    threading.Thread(target=loop, daemon=True).start()
print("they call", flush=True)
sys.stdin.read()
"#;

/// How long each of so many runs takes, from its creation to its end, one after the other; the quickest first.
fn runs(quiet: &Namespace, what: &str) -> Vec<Duration> {
    let time = |number: usize| {
        let name = format!("{what}-{number}");
        quiet.create(&task(&name, "works"));
        let begun = Instant::now();
        assert_eq!(quiet.finished(&name)["state"], "Complete", "{name}");
        begun.elapsed()
    };
    let mut times: Vec<Duration> = (0..RUNS).map(time).collect();
    times.sort();
    times
}

struct Strangers(Child);

impl Drop for Strangers {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures the quiet tenant, and prints a row of the table.
fn row(quiet: &Namespace, what: &str, undisturbed: Option<&[Duration]>) -> Vec<Duration> {
    let components = ["operator", "gateway"].map(|component| process(component).unwrap());
    components.iter().for_each(|pid| forget(pid));
    let times = runs(quiet, what);
    let (median, slowest) = (times[RUNS / 2], times[RUNS - 1]);
    let base = undisturbed.map_or(slowest, |times| times[RUNS - 1]);
    let [operator, gateway] = components.map(|pid| peak(&pid).unwrap_or(0) >> 10);
    println!(
        "| {what} | {:.1} | {:.1} | {:.2} | {operator} | {gateway} |",
        median.as_secs_f64(),
        slowest.as_secs_f64(),
        slowest.as_secs_f64() / base.as_secs_f64()
    );
    times
}

#[test]
fn another_tenants_runs_take_their_time_whatever_one_does() {
    let (quiet, hostile) = (Namespace::new("quiet"), Namespace::new("harm"));
    quiet.define("works", &script("works", "echo works", ""));
    println!("| what one tenant does | median s | slowest s | beside undisturbed | operator MiB | gateway MiB |");
    println!("|---|---|---|---|---|---|");
    let undisturbed = row(&quiet, "nothing", None);
    let mut slowest = Vec::new();
    let mut measure = |what: &str| slowest.push((what.to_owned(), row(&quiet, what, Some(&undisturbed))[RUNS - 1]));

    hostile.define("one", &script("one", "sleep 600", "  concurrency: {maxRunning: 1}"));
    for some in (0..WAITING).collect::<Vec<_>>().chunks(200) {
        let documents: Vec<String> = some.iter().map(|number| task(&format!("w-{number}"), "one")).collect();
        hostile.create(&documents.join("\n---\n"));
    }
    let edits = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if !edits.load(Ordering::Relaxed) {
                    return;
                }
                let title = json!({"spec": {"title": format!("Edit {number}")}}).to_string();
                hostile.kubectl(&["patch", "taskdefinition", "one", "--type=merge", "-p", &title]);
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        measure("waits-with-a-thousand-runs-and-edits");
        edits.store(false, Ordering::Relaxed);
    });
    hostile.kubectl(&["delete", "asynctasks", "--all", "--wait=false"]).ok();
    until("they are gone", || {
        let left = hostile.kubectl(&["get", "asynctasks", "-o", "name"]).ok();
        (left.lines().count() == 0).then_some(())
    });

    let gate = gated("harm");
    hostile.define(
        "kept",
        &script("kept", "echo x > $ASYNCTASK_OUTPUTS/x", "  store: harm\n  outputs: [{name: x, step: work, path: x}]"),
    );
    let documents: Vec<String> = (0..DELETED).map(|number| task(&format!("k-{number}"), "kept")).collect();
    hostile.create(&documents.join("\n---\n"));
    (0..DELETED).for_each(|number| assert_eq!(hostile.finished(&format!("k-{number}"))["state"], "Complete"));
    gate.fall_silent();
    hostile.kubectl(&["delete", "asynctasks", "--all", "--wait=false"]).ok();
    measure("deletes-sixty-runs-of-a-silent-store");
    gate.speak();

    let shell = format!("python3 - <<'REPORTS'{REPORTS}REPORTS\n");
    let loops = steps("loops", "", &[("work", &shell, "")]);
    hostile.define("loops", &loops.replace(&variable("HELLO_REPORT_IMAGE"), &variable("COURSE_OUTLINE_IMAGE")));
    for number in 0..3 {
        hostile.apply(&task(&format!("l-{number}"), "loops")).ok();
    }
    until("they report", || (!hostile.status("l-2")["steps"][0]["progress"].is_null()).then_some(()));
    measure("reports-as-fast-as-three-pods-can");
    hostile.kubectl(&["delete", "asynctasks", "--all", "--wait=false"]).ok();

    let address = gateway_address().rsplit(':').next().unwrap();
    let mut strangers = Command::new("python3");
    strangers.args(["-c", STRANGERS, address]).arg(gateway_ca()).stdin(Stdio::piped());
    let strangers = Strangers(strangers.spawn().unwrap());
    measure("calls-with-unknown-tokens");
    drop(strangers);

    let most = undisturbed[RUNS - 1] * 2;
    let late: Vec<_> = slowest.iter().filter(|(_, slowest)| *slowest > most).collect();
    assert!(late.is_empty(), "slower than {most:?}: {late:?}");
}
