//! Who can harm whom, and how much: how long the runs of one tenant take while another does what it may. A long form, which
//! wants the machine for itself; `make e2e SUITE=harm` prints the table.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use crate::away::gated;
use crate::component::{forget, peak, process};
use crate::support::{Namespace, SYSTEM, gateway_address, gateway_ca, script, steps, stored, task, until, variable};

/// Runs of the quiet tenant that are measured beside each other's harm.
const RUNS: usize = 20;
/// Runs of the other tenant that wait for their turn.
const WAITING: usize = 1000;
/// Runs that are deleted while their store is silent.
const DELETED: usize = 60;

/// What each of the programs below begins with: what the agent of its pod has.
pub(crate) const AGENT: &str = r#"
import hashlib, os, socket, ssl, sys, threading, time, urllib.error, urllib.request
agent = dict(pair.split("=", 1) for pair in open("/proc/1/environ").read().split("\0") if "=" in pair)
gateway = agent["ASYNCTASK_GATEWAY_URL"].rstrip("/")
trusted = ssl.create_default_context(cadata=agent["ASYNCTASK_GATEWAY_CA"])
token = open("/var/run/secrets/asynctask.dev/token").read().strip()
headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
def call(method, path, body, more={}):
    try:
        request = urllib.request.Request(gateway + path, body, dict(headers, **more), method=method)
        return urllib.request.urlopen(request, timeout=60, context=trusted).status
    except urllib.error.HTTPError as refused:
        refused.read()
        return refused.code
    except OSError:
        return 0
"#;

/// Sends almost all of thirty bodies, and keeps them open.
const HOLDS: &str = r#"
host = gateway.split("//")[1].split("/")[0]
def hold():
    while True:
        try:
            connection = trusted.wrap_socket(socket.create_connection((host.split(":")[0], int((host.split(":") + ["443"])[1]))), server_hostname=host.split(":")[0])
            head = "POST /agent/v1/commit HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 4194304\r\n\r\n" % (host, token)
            connection.sendall(head.encode() + b" " * 4000000)
            connection.recv(1)
        except OSError:
            time.sleep(0.1)
for _ in range(30):
    threading.Thread(target=hold).start()
time.sleep(5)
call("POST", "/agent/v1/progress", b'{"done": 1}')
"#;

/// Sends files of its output until it is told that there are too many bytes, and then goes on.
const FILLS: &str = r#"
data = os.urandom(8 << 20)
digest = hashlib.sha256(data).hexdigest()
call("POST", "/agent/v1/progress", b'{"done": 1}')
for number in range(100000):
    more = {"Content-Type": "application/octet-stream", "X-Asynctask-Size": str(len(data)), "X-Asynctask-Sha256": digest}
    if call("PUT", "/agent/v1/files/x/%d/content" % (number % 1000), data, more) >= 400:
        time.sleep(0.2)
"#;

/// A program that says how far it is as fast as it can.
pub(crate) const REPORTS: &str = r#"
def loop():
    done = 0
    while True:
        done += 1
        call("POST", "/agent/v1/progress", b'{"done": %d}' % done)
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

/// Where the audit log ends now.
pub(crate) fn end_of_audit() -> u64 {
    std::fs::metadata(variable("ASYNCTASK_AUDIT_LOG")).unwrap().len()
}

/// How many writes of operator and gateway the audit log has behind a byte. Reviews of tokens and rights write nothing.
pub(crate) fn writes_since(byte: u64) -> usize {
    #[derive(Deserialize)]
    struct Line {
        verb: String,
        user: User,
        #[serde(rename = "objectRef", default)]
        object: Written,
    }
    #[derive(Deserialize)]
    struct User {
        username: String,
    }
    #[derive(Default, Deserialize)]
    struct Written {
        #[serde(default)]
        resource: String,
    }
    let mut file = File::open(variable("ASYNCTASK_AUDIT_LOG")).unwrap();
    file.seek(SeekFrom::Start(byte)).unwrap();
    let ours = format!("system:serviceaccount:{}:asynctask-", SYSTEM);
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    let is_ours = |line: &Line| {
        line.user.username.starts_with(&ours)
            && ["create", "update", "patch", "delete"].contains(&line.verb.as_str())
            && !line.object.resource.ends_with("reviews")
    };
    lines.filter_map(|line| serde_json::from_str::<Line>(&line).ok()).filter(is_ours).count()
}

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

/// Does something while a definition is edited once a second.
pub(crate) fn while_edited<T>(ns: &Namespace, definition: &str, act: impl FnOnce() -> T) -> T {
    let edits = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if !edits.load(Ordering::Relaxed) {
                    return;
                }
                let title = json!({"spec": {"title": format!("Edit {number}")}}).to_string();
                ns.kubectl(&["patch", "taskdefinition", definition, "--type=merge", "-p", &title]);
                // That is its pace: nothing is waited for.
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        // Also when it panics: the scope waits for its threads.
        let _end = AtEnd(|| edits.store(false, Ordering::Relaxed));
        act()
    })
}

/// Does something when it is dropped.
pub(crate) struct AtEnd<F: Fn()>(pub(crate) F);

impl<F: Fn()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

pub(crate) struct Strangers(Child);

impl Strangers {
    /// They call until this is dropped.
    pub(crate) fn call() -> Self {
        let address = gateway_address().rsplit(':').next().unwrap();
        let mut strangers = Command::new("python3");
        strangers.args(["-c", STRANGERS, address]).arg(gateway_ca()).stdin(Stdio::piped()).stdout(Stdio::null());
        Self(strangers.spawn().unwrap())
    }
}

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
    let (begun, audit) = (Instant::now(), end_of_audit());
    let times = runs(quiet, what);
    let writes = writes_since(audit) as f64 / begun.elapsed().as_secs_f64();
    let stored: u64 = stored("").iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum();
    let (median, slowest) = (times[RUNS / 2], times[RUNS - 1]);
    let base = undisturbed.map_or(slowest, |times| times[RUNS - 1]);
    let [operator, gateway] = components.map(|pid| peak(&pid).unwrap_or(0) >> 10);
    println!(
        "| {what} | {:.1} | {:.1} | {:.2} | {operator} | {gateway} | {writes:.1} | {} |",
        median.as_secs_f64(),
        slowest.as_secs_f64(),
        slowest.as_secs_f64() / base.as_secs_f64(),
        stored >> 20
    );
    times
}

#[test]
fn another_tenants_runs_take_their_time_whatever_one_does() {
    let (quiet, hostile) = (Namespace::new("quiet"), Namespace::new("harm"));
    quiet.define("works", &script("works", "echo works", ""));
    println!(
        "| what one tenant does | median s | slowest s | beside undisturbed | operator MiB | gateway MiB | API writes/s | store MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let undisturbed = row(&quiet, "nothing", None);
    let mut slowest = Vec::new();
    let mut measure = |what: &str| slowest.push((what.to_owned(), row(&quiet, what, Some(&undisturbed))[RUNS - 1]));

    hostile.define("one", &script("one", "sleep 600", "  concurrency: {maxRunning: 1}"));
    for some in (0..WAITING).collect::<Vec<_>>().chunks(200) {
        let documents: Vec<String> = some.iter().map(|number| task(&format!("w-{number}"), "one")).collect();
        hostile.create(&documents.join("\n---\n"));
    }
    while_edited(&hostile, "one", || measure("waits-with-a-thousand-runs-and-edits"));
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

    let shell = format!("python3 - <<'REPORTS'{AGENT}{REPORTS}REPORTS\n");
    let loops = steps("loops", "", &[("work", &shell, "")]);
    hostile.define("loops", &loops.replace(&variable("HELLO_REPORT_IMAGE"), &variable("COURSE_OUTLINE_IMAGE")));
    for number in 0..3 {
        hostile.apply(&task(&format!("l-{number}"), "loops")).ok();
    }
    until("they report", || (!hostile.status("l-2")["steps"][0]["progress"].is_null()).then_some(()));
    measure("reports-as-fast-as-three-pods-can");
    hostile.kubectl(&["delete", "asynctasks", "--all"]).ok();

    let pods = |name: &str, program: &str, more: &str| {
        let shell = format!("python3 - <<'PROGRAM'{AGENT}{program}PROGRAM\n");
        let definition = steps(name, more, &[("work", &shell, "")]);
        let image = (variable("HELLO_REPORT_IMAGE"), variable("COURSE_OUTLINE_IMAGE"));
        hostile.define(name, &definition.replace(&image.0, &image.1));
        (0..3).for_each(|number| drop(hostile.apply(&task(&format!("{name}-{number}"), name)).ok()));
        (0..3).for_each(|number| {
            until("its program is at work", || {
                (!hostile.status(&format!("{name}-{number}"))["steps"][0]["progress"].is_null()).then_some(())
            });
        });
    };
    pods("holds", HOLDS, "");
    measure("holds-ninety-bodies-of-four-megabytes-open");
    hostile.kubectl(&["delete", "asynctasks", "--all"]).ok();

    pods("fills", FILLS, "  maxOutputSize: 64Mi\n  outputs: [{name: x, step: work, path: x}]");
    measure("writes-what-three-runs-may-of-64-mib");
    hostile.kubectl(&["delete", "asynctasks", "--all"]).ok();

    let strangers = Strangers::call();
    measure("calls-with-unknown-tokens");
    drop(strangers);

    let most = undisturbed[RUNS - 1] * 2;
    let late: Vec<_> = slowest.iter().filter(|(_, slowest)| *slowest > most).collect();
    assert!(late.is_empty(), "slower than {most:?}: {late:?}");
}
