//! A large file on its way into a store, and a command that does not live to see it arrive.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::stores::seaweed;
use crate::support::{Namespace, SYSTEM, kubectl, run, script, until};

/// 64 parts: on its way for some seconds.
const SIZE: u64 = 1 << 30;
/// Parts that the command line sends at once.
const IN_FLIGHT: usize = 4;

/// The id that a command left behind.
fn begun(state: &Path) -> Option<String> {
    let files: Vec<PathBuf> = std::fs::read_dir(state.join("kubectl-asynctask/uploads"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    let id = std::fs::read_to_string(files.first()?).ok()?;
    (!id.is_empty()).then_some(id)
}

/// How many parts the gateway was asked for in a namespace.
fn asked_for(ns: &Namespace) -> usize {
    let log = kubectl(&["-n", SYSTEM, "logs", "deploy/asynctask-gateway", "--since=10m"]).ok();
    log.lines().filter(|line| line.contains("/uploads/{id}/parts") && line.contains(&ns.name)).count()
}

#[test]
fn an_upload_whose_command_was_killed_is_gone_on_with_by_the_next() {
    seaweed();
    let ns = Namespace::new("uploads");
    let ada = ns.person("ada", Some("edit"));
    ns.define(
        "takes",
        &script("takes", "stat -c %s $ASYNCTASK_INPUTS/data", "  store: seaweed\n  inputs: [{name: data}]"),
    );
    let folder = tempfile::tempdir().unwrap();
    let (file, state) = (folder.path().join("data"), folder.path().join("state"));
    File::create(&file).unwrap().set_len(SIZE).unwrap();
    let input = format!("data={}", file.display());
    let command = || {
        let mut command = Command::new("kubectl");
        command.args(["asynctask", "run", "takes", "--name", "one", "--input", &input, "--wait"]);
        command.env("KUBECONFIG", ada.kubeconfig()).env("XDG_STATE_HOME", &state);
        command
    };

    let mut killed = command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let id = until("the upload is begun", || begun(&state));
    let parts = until("parts of it are stored", || {
        let path = format!("/api/v1/namespaces/{}/uploads/{id}", ns.name);
        let view: Value = ada.http("GET", &path, &[]).json();
        let parts = view["parts"].as_array()?.len();
        (parts > 1).then_some(parts)
    });
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(ns.get("asynctask", "one").is_null(), "it was killed too late: the file was sent before");

    let said = run(&mut command(), None);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    let task = ns.get("asynctask", "one");
    assert_eq!(task["spec"]["inputs"]["data"]["upload"], id, "the same upload");
    let all = usize::try_from(SIZE >> 24).unwrap();
    let asked = asked_for(&ns);
    println!("{all} parts, {parts} were seen stored when the command was killed, {asked} were asked for in all");
    assert!(asked >= all && asked <= all + IN_FLIGHT, "{asked} of {all}: what was stored was sent again");
    assert_eq!(begun(&state), None, "nothing is left to go on with");
}
