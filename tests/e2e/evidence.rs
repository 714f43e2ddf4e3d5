//! What is known once a wait has run out: the runs, Jobs and pods of the namespace with their Events, what agent, operator
//! and gateway logged about them, and what the API server was asked. Bounded, and without any Secret: only the kinds listed
//! here are read, of a run not its parameters, of a request not its bodies.
//!
//! Nothing here panics: it runs in tests that fail, also while they unwind.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use asynctask_operator::api::names::LABEL_STEP;
use asynctask_operator::contract::env::CONTAINER;
use serde_json::Value;

use super::SYSTEM;

#[path = "evidence/describe.rs"]
mod describe;

use describe::{describe, is_ours, list, requests, text, uid, unfinished};

/// Of a namespace.
const KINDS: &str = "asynctasks,taskdefinitions,taskrevisions,jobs,pods,leases,events";
/// Of the namespace of operator and gateway, and of the cluster.
const SYSTEM_KINDS: &str = "deployments,pods,leases,events,outputstores,nodes";
/// Namespaces that are shown at most; those with an unfinished run come first.
const NAMESPACES: usize = 4;
/// Namespaces that are examined to find them.
const CANDIDATES: usize = 16;
/// Characters of a line.
const WIDTH: usize = 600;
/// Pods whose logs are shown, and lines of each.
const AGENTS: (usize, usize) = (3, 8);
/// The most lines of each section of a namespace: with their headings fewer than 200.
const RUNS: usize = 28;
const CHILDREN: usize = 32;
const EVENTS: usize = 24;
const REQUESTS: usize = 40;
/// Of all components together.
const LOGS: usize = 40;
/// Components whose logs are read.
const COMPONENTS: usize = 5;
/// The last lines of each component, whatever they are about.
const TAIL: usize = 15;
/// Bytes from the end of a log on this machine.
const READ: u64 = 4 << 20;

/// Namespaces, each with the thread that added it; the newest last.
type Registry = Vec<(ThreadId, String)>;

/// Of the tests that are running.
static OPEN: Mutex<Registry> = Mutex::new(Vec::new());
/// Whose evidence was shown.
static SHOWN: Mutex<Registry> = Mutex::new(Vec::new());

fn locked(registry: &Mutex<Registry>) -> MutexGuard<'_, Registry> {
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on the waits of this thread are about this namespace too.
pub(crate) fn opened(namespace: &str) {
    locked(&OPEN).push((std::thread::current().id(), namespace.to_owned()));
}

/// The namespace is not used any more.
pub(crate) fn closed(namespace: &str) {
    locked(&OPEN).retain(|(_, name)| name != namespace);
}

/// Prints what was waited for in vain, and the evidence of the namespaces it is about.
pub(crate) fn show(what: &str) {
    let (me, open) = (std::thread::current().id(), locked(&OPEN).clone());
    let namespaces = concerned(what, &open, me);
    locked(&SHOWN).extend(namespaces.iter().map(|name| (me, name.clone())));
    println!("######## {what}\n{}", of(&namespaces));
}

/// Prints the evidence of a namespace whose test fails, unless a wait has shown it, or enough of the test's.
pub(crate) fn show_once(namespace: &str) {
    let me = std::thread::current().id();
    {
        let mut shown = locked(&SHOWN);
        let enough = shown.iter().filter(|(thread, _)| *thread == me).count() >= NAMESPACES;
        if enough || shown.iter().any(|(_, name)| name == namespace) {
            return;
        }
        shown.push((me, namespace.to_owned()));
    }
    println!("######## the test of {namespace} fails\n{}", of(&[namespace.to_owned()]));
}

/// The namespaces a wait is about: those it names, else those of its thread, else all, as a thread of a test's own may have
/// made none. The newest come first.
fn concerned(what: &str, open: &[(ThreadId, String)], me: ThreadId) -> Vec<String> {
    let chosen = |which: &dyn Fn(&(ThreadId, String)) -> bool| -> Vec<String> {
        open.iter().rev().filter(|entry| which(entry)).map(|(_, name)| name.clone()).collect()
    };
    let named = chosen(&|(_, name)| words(what).any(|word| word == name));
    let own = if named.is_empty() { chosen(&|(thread, _)| *thread == me) } else { named };
    if own.is_empty() { chosen(&|_| true) } else { own }
}

/// The words of a text that may be names or UIDs: none is a part of another.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
}

/// The evidence of these namespaces and of what they all depend on, as text.
pub(crate) fn of(namespaces: &[String]) -> String {
    let system = objects(SYSTEM, SYSTEM_KINDS);
    let logs = component_logs(system.as_deref().unwrap_or_default());
    // An API server that did not answer once is not waited for again.
    let read = |name: &String| system.as_ref().map_err(String::clone).and_then(|_| objects(name, KINDS));
    let mut found: Vec<_> = namespaces.iter().take(CANDIDATES).map(|name| (name, read(name))).collect();
    found.sort_by_key(|(_, objects)| !objects.iter().flatten().any(unfinished));
    let mut lines = Vec::new();
    for (name, objects) in found.into_iter().take(NAMESPACES) {
        lines.extend(Observed::new(name, objects, &logs).render());
    }
    if let Some(more @ 1..) = namespaces.len().checked_sub(NAMESPACES) {
        lines.push(format!("== {more} more namespaces, of {}", namespaces.join(", ")));
    }
    lines.extend(render_system(system, &logs));
    lines.into_iter().map(|line| bounded(&line)).collect::<Vec<_>>().join("\n")
}

/// A log, oldest line first.
struct Log {
    name: String,
    lines: Vec<String>,
}

/// What is known of a namespace.
struct Observed {
    namespace: String,
    objects: Result<Vec<Value>, String>,
    agents: Vec<String>,
    requests: Vec<String>,
    /// What each component logged about it.
    logs: Vec<Log>,
}

impl Observed {
    fn new(namespace: &str, objects: Result<Vec<Value>, String>, logs: &[Log]) -> Self {
        let known = objects.as_deref().unwrap_or_default();
        let mut uids: BTreeSet<String> = known.iter().filter(|it| is_ours(it)).filter_map(uid).collect();
        let requests = match std::env::var_os("ASYNCTASK_AUDIT_LOG").map(File::open) {
            Some(Ok(file)) => requests(BufReader::new(file), namespace, &mut uids),
            Some(Err(error)) => vec![format!("the audit log cannot be read: {error}")],
            None => vec!["ASYNCTASK_AUDIT_LOG is not set".to_owned()],
        };
        // Most lines of the operator name a run by its UID only.
        let about = |line: &&String| words(line).any(|word| word == namespace || uids.contains(word));
        let logs = logs
            .iter()
            .map(|log| Log { name: log.name.clone(), lines: log.lines.iter().filter(about).cloned().collect() })
            .collect();
        let agents = agents(namespace, known);
        Self { namespace: namespace.to_owned(), objects, agents, requests, logs }
    }

    fn render(&self) -> Vec<String> {
        let mut lines = vec![format!("== namespace {}", self.namespace)];
        match &self.objects {
            Err(error) => lines.push(format!("its objects cannot be read: {error}")),
            Ok(objects) => {
                let of = |kinds: &[&str]| -> Vec<String> {
                    let mut found: Vec<&Value> =
                        objects.iter().filter(|it| kinds.contains(&text(&it["kind"]))).collect();
                    found.sort_by_key(|object| !unfinished(object));
                    found.into_iter().flat_map(describe).collect()
                };
                let mut runs = of(&["AsyncTask"]);
                runs.extend(of(&["TaskDefinition", "TaskRevision"]));
                lines.extend(first("runs and definitions", runs, RUNS));
                let mut children = of(&["Job"]);
                children.extend(of(&["Pod"]));
                children.extend(of(&["Lease"]));
                lines.extend(first("Jobs, pods and leases", children, CHILDREN));
                let mut events = of(&["Event"]);
                events.sort();
                lines.extend(last("Events", &events, EVENTS));
            }
        }
        lines.extend(last("logs of pods", &self.agents, AGENTS.0 * AGENTS.1));
        lines.extend(last("requests to the API server", &self.requests, REQUESTS));
        for log in &self.logs {
            lines.extend(last(&format!("{} about it", log.name), &log.lines, LOGS / self.logs.len().max(1)));
        }
        lines
    }
}

/// Operator, gateway, stores and nodes, and the last lines of the former.
fn render_system(objects: Result<Vec<Value>, String>, logs: &[Log]) -> Vec<String> {
    let mut lines = vec![format!("== namespace {SYSTEM} and the cluster")];
    match objects {
        Err(error) => lines.push(format!("the API server does not answer: {error}")),
        Ok(objects) => {
            let (events, others): (Vec<_>, Vec<_>) = objects.iter().partition(|it| it["kind"] == "Event");
            lines.extend(first("objects", others.into_iter().flat_map(describe).collect(), CHILDREN));
            let mut events: Vec<String> = events.into_iter().flat_map(describe).collect();
            events.sort();
            lines.extend(last("Events", &events, TAIL));
        }
    }
    for log in logs {
        lines.extend(last(&format!("{}, last lines", log.name), &log.lines, TAIL));
    }
    lines
}

/// A heading, and the first of these lines.
fn first(heading: &str, mut lines: Vec<String>, most: usize) -> Vec<String> {
    let left_out = lines.len().saturating_sub(most);
    lines.truncate(most);
    lines.insert(0, titled(heading, left_out));
    lines
}

/// A heading, and the last of these lines.
fn last(heading: &str, lines: &[String], most: usize) -> Vec<String> {
    let left_out = lines.len().saturating_sub(most);
    let mut kept = vec![titled(heading, left_out)];
    kept.extend_from_slice(&lines[left_out..]);
    kept
}

fn titled(heading: &str, left_out: usize) -> String {
    if left_out == 0 { format!("-- {heading}") } else { format!("-- {heading} ({left_out} more lines left out)") }
}

/// One line of at most [`WIDTH`] characters.
fn bounded(line: &str) -> String {
    let mut line = line.trim_end().replace('\n', " | ");
    if let Some((at, _)) = line.char_indices().nth(WIDTH) {
        line.truncate(at);
        line.push('…');
    }
    line
}

/// What kubectl prints, or why it does not. It is not waited for longer than a minute.
fn kubectl(args: &[&str]) -> Result<String, String> {
    let mut command = Command::new("timeout");
    command.args(["60", "kubectl", "--request-timeout=10s"]).args(args).stdin(Stdio::null());
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

fn objects(namespace: &str, kinds: &str) -> Result<Vec<Value>, String> {
    let list = kubectl(&["-n", namespace, "get", kinds, "-o", "json"])?;
    let mut list: Value = serde_json::from_str(&list).map_err(|error| error.to_string())?;
    match list.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => Ok(items),
        _ => Err("kubectl printed something other than a list".to_owned()),
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// The last lines of the pods of steps, unfinished ones first. Agent and program share a container.
fn agents(namespace: &str, objects: &[Value]) -> Vec<String> {
    // On a fake node there is no container.
    let begun = |pod: &&Value| list(&pod["status"]["containerStatuses"]).iter().any(|c| c["containerID"].is_string());
    let of_step = |pod: &&Value| pod["kind"] == "Pod" && pod["metadata"]["labels"][LABEL_STEP].is_string();
    let mut pods: Vec<&Value> = objects.iter().filter(of_step).filter(begun).collect();
    pods.sort_by_key(|pod| (unfinished(pod), text(&pod["metadata"]["creationTimestamp"])));
    let tail = format!("--tail={}", AGENTS.1);
    let said = |pod: &&Value| {
        let name = text(&pod["metadata"]["name"]);
        let said = kubectl(&["-n", namespace, "logs", name, "-c", CONTAINER, &tail]);
        let said = lines(&said.unwrap_or_else(|error| error));
        said.into_iter().map(|line| format!("{name}: {line}")).collect::<Vec<_>>()
    };
    pods.iter().rev().take(AGENTS.0).flat_map(said).collect()
}

/// Logs of operator and gateway: files of processes on this machine, and those of pods.
fn component_logs(system: &[Value]) -> Vec<Log> {
    let folders = ["FAULTS_FOLDER", "BENCH_FOLDER"].into_iter().filter_map(std::env::var_os);
    let mut logs: Vec<Log> = folders.flat_map(|folder| logs_in(&PathBuf::from(folder))).collect();
    for pod in system.iter().filter(|it| it["kind"] == "Pod") {
        let name = text(&pod["metadata"]["name"]);
        let restarted = list(&pod["status"]["containerStatuses"]).iter().any(|c| c["restartCount"] != 0);
        let args = ["-n", SYSTEM, "logs", name, "--since=15m", "--tail=20000"];
        let before = if restarted { kubectl(&[&args[..], &["--previous"]].concat()).ok() } else { None };
        let mut said = lines(&before.unwrap_or_default());
        said.extend(lines(&kubectl(&args).unwrap_or_else(|error| error)));
        logs.push(Log { name: name.to_owned(), lines: said });
    }
    logs.truncate(COMPONENTS);
    logs
}

fn logs_in(folder: &Path) -> Vec<Log> {
    let mut files: Vec<PathBuf> = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "log"));
    files.sort();
    let log = |file: PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Log { name, lines: end_of(&file).map_or_else(|error| vec![error.to_string()], |text| lines(&text)) }
    };
    files.into_iter().map(log).collect()
}

/// The last [`READ`] bytes of a file.
fn end_of(file: &Path) -> std::io::Result<String> {
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(READ)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn observed(objects: Vec<Value>) -> Observed {
        let (agents, requests, logs) = (Vec::new(), Vec::new(), Vec::new());
        Observed { namespace: "ns-1".to_owned(), objects: Ok(objects), agents, requests, logs }
    }

    fn shown(objects: Vec<Value>) -> String {
        observed(objects).render().join("\n")
    }

    #[test]
    fn a_run_that_goes_on_is_shown_with_what_it_waits_for() {
        let finished = json!([{"type": "Finished", "status": "True"}]);
        let shown = shown(vec![
            json!({"kind": "AsyncTask", "metadata": {"name": "over"},
                   "status": {"state": "Complete", "conditions": finished, "steps": [{"name": "hidden"}]}}),
            json!({"kind": "AsyncTask", "metadata": {"name": "stuck", "uid": "u", "finalizers": ["f/1", "f/2"]},
                   "spec": {"cancel": true},
                   "status": {"state": "InProgress", "message": "two\nlines", "steps": [{"name": "wo", "state": "Running"}]}}),
            json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": {"phase": "Pending",
                   "conditions": [{"type": "Ready", "status": "False", "reason": "Odd", "message": "not yet"}],
                   "containerStatuses": [{"name": "task", "restartCount": 0, "state": {"waiting": {"reason": "Pulls"}}}]}}),
            json!({"kind": "Event", "lastTimestamp": "T2", "reason": "Pulling", "message": "m", "count": 3,
                   "involvedObject": {"kind": "Pod", "name": "p"}}),
            json!({"kind": "Event", "eventTime": "T1", "reason": "Scheduled", "message": "m",
                   "involvedObject": {"kind": "Pod", "name": "p"}}),
        ]);
        let lines: Vec<&str> = shown.lines().collect();
        let at =
            |start: &str| lines.iter().position(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{shown}"));
        assert!(at("AsyncTask stuck, uid u, held by f/1 and f/2, cancel: InProgress") < at("AsyncTask over: Complete"));
        assert!(shown.contains(r#"step {"name":"wo","state":"Running"}"#) && !shown.contains("hidden"), "{shown}");
        let pod =
            r#"Pod p: Pending on n; Ready=False Odd: not yet (); task {"waiting":{"reason":"Pulls"}} restarted 0 ×"#;
        assert!(at(pod) < at("T1 Pod/p Scheduled 1 ×: m") && at("T1") < at("T2 Pod/p Pulling 3 ×: m"));
    }

    #[test]
    fn a_flood_is_bounded() {
        let many = |line: &str| -> Vec<String> { (0..1000).map(|n| format!("{line} {n}")).collect() };
        let kinds = ["AsyncTask", "TaskDefinition", "Job", "Pod", "Lease", "Event"];
        let object = |n: usize| {
            let status = json!({"conditions": [{"type": "Ready"}], "steps": [{"name": "s"}]});
            json!({"kind": kinds[n % kinds.len()], "metadata": {"name": n.to_string()}, "status": status})
        };
        let log = |n: usize| Log { name: format!("log {n}"), lines: many("logged") };
        let flood = Observed {
            agents: many("said"),
            requests: many("asked"),
            logs: (0..COMPONENTS).map(log).collect(),
            ..observed((0..10_000).map(object).collect())
        };
        let lines = flood.render();
        assert!(lines.len() <= 200, "{} lines", lines.len());
        assert!(lines.iter().any(|line| line == "asked 999") && !lines.iter().any(|line| line == "asked 0"));
        assert!(lines.iter().any(|line| line.starts_with("-- requests to the API server (960 more")), "{lines:#?}");
        assert_eq!(bounded(&format!("two\nlines {}", "é".repeat(10_000))).chars().count(), WIDTH + 1);
    }

    #[test]
    fn a_namespace_is_not_taken_for_one_that_begins_alike() {
        for text in ["ns-1", r#"{"namespace":"ns-1"}"#, "/namespaces/ns-1/tasks", "ns-10 and ns-1"] {
            assert!(words(text).any(|word| word == "ns-1"), "{text}");
        }
        for text in ["ns-10", "ns-1-x", "xns-1", "of nobody"] {
            assert!(!words(text).any(|word| word == "ns-1"), "{text}");
        }
    }

    #[test]
    fn a_wait_is_about_what_it_names_else_its_threads_else_all() {
        let me = std::thread::current().id();
        let other = std::thread::spawn(|| std::thread::current().id()).join().unwrap();
        let open = [(other, "a-1".to_owned()), (me, "b-1".to_owned()), (me, "b-2".to_owned())];
        assert_eq!(concerned("one of a-1 is Complete", &open, me), ["a-1"]);
        assert_eq!(concerned("it works", &open, me), ["b-2", "b-1"]);
        let nobody = std::thread::spawn(|| std::thread::current().id()).join().unwrap();
        assert_eq!(concerned("it works", &open, nobody), ["b-2", "b-1", "a-1"]);
    }
}
