//! The second store of the suite: a real SeaweedFS, registered as an OutputStore of the kind `s3`. And the other kinds.

use std::process::Command;
use std::sync::OnceLock;

use serde_json::json;

use crate::support::{Namespace, SYSTEM, cli, host_ip, kubectl, kubectl_in, steps, task};

#[path = "../support/stores.rs"]
mod others;
#[path = "../support/seaweedfs.rs"]
mod seaweedfs;

use seaweedfs::{Seaweed, SeaweedOptions};

/// Version of the Python package.
const AWSCLI: &str = "1.46.3";
/// Seconds a download URL of the store [`seaweed`] is good for: short, so that a test can see it end.
pub(crate) const TTL: u64 = 3;

/// Starts the server once for all tests and returns the name of its OutputStore.
pub(crate) fn seaweed() -> &'static str {
    static SERVER: OnceLock<Seaweed> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let server =
            Seaweed::start(&SeaweedOptions { bind_ip: host_ip().parse().unwrap(), ..SeaweedOptions::default() });
        // A static is never dropped: the script that started us stops the server by this pid.
        std::fs::write(crate::support::volume().with_file_name("seaweed.pid"), server.pid().to_string()).unwrap();
        secret("seaweed", &server.access_key, &server.secret_key);
        kubectl_in(&["apply"], &store("seaweed", &server.endpoint, &server.bucket)).ok();
        let said = kubectl(&["wait", "--for=condition=Ready", "outputstore/seaweed", "--timeout=60s"]);
        assert_eq!(said.code, 0, "{}", kubectl(&["get", "outputstore", "seaweed", "-o", "yaml"]).out);
        server
    });
    assert!(!server.endpoint.is_empty());
    "seaweed"
}

/// The name that Azure's test account has.
pub(crate) const AZURE_ACCOUNT: &str = others::AZURITE_ACCOUNT;

/// What nobody may ever see of [`seaweed`].
pub(crate) fn secret_key() -> String {
    let template = "go-template={{.data.secretAccessKey | base64decode}}";
    kubectl(&["-n", SYSTEM, "get", "secret", "seaweed", "-o", template]).ok()
}

/// Who the tests are at [`seaweed`].
pub(crate) fn access_key() -> String {
    let template = "go-template={{.data.accessKeyId | base64decode}}";
    kubectl(&["-n", SYSTEM, "get", "secret", "seaweed", "-o", template]).ok()
}

/// Another client of S3; installs it on the first use.
pub(crate) fn awscli() -> Command {
    let mut aws = Command::new(seaweedfs::python_package("awscli", AWSCLI).join("bin/python"));
    aws.args(["-m", "awscli"]);
    aws
}

fn secret(name: &str, access_key: &str, secret_key: &str) {
    kubectl_in(
        &["-n", SYSTEM, "apply"],
        &format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: {name}}}, \
             stringData: {{accessKeyId: {access_key}, secretAccessKey: {secret_key}}}}}"
        ),
    )
    .ok();
}

fn store(name: &str, endpoint: &str, bucket: &str) -> String {
    format!(
        "{{apiVersion: asynctask.dev/v1alpha1, kind: OutputStore, metadata: {{name: {name}}}, spec: {{prefix: e2e-{name}, \
         signedUrls: {{ttl: {TTL}s}}, s3: {{endpoint: '{endpoint}', bucket: {bucket}, pathStyle: true, \
         credentialsSecret: {{name: {name}}}}}}}}}"
    )
}

#[test]
fn a_store_with_wrong_credentials_says_which_secret_to_mend() {
    seaweed();
    let spec = crate::support::get(&["outputstore", "seaweed"])["spec"]["s3"].clone();
    secret("wrong", "nobody", "nothing");
    let (endpoint, bucket) = (spec["endpoint"].as_str().unwrap(), spec["bucket"].as_str().unwrap());
    kubectl_in(&["apply"], &store("wrong", endpoint, bucket)).ok();

    crate::support::wait("condition=Ready=False", "outputstore/wrong", 60);

    let ready = crate::support::get(&["outputstore", "wrong"])["status"]["conditions"][0].clone();
    println!("{ready:#}");
    assert_eq!(ready["reason"], "PermissionDenied");
    let message = ready["message"].as_str().unwrap();
    assert!(message.contains("wrong") && message.contains("Secret"), "{message}");
    assert!(!message.contains("nothing"), "the credential is shown: {message}");
    kubectl(&["delete", "outputstore", "wrong"]).ok();
}

#[test]
fn bucket_endpoint_and_prefix_of_a_store_are_immutable() {
    seaweed();
    for change in
        [r#"{"spec":{"prefix":"other"}}"#, r#"{"spec":{"s3":{"bucket":"other"}}}"#, r#"{"spec":{"prefix":null}}"#]
    {
        let said = kubectl(&["patch", "outputstore", "seaweed", "--type=merge", "-p", change]).refused();
        assert!(said.contains("immutable"), "{said}");
    }
}

/// More than one piece of it passes the gateway, each way.
const LINES: usize = 3_000_000;

#[test]
fn a_run_keeps_its_outputs_in_every_kind_of_store() {
    seaweed();
    let (google, azure) = (others::google(&host_ip()), others::azure(&host_ip()));
    let signing = crate::support::get(&["outputstore", "seaweed"]);
    for limit in ["length", "checksum", "once", "attachment", "parts"] {
        assert_eq!(signing["status"]["limits"][limit], true, "{limit}: {:#}", signing["status"]);
    }
    let said = signing["status"]["conditions"].as_array().unwrap().iter().find(|found| found["type"] == "LimitsKept");
    println!("{}", said.unwrap()["message"]);
    let mut inside = signing["spec"].clone();
    inside["transfer"] = json!("Proxied");
    inside["prefix"] = json!("e2e-inside");
    let endpoint = format!("{}/{}", azure.endpoint, others::AZURITE_ACCOUNT);
    let azure = json!({"azure": {"account": others::AZURITE_ACCOUNT, "container": others::BUCKET, "endpoint": endpoint,
        "credentialsSecret": {"name": "azure"}}});
    let google = json!({"gcs": {"bucket": others::BUCKET, "endpoint": google.endpoint,
        "credentialsSecret": {"name": "google"}}});
    for (name, key, value) in
        [("azure", "accountKey", others::AZURITE_KEY), ("google", "serviceAccountKey", others::GOOGLE_KEY)]
    {
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: value}});
        kubectl_in(&["-n", SYSTEM, "apply"], &secret.to_string()).ok();
    }
    let ns = Namespace::new("kinds");
    for (name, spec) in [("google", google), ("azure", azure), ("inside", inside)] {
        let store = json!({"apiVersion": "asynctask.dev/v1alpha1", "kind": "OutputStore", "metadata": {"name": name}, "spec": spec});
        kubectl_in(&["apply"], &store.to_string()).ok();
        let said = kubectl(&["wait", "--for=condition=Ready", &format!("outputstore/{name}"), "--timeout=60s"]);
        let found = crate::support::get(&["outputstore", name]);
        assert_eq!(said.code, 0, "{found:#}");
        assert_eq!((&found["status"]["transfer"], &found["status"]["limits"]), (&json!("Proxied"), &json!(null)));

        let shell = format!(r#"seq 1 {LINES} > "$ASYNCTASK_OUTPUTS/numbers.txt"; echo done"#);
        let outputs = format!("  store: {name}\n  outputs: [{{name: numbers, step: count, path: numbers.txt}}]");
        ns.define(name, &steps(name, &outputs, &[("count", &shell, "")]));
        ns.apply(&task(name, name)).ok();
        let status = ns.finished(name);
        assert_eq!((&status["state"], &status["store"]["name"]), (&json!("Complete"), &json!(name)), "{status:#}");
        let numbers = cli(&["-n", &ns.name, "outputs", "get", name, "numbers", "-o", "-"]).ok();
        assert!(numbers.lines().map(|line| line.parse::<usize>().unwrap()).eq(1..=LINES), "on {name}");
        assert_eq!(cli(&["-n", &ns.name, "logs", name]).ok().trim(), "done");

        // A store that is deleted waits for the run, and the run keeps what it has.
        kubectl(&["delete", "outputstore", name, "--wait=false"]).ok();
        let deleting = "jsonpath={.status.conditions[?(@.type=='Ready')].reason}=Deleting";
        crate::support::wait(deleting, &format!("outputstore/{name}"), 60);
        let why = crate::support::get(&["outputstore", name])["status"]["conditions"][0]["message"].clone();
        assert!(why.as_str().unwrap().contains(&format!("one is {name} in namespace {}", ns.name)), "{why}");
        assert_eq!(cli(&["-n", &ns.name, "outputs", "get", name, "numbers", "-o", "-"]).ok().lines().count(), LINES);

        cli(&["-n", &ns.name, "outputs", "rm", name, "numbers"]).ok();
        assert_ne!(cli(&["-n", &ns.name, "outputs", "get", name, "numbers", "-o", "-"]).code, 0, "gone from {name}");
        ns.kubectl(&["delete", "asynctask", name, "--timeout=60s"]).ok();
        crate::support::wait("delete", &format!("outputstore/{name}"), 60);
    }
}
