//! The pods of the operator's own steps: the agent's image, no author's code, and where they may run like their step's.

use serde_json::{Map, Value, json};

use super::agent::Agent;
use asynctask_contract::env::{AGENT_FILE, CONTAINER};

/// Of an author's pod what says where pods may run and whose images they may pull.
const KEPT: [&str; 5] = ["imagePullSecrets", "nodeSelector", "tolerations", "affinity", "runtimeClassName"];

/// The part of an author's template that a built-in step of his keeps.
#[must_use]
pub(super) fn placement(template: &Value) -> Value {
    let spec: Map<String, Value> =
        KEPT.iter().filter_map(|field| Some(((*field).to_owned(), template["spec"].get(field)?.clone()))).collect();
    json!({"spec": spec})
}

/// The container that does the work. Passes the `restricted` profile.
pub(super) fn container(agent: &Agent) -> Value {
    json!({
        "name": CONTAINER,
        "image": agent.image,
        "imagePullPolicy": "IfNotPresent",
        "command": [format!("/{AGENT_FILE}"), "run"],
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}
