//! The life of a run as tables and as random walks, without a cluster.

mod chance;
mod life;

use crate::api::condition;
use crate::api::names::{ANNOTATION_FINISHED, FINALIZER_OUTPUTS};
use crate::api::state::StepState;
use crate::api::task::{AsyncTaskStatus, RevisionRef, StoreRef};
use crate::api::{AsyncTask, TaskDefinitionSpec, TaskState};
use crate::contract::wire::{CommittedFile, FailureReport, Termination};
use crate::plan::agent::{Agent, GatewayAccess, Injection};
use crate::plan::decide::{Action, Plan, Verdict, plan};
use crate::plan::definition::validate;
use crate::plan::snapshot::{
    Admission, CommitFact, DefinitionFact, Execution, ExitFact, FailureFact, JobEnd, JobFact, JobRef, LogFact, Phase,
    PodFact, Remains, Results, Seen, Snapshot, Trouble, UploadFact, job_name, phase,
};
use crate::plan::status::{Applied, operators_part, status};
use crate::plan::stores::NoStore;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const UID: &str = "0a1b2c3d-0000-4000-8000-000000000000";
const CREATED: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(CREATED + second).expect("in range")
}

/// A run, told as a story: `task("a").admitted().job_failed(137)`.
#[derive(Clone)]
struct Story {
    task: AsyncTask,
    admission: Admission,
    execution: Execution,
    remains: Remains,
}

fn task(name: &str) -> Story {
    let object = json!({
        "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask",
        "metadata": {
            "name": name, "namespace": "studio", "uid": UID, "generation": 1, "resourceVersion": "1",
            "creationTimestamp": at(0).to_string(), "finalizers": [FINALIZER_OUTPUTS],
        },
        "spec": {"definition": {"name": "import"}, "owner": "ada"},
    });
    Story {
        task: serde_json::from_value(object).expect("a task"),
        admission: Admission {
            definition: definition(json!({})),
            store: Ok(StoreRef { name: "team".into(), uid: "s-1".into() }),
            parameters: json!({}),
            uploads: BTreeMap::new(),
            job: None,
            agent: Some(Agent {
                image: "agent:1".into(),
                injection: Injection::ImageVolume,
                gateway: GatewayAccess { url: "https://gateway".into(), ca_pem: "PEM".into() },
            }),
        },
        execution: Execution::Runs,
        remains: Remains::default(),
    }
}

fn definition(extra: Value) -> DefinitionFact {
    let mut spec = json!({"title": "T", "steps": [{"name": "import", "stages": ["Reading"], "template": {"spec": {
        "containers": [{"name": "task", "image": "i", "command": ["c"]}],
    }}}]});
    for (key, value) in extra.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    let spec: TaskDefinitionSpec = serde_json::from_value(spec).expect("decodes");
    DefinitionFact::Ready { revision: revision(), content: Arc::new(validate(&spec).expect("valid")) }
}

fn revision() -> RevisionRef {
    RevisionRef { name: "import-0123456789".into(), uid: "r-1".into(), number: 4 }
}

fn file(output: &str) -> CommittedFile {
    let (path, sha256) = (format!("{output}.txt"), "0".repeat(64));
    CommittedFile { output: output.into(), seq: 0, path, size: 7, sha256, media_type: None }
}

fn report(code: &str, log: bool) -> FailureReport {
    FailureReport {
        code: code.into(),
        message: "no course.xml in the archive".into(),
        link: None,
        exit_code: 65,
        stage: None,
        log_tail: "line".into(),
        log: log.then(|| file("log")),
    }
}

fn pod(uid: &str) -> PodFact {
    PodFact { uid: uid.into(), name: format!("pod-{uid}"), created: Some(at(1)), ..PodFact::default() }
}

fn exit(code: i32, reason: &str) -> ExitFact {
    ExitFact { code, reason: reason.into(), said: None, message: String::new() }
}

fn backoff() -> JobEnd {
    JobEnd::Failed { reason: "BackoffLimitExceeded".into(), message: "Job has reached the backoff limit".into() }
}

impl Story {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn seen(&self) -> Seen {
        match phase(&self.task) {
            Phase::New => Seen::New(Box::new(self.admission.clone())),
            Phase::Running => Seen::Running(self.execution.clone()),
            Phase::Restored | Phase::Finished => Seen::Nothing,
            Phase::Deleting => Seen::Deleting(self.remains.clone()),
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot { task: Arc::new(self.task.clone()), seen: self.seen() }
    }

    fn plan(&self, now: Timestamp) -> Plan {
        plan(&self.snapshot(), now)
    }

    fn job(&self) -> JobFact {
        JobFact {
            name: job_name(&self.task, "import", 1),
            ours: true,
            revision: Some(revision().name),
            created: Some(at(1)),
            end: None,
        }
    }

    /// What a world without faults makes of the actions.
    fn applied(&self, plan: &Plan) -> Applied {
        let mut applied = Applied::default();
        for action in &plan.actions {
            match action {
                Action::CreateJob(_) => applied.job = Some(self.job()),
                Action::Seal { .. } => applied.manifest = Some("5".repeat(64)),
                _ => {}
            }
        }
        applied
    }

    /// Lets the operator do what it plans, with what came of it, and the API server keep what it says.
    fn step(mut self, now: Timestamp, outcome: impl FnOnce(&mut Applied)) -> Self {
        let (snapshot, plan) = (self.snapshot(), self.plan(now));
        let mut applied = self.applied(&plan);
        outcome(&mut applied);
        let said = status(&snapshot, &plan, &applied, now);
        for action in plan.actions {
            match action {
                Action::Hold => self.task.metadata.finalizers = Some(vec![FINALIZER_OUTPUTS.into()]),
                Action::Mark(state) => {
                    let annotations = self.task.metadata.annotations.get_or_insert_default();
                    annotations.insert(ANNOTATION_FINISHED.into(), state.as_str().into());
                }
                Action::CreateJob(_) if applied.trouble.is_none() => self.admission.job = applied.job.clone(),
                Action::DeleteJob(job) => self.remains.jobs.retain(|other| other.uid != job.uid),
                Action::Release if applied.trouble.is_none() => self.task.metadata.finalizers = None,
                _ => {}
            }
        }
        self.task.status = Some(said);
        self
    }

    fn go(self, now: i64) -> Self {
        self.step(at(now), |_| {})
    }

    fn admitted(self) -> Self {
        self.go(1)
    }

    fn ended(self, end: JobEnd, results: Results) -> Self {
        self.with(|story| story.execution = Execution::Ended { end, results: Ok(results) }).go(9)
    }

    fn job_failed(self, code: i32) -> Self {
        let pods = vec![PodFact { exit: Some(exit(code, "Error")), ..pod("p-1") }];
        self.ended(backoff(), Results { pods, ..Results::default() })
    }

    fn deleted(self, at_second: i64) -> Self {
        self.with(|story| story.task.metadata.deletion_timestamp = Some(Time(at(at_second))))
    }

    fn status(&self) -> &AsyncTaskStatus {
        self.task.status.as_ref().expect("it said something")
    }

    fn is(&self, state: TaskState, reason: &str) -> &Self {
        let status = self.status();
        assert_eq!((status.state, status.reason.as_deref()), (Some(state), Some(reason)), "{:?}", status.message);
        self
    }

    fn says(&self, part: &str) -> &Self {
        let message = self.status().message.as_deref().unwrap_or_default();
        assert!(message.contains(part), "{message:?} should say {part:?}");
        self
    }

    fn condition(&self, kind: &str) -> (&str, &str) {
        let found = self.status().conditions.iter().find(|condition| condition.type_ == kind).expect("condition");
        (&found.status, &found.reason)
    }
}

fn committed(pods: &[&str]) -> Results {
    let commit = |uid: &&str| CommitFact { pod_uid: (*uid).into(), files: vec![file("report"), file("log")] };
    Results { commits: pods.iter().map(commit).collect(), ..Results::default() }
}
