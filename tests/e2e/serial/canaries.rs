//! Secrets are planted wherever one is given to us, and looked for wherever we say anything.

use serde_json::json;

use crate::stores::{AZURE_ACCOUNT, seaweed, secret_key};
use crate::support::{
    Namespace, SYSTEM, Upgraded, by_account, get, host_ip, kubectl, kubectl_in, script, task, until, variable,
};

/// Stores that cannot work, with what they were given: name, Secret, kind.
fn broken_stores(endpoint: &str) -> Vec<(&'static str, serde_json::Value, serde_json::Value)> {
    let dead = format!("http://{}:1", host_ip());
    let s3 = |name: &str| json!({"s3": {"endpoint": endpoint, "bucket": "tasks", "pathStyle": true, "credentialsSecret": {"name": name}}});
    let azure = |name: &str| {
        json!({"azure": {"account": AZURE_ACCOUNT, "container": "tasks", "endpoint": dead,
            "credentialsSecret": {"name": name}}})
    };
    vec![
        ("canary-s3", json!({"accessKeyId": "nobody", "secretAccessKey": "CANARY-S3-9d2f"}), s3("canary-s3")),
        (
            "canary-token",
            json!({"accessKeyId": "test-admin", "secretAccessKey": "CANARY-S3-9d2f", "sessionToken": "CANARY-TOKEN-9d2f"}),
            s3("canary-token"),
        ),
        (
            "canary-google",
            json!({"serviceAccountKey": r#"{"private_key": "CANARY-GOOGLE-9d2f"}"#}),
            json!({"gcs": {"bucket": "tasks", "endpoint": dead, "credentialsSecret": {"name": "canary-google"}}}),
        ),
        ("canary-azure", json!({"accountKey": "Q0FOQVJZLUFaVVJFLTlkMmY="}), azure("canary-azure")),
        ("canary-sas", json!({"sasToken": "sv=2021-12-02&sp=rwdl&sr=c&sig=CANARY-SAS-9d2f"}), azure("canary-sas")),
    ]
}

#[test]
fn no_secret_is_ever_said_not_even_at_debug_level() {
    seaweed();
    let _loud = Upgraded::set("log.filter", "debug");
    let ns = Namespace::new("canaries");
    let endpoint = get(&["outputstore", "seaweed"])["spec"]["s3"]["endpoint"].as_str().unwrap().to_owned();
    let mut canaries = vec![("the store's key", secret_key()), ("what was planted", "CANARY-".to_owned())];
    canaries.push(("Azure's key", "Q0FOQVJZLUFaVVJFLTlkMmY".to_owned()));
    let stores = broken_stores(&endpoint);
    for (name, data, spec) in &stores {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
        kubectl_in(&["-n", SYSTEM, "apply"], &secret.to_string()).ok();
        let store = json!({"apiVersion": "asynctask.dev/v1alpha1", "kind": "OutputStore", "metadata": {"name": name}, "spec": spec});
        kubectl_in(&["create"], &store.to_string()).ok();
        crate::support::wait("condition=Ready=False", &format!("outputstore/{name}"), 60);
    }

    // Runs that work and fail, people who may and may not, and what they are told.
    let more = "  store: seaweed\n  outputs: [{name: report, step: work, path: report.txt, visibility: Namespace}]";
    ns.define("works", &script("works", "echo working; echo x > $ASYNCTASK_OUTPUTS/report.txt; sleep 5", more));
    ns.define("fails", &script("fails", "$ASYNCTASK_AGENT fail --code Odd --message no", more));
    ns.apply(&task("t", "works")).ok();
    ns.apply(&task("f", "fails")).ok();
    let pod = until("the pod runs", || {
        let pods = ns.kubectl(&["get", "pods", "-l", "asynctask.dev/step=work", "-o", "json"]).ok();
        let pods: serde_json::Value = serde_json::from_str(&pods).unwrap();
        let pods = pods["items"].as_array().unwrap();
        let running = pods.iter().find(|pod| {
            pod["status"]["phase"] == "Running" && pod["metadata"]["name"].as_str().unwrap().starts_with("t-")
        })?;
        Some(running["metadata"]["name"].as_str().unwrap().to_owned())
    });
    let token = ns.kubectl(&["exec", &pod, "--", "cat", "/var/run/secrets/asynctask.dev/token"]).ok();
    canaries.push(("the pod's token", token.rsplit('.').next().unwrap().trim().to_owned()));
    assert_eq!(ns.finished("t")["state"], "Complete");
    assert_eq!(ns.finished("f")["state"], "Failed");
    let (alice, victor) = (ns.person("alice", Some("edit")), ns.person("victor", Some("view")));
    for person in [&alice, &victor] {
        canaries.push(("a person's token", person.token.rsplit('.').next().unwrap().to_owned()));
    }
    let tasks = format!("/api/v1/namespaces/{}/tasks", ns.name);
    let download = format!("{tasks}/t/outputs/report/files/0/download");
    let sent = alice.http("GET", &download, &[]);
    assert_eq!(sent.status, 303, "{sent:?}");
    let url = sent.header("location").unwrap().to_owned();
    let (_, signature) = url.split_once("X-Amz-Signature=").unwrap();
    canaries.push(("a signature", signature.split('&').next().unwrap().to_owned()));
    let json = ["-H", "Content-Type: application/json"];
    let told = [
        victor.http("GET", &download, &[]).body,
        alice.http("POST", &tasks, &[&json[..], &["-d", "{"]].concat()).body,
        alice.http("POST", &tasks, &[&json[..], &["-d", r#"{"definition": {"name": "absent"}}"#]].concat()).body,
        alice.http("DELETE", &format!("{tasks}/t/outputs/report"), &[]).body,
        alice.http("GET", &download, &[]).body,
        crate::support::http("GET", &tasks, &["-H", &format!("Authorization: Bearer {}x", alice.token)]).body,
    ];

    let log = |component: &str| kubectl(&["-n", SYSTEM, "logs", &format!("deployment/asynctask-{component}")]).ok();
    let metrics = |component: &str| {
        let label = format!("app.kubernetes.io/component={component}");
        let pods =
            kubectl(&["-n", SYSTEM, "get", "pods", "-l", &label, "-o", "jsonpath={.items[0].metadata.name}"]).ok();
        kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{SYSTEM}/pods/{pods}:8080/proxy/metrics")]).ok()
    };
    let audit = std::fs::read_to_string(variable("ASYNCTASK_AUDIT_LOG")).unwrap();
    let ours = |line: &&str| {
        serde_json::from_str(line)
            .is_ok_and(|line| by_account(&line, "asynctask-operator") || by_account(&line, "asynctask-gateway"))
    };
    let places = [
        ("the operator's log", log("operator")),
        ("the gateway's log", log("gateway")),
        ("the task's log", ns.kubectl(&["logs", &pod]).ok()),
        ("Events", kubectl(&["get", "events", "-A", "-o", "json"]).ok()),
        (
            "objects",
            kubectl(&["get", "outputstores,asynctasks,taskdefinitions,taskrevisions,jobs,pods", "-A", "-o", "json"])
                .ok(),
        ),
        ("the operator's metrics", metrics("operator")),
        ("the gateway's metrics", metrics("gateway")),
        ("answers", told.join("\n")),
        ("the audit log", audit.lines().filter(ours).collect::<Vec<_>>().join("\n")),
    ];
    for (place, text) in &places[..2] {
        assert!(text.contains(r#""level":"DEBUG""#), "{place} is not at debug level");
    }
    let mut found = Vec::new();
    for (place, text) in &places {
        println!("{place}: {} bytes", text.len());
        assert!(!text.is_empty(), "nothing is read from {place}");
        for (what, canary) in &canaries {
            if let Some(at) = text.find(canary.as_str()) {
                let line = text[..at].rsplit('\n').next().unwrap_or_default();
                found.push(format!("{what} is in {place}, after {:?}", &line[line.len().saturating_sub(300)..]));
            }
        }
    }
    for (name, ..) in &stores {
        kubectl(&["delete", "outputstore", name, "--wait=false"]).ok();
        kubectl(&["-n", SYSTEM, "delete", "secret", name]).ok();
    }
    assert!(found.is_empty(), "{found:#?}");
}
