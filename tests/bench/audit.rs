//! What was written to the API server, from its audit log. The log of a bench is metadata of writes only.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use crate::support::SYSTEM;

/// A finished write.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Write {
    #[serde(rename = "requestURI")]
    uri: String,
    user: User,
    #[serde(default)]
    pub(crate) object_ref: Object,
    response_status: Status,
    pub(crate) request_received_timestamp: Timestamp,
}

#[derive(Clone, Debug, Deserialize)]
struct User {
    username: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Object {
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
}

impl Write {
    pub(crate) fn is_event(&self) -> bool {
        self.object_ref.resource == "events"
    }

    /// Of the status of a run.
    pub(crate) fn is_status(&self) -> bool {
        self.object_ref.resource == "asynctasks" && self.object_ref.subresource == "status"
    }

    /// Successful, and of the operator or the gateway.
    fn is_ours(&self) -> bool {
        let name = self.user.username.strip_prefix(&format!("system:serviceaccount:{SYSTEM}:"));
        let ours = matches!(name, Some("asynctask-operator" | "asynctask-gateway"));
        ours && self.response_status.code < 300 && !self.uri.contains("dryRun")
    }
}

/// A place in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(u64);

fn log() -> File {
    let path = std::env::var_os("ASYNCTASK_AUDIT_LOG").expect("ASYNCTASK_AUDIT_LOG is not set: run tests/bench/run.sh");
    File::open(path).unwrap()
}

/// The end of the log as it is now.
pub(crate) fn mark() -> Mark {
    Mark(log().metadata().unwrap().len())
}

/// What operator and gateway have written in a namespace since.
pub(crate) fn ours_since(mark: Mark, namespace: &str) -> Vec<Write> {
    let mut log = log();
    log.seek(SeekFrom::Start(mark.0)).unwrap();
    let lines = BufReader::new(log).lines().map_while(Result::ok);
    let needle = format!("\"namespace\":\"{namespace}\"");
    let writes = lines.filter(|line| line.contains(&needle)).filter_map(|line| serde_json::from_str(&line).ok());
    writes.filter(|write: &Write| write.is_ours() && write.object_ref.namespace == namespace).collect()
}

/// The most writes within so many seconds.
pub(crate) fn most_within(writes: &[Write], seconds: i64) -> usize {
    let mut times: Vec<Timestamp> = writes.iter().map(|write| write.request_received_timestamp).collect();
    times.sort();
    let within =
        |from: Timestamp| times.iter().filter(|at| **at >= from && at.as_second() - from.as_second() < seconds).count();
    times.iter().map(|from| within(*from)).max().unwrap_or_default()
}

#[test]
fn only_finished_writes_of_ours_count() {
    let line = |user: &str, code: u16, uri: &str| -> Write {
        serde_json::from_value(serde_json::json!({
            "verb": "patch", "requestURI": uri, "user": {"username": user}, "responseStatus": {"code": code},
            "objectRef": {"resource": "asynctasks", "subresource": "status", "namespace": "n", "name": "t"},
            "requestReceivedTimestamp": "2026-01-01T00:00:00.500000Z",
        }))
        .unwrap()
    };
    let operator = "system:serviceaccount:asynctask-system:asynctask-operator";
    assert!(line(operator, 200, "/a").is_ours() && line(operator, 200, "/a").is_status());
    assert!(!line(operator, 409, "/a").is_ours(), "refused");
    assert!(!line(operator, 201, "/a?dryRun=All").is_ours(), "tried");
    assert!(!line("system:admin", 200, "/a").is_ours(), "somebody else's");
    assert_eq!(most_within(&[line(operator, 200, "/a"), line(operator, 200, "/a")], 1), 2);
}
