//! Which requests are writes of a run, and what is to happen to one of them. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

/// A write of a run: the `nth` (from 1) of its kind, such as `POST jobs`. Told by kind and not by its place among all
/// writes, so that two controllers that race do not move it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) what: String,
    pub(crate) nth: usize,
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} #{}", self.what, self.nth)
    }
}

/// What happens at a point, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The operator is killed; the write is not made.
    CrashBefore,
    /// The write is made; the operator is killed before it learns so.
    CrashAfter,
    /// The write is made; its reply is lost.
    LoseReply,
    /// The write is not made; this status is the reply.
    Answer(u16),
    /// The write is made after this time.
    Hold(Duration),
}

/// The writes of one run so far, and the fault that is to come.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) writes: Vec<String>,
    planned: Option<(Point, Fault)>,
    pub(crate) struck: bool,
    /// A manifest is written, and the status does not name it yet.
    sealing: bool,
}

/// Writes a page of a result, or the manifest that names its pages.
pub(crate) const MANIFEST: &str = "PUT a manifest in the store";
const STATUS: &str = "PATCH asynctasks/status";
/// The decision that follows: the status names the manifest.
pub(crate) const SEAL: &str = "PATCH asynctasks/status that seals";

impl Run {
    fn arrive(&mut self, mut what: String) -> Option<Fault> {
        if what == MANIFEST {
            self.sealing = true;
        } else if what == STATUS && std::mem::take(&mut self.sealing) {
            SEAL.clone_into(&mut what);
        }
        let nth = self.writes.iter().filter(|seen| **seen == what).count() + 1;
        self.writes.push(what.clone());
        let (_, fault) = self.planned.take_if(|(point, _)| point.what == what && point.nth == nth)?;
        self.struck = true;
        Some(fault)
    }
}

/// All runs that are looked at, by namespace: each run has one of its own.
#[derive(Debug, Default)]
pub(crate) struct Runs(BTreeMap<String, Run>);

impl Runs {
    /// Looks at a namespace from now on.
    pub(crate) fn watch(&mut self, namespace: &str, planned: Option<(Point, Fault)>) {
        self.0.insert(namespace.to_owned(), Run { planned, ..Run::default() });
    }

    pub(crate) fn of(&self, namespace: &str) -> &Run {
        &self.0[namespace]
    }

    /// Counts a write to the API server and says what is to happen to it.
    pub(crate) fn api(&mut self, method: &str, path: &str, query: &str) -> Option<Fault> {
        let (namespace, what) = api_write(method, path, query)?;
        self.0.get_mut(namespace)?.arrive(what)
    }

    /// The same for the store. Whose object it is, is in the key; the keys of a bulk deletion are in its body.
    pub(crate) fn store(&mut self, method: &str, path: &str, body: &[u8]) -> Option<Fault> {
        if !matches!(method, "PUT" | "POST" | "DELETE") {
            return None;
        }
        let text = String::from_utf8_lossy(if method == "POST" { body } else { path.as_bytes() }).into_owned();
        let (_, run) = self.0.iter_mut().find(|(namespace, _)| text.contains(&format!("/{namespace}/")))?;
        let sealing = method == "PUT" && path.rsplit('/').next().is_some_and(|last| last.starts_with("manifest-"));
        run.arrive(if sealing { MANIFEST.to_owned() } else { format!("{method} in the store") })
    }
}

/// Namespace and kind of a write. Events are apart: they tell and decide nothing.
fn api_write<'a>(method: &str, path: &'a str, query: &str) -> Option<(&'a str, String)> {
    if !matches!(method, "POST" | "PUT" | "PATCH" | "DELETE") || query.contains("dryRun=") {
        return None;
    }
    let parts: Vec<&str> = path.split_once("/namespaces/")?.1.split('/').collect();
    let (namespace, resource) = match parts[..] {
        [_, "events", ..] => return None,
        [namespace, resource] | [namespace, resource, _] => (namespace, resource.to_owned()),
        [namespace, resource, _, part] => (namespace, format!("{resource}/{part}")),
        _ => return None,
    };
    Some((namespace, format!("{method} {resource}")))
}

/// The points of a list of writes.
pub(crate) fn points(writes: &[String]) -> Vec<Point> {
    let nth = |upto: usize| writes[..=upto].iter().filter(|what| **what == writes[upto]).count();
    (0..writes.len()).map(|i| Point { what: writes[i].clone(), nth: nth(i) }).collect()
}

#[test]
fn a_fault_strikes_the_nth_write_of_its_kind_once() {
    let mut runs = Runs::default();
    let second = Point { what: "PATCH asynctasks/status".to_owned(), nth: 2 };
    runs.watch("a", Some((second, Fault::LoseReply)));
    runs.watch("b", None);
    let path = |namespace: &str| format!("/apis/asynctask.dev/v1alpha1/namespaces/{namespace}/asynctasks/t/status");

    let struck: Vec<_> = ["a", "b", "a", "a"].iter().map(|ns| runs.api("PATCH", &path(ns), "")).collect();

    assert_eq!(struck, [None, None, Some(Fault::LoseReply), None]);
    assert_eq!(points(&runs.of("a").writes).last().unwrap().to_string(), "PATCH asynctasks/status #3");
}

#[test]
fn the_status_that_follows_a_manifest_is_the_one_that_seals() {
    let mut runs = Runs::default();
    runs.watch("a", None);
    let status = "/apis/asynctask.dev/v1alpha1/namespaces/a/asynctasks/t/status";
    runs.api("PATCH", status, "");
    runs.store("PUT", "/bucket/prefix/a/uid/work/manifest-0", b"");
    runs.store("PUT", "/bucket/prefix/a/uid/work/manifest-1", b"");
    runs.api("PATCH", status, "");
    runs.api("PATCH", status, "");
    assert_eq!(runs.of("a").writes, [STATUS, MANIFEST, MANIFEST, SEAL, STATUS]);
}

#[test]
fn reads_dry_runs_and_events_are_no_writes() {
    let jobs = "/apis/batch/v1/namespaces/a/jobs";
    assert_eq!(api_write("POST", jobs, ""), Some(("a", "POST jobs".to_owned())));
    assert_eq!(api_write("GET", jobs, ""), None);
    assert_eq!(api_write("POST", jobs, "dryRun=All"), None);
    assert_eq!(api_write("POST", "/apis/events.k8s.io/v1/namespaces/a/events", ""), None);
}

#[test]
fn a_bulk_deletion_in_the_store_belongs_to_the_run_whose_keys_it_names() {
    let mut runs = Runs::default();
    runs.watch("run-1", None);
    runs.watch("run-11", None);
    runs.store("POST", "/bucket", b"<Key>prefix/run-11/uid/work/log</Key>");
    runs.store("PUT", "/bucket/prefix/run-1/uid/work/x", b"");
    runs.store("GET", "/bucket/prefix/run-1/uid/work/x", b"");
    assert_eq!(runs.of("run-11").writes, ["POST in the store"]);
    assert_eq!(runs.of("run-1").writes, ["PUT in the store"]);
}
