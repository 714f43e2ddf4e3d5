//! A definition that is deleted, against an API server in memory.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::fake::{Senders, Server, context};
use asynctask_api::TaskRevision;
use asynctask_api::names::FINALIZER_RUNS;
use asynctask_api::state::RevisionState;
use asynctask_plan::revision;

const OURS: &str = "/apis/asynctask.dev/v1alpha1/namespaces/studio";

/// A definition that was deleted while a run was on each of its two revisions.
struct World {
    server: Server,
    controller: DefinitionController,
    _senders: Senders,
}

fn definition(title: &str) -> TaskDefinition {
    serde_json::from_value(json!({
        "apiVersion": "asynctask.dev/v1alpha1", "kind": "TaskDefinition",
        "metadata": {
            "name": "report", "namespace": "studio", "uid": "d-1", "generation": 2, "finalizers": [FINALIZER_RUNS],
            "deletionTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"title": title, "steps": [{"name": "run", "template": {"spec": {"containers": [
            {"name": "task", "image": "i@sha256:0", "command": ["c"]},
        ]}}}]},
    }))
    .expect("a definition")
}

fn world() -> World {
    let server = Server::default();
    let (context, senders) = context(&server, Path::new("/nowhere"));
    let pace = Pace::new("definition", DEADLINE, MAX_DELAY, context.reconciles.clone());
    let reporter = Reporter { client: context.client.clone(), events: context.events.clone() };
    let controller = DefinitionController { context, pace, reporter, proven: Mutex::default() };
    let put = |path: &str, object: Value| server.put(&format!("{OURS}/{path}"), object);
    for (number, title, state) in [(1, "Old", "Draining"), (2, "New", "Current")] {
        let mut revision = revision::build(&definition(title), number);
        revision.metadata.uid = Some(format!("r-{number}"));
        let name = revision.name_any();
        let mut revision = serde_json::to_value(revision).expect("JSON");
        revision["status"] = json!({"state": state});
        put(&format!("taskrevisions/{name}"), revision);
        let run = json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask",
            "metadata": {"name": format!("on-{number}"), "namespace": "studio"},
            "spec": {"definition": {"name": "report"}},
            "status": {"state": "InProgress", "revision": {"name": name}},
        });
        put(&format!("asynctasks/on-{number}"), run);
    }
    put("taskdefinitions/report", serde_json::to_value(definition("New")).expect("JSON"));
    World { server, controller, _senders: senders }
}

impl World {
    fn definition(&self) -> Option<TaskDefinition> {
        let found = self.server.get(&format!("{OURS}/taskdefinitions/report"))?;
        Some(serde_json::from_value(found).expect("a definition"))
    }

    async fn look(&self) -> Next {
        self.controller.look(&self.definition().expect("it is there")).await.expect("no fault")
    }

    fn ends(&self, run: &str) {
        self.server.change(&format!("{OURS}/asynctasks/{run}"), |task| task["status"]["state"] = json!("Complete"));
    }

    /// State of the revision of this title.
    fn state(&self, title: &str) -> Option<RevisionState> {
        let name = revision::build(&definition(title), 1).name_any();
        let found = self.server.get(&format!("{OURS}/taskrevisions/{name}")).expect("nobody removes it");
        let found: TaskRevision = serde_json::from_value(found).expect("a revision");
        found.status.and_then(|status| status.state)
    }

    fn draining(&self) -> Option<String> {
        self.definition().and_then(|definition| definition.status?.draining)
    }
}

#[tokio::test]
async fn the_revisions_of_a_deleted_definition_drain_and_retire_as_their_runs_end() {
    let world = world();
    assert_eq!(world.look().await, Next::LookAgain(DELETE_AGAIN));
    let states = |world: &World| (world.state("Old"), world.state("New"));
    assert_eq!(states(&world), (Some(RevisionState::Draining), Some(RevisionState::Draining)));
    assert_eq!(world.draining().as_deref(), Some("1, 2"));

    world.ends("on-1");
    assert_eq!(world.look().await, Next::LookAgain(DELETE_AGAIN));
    assert_eq!(states(&world), (Some(RevisionState::Retired), Some(RevisionState::Draining)));
    assert_eq!(world.draining().as_deref(), Some("2"));

    world.ends("on-2");
    assert_eq!(world.look().await, Next::Rest);
    assert!(world.definition().is_none(), "it is let go");
    assert_eq!(states(&world), (Some(RevisionState::Retired), Some(RevisionState::Retired)));
}
