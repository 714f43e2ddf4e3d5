//! The life of a run as tables and as random walks, without a cluster.

mod chance;
mod endings;
mod fanout;
mod life;
mod spread;
mod steps;
mod walks;

use crate::agent::{Agent, GatewayAccess, Injection};
use crate::decide::{Action, Claim, News, Plan, StepNews, Verdict, plan};
use crate::definition::{ValidatedDefinition, validate};
use crate::snapshot::{
    Admission, CommitFact, DefinitionFact, EarlierRun, Execution, ExitFact, FailureFact, JobEnd, JobFact, JobRef,
    LogFact, Phase, PodFact, Remains, Results, Seen, Snapshot, Trouble, Turn, UploadFact, job_name, lingering,
    needs_pods, once_since, phase, running,
};
use crate::status::{Applied, ShardSeal, operators_part, status};
use crate::stores::NoStore;
use crate::tally::Tally;
use asynctask_api::condition;
use asynctask_api::names::{
    ANNOTATION_ABANDON, ANNOTATION_FINISHED, ANNOTATION_REPLACED_BY, ANNOTATION_UNREADABLE, FINALIZER_OUTPUTS,
};
use asynctask_api::state::StepState;
use asynctask_api::task::{AsyncTaskStatus, RevisionRef, StoreRef};
use asynctask_api::{AsyncTask, TaskDefinitionSpec, TaskState};
use asynctask_contract::wire::{CommittedFile, FailedBy, FailureReport, StoppedBy, Termination};
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
    /// What the API server and the store hold of the run.
    world: World,
    remains: Remains,
}

#[derive(Clone, Default)]
struct World {
    jobs: Vec<JobFact>,
    results: BTreeMap<String, Result<Results, Trouble>>,
    pods: Vec<PodFact>,
    turn: Option<Turn>,
    tallies: BTreeMap<String, Tally>,
    quiet_until: Option<Timestamp>,
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
            retry: None,
            outputs: BTreeMap::new(),
            earlier: Ok(None),
            jobs: Vec::new(),
            pods: Vec::new(),
            turn: None,
            agent: Some(Agent {
                image: "agent:1".into(),
                pull_secrets: Vec::new(),
                injection: Injection::ImageVolume,
                gateway: GatewayAccess { url: "https://gateway".into(), ca_pem: "PEM".into() },
            }),
        },
        world: World { turn: Some(Turn::Go), ..World::default() },
        remains: Remains::default(),
    }
}

fn content(extra: Value) -> Arc<ValidatedDefinition> {
    let mut spec = json!({"title": "T", "steps": [{"name": "import", "stages": ["Reading"], "template": template()}]});
    for (key, value) in extra.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    let spec: TaskDefinitionSpec = serde_json::from_value(spec).expect("decodes");
    Arc::new(validate(&spec).expect("valid"))
}

fn template() -> Value {
    json!({"spec": {"containers": [{"name": "task", "image": "i", "command": ["c"]}]}})
}

fn definition(extra: Value) -> DefinitionFact {
    DefinitionFact::Ready { revision: revision(), content: content(extra) }
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
        failed_by: Some(FailedBy::Program),
        stopped_by: None,
        stage: None,
        log_tail: "line".into(),
        log: log.then(|| file("log")),
    }
}

fn pod(uid: &str) -> PodFact {
    let (name, step) = (format!("pod-{uid}"), "import".into());
    PodFact { uid: uid.into(), name, step, attempt: 1, created: Some(at(1)), ..PodFact::default() }
}

fn exit(code: i32, reason: &str) -> ExitFact {
    ExitFact { code, reason: reason.into(), at: None, said: None, message: String::new() }
}

/// What an agent leaves with its pod.
fn said(code: &str, failed_by: FailedBy, stopped_by: Option<StoppedBy>) -> Termination {
    Termination {
        outcome: "Failed".into(),
        code: Some(code.into()),
        failed_by: Some(failed_by),
        stopped_by,
        message: format!("{code} happened"),
        stage: None,
        committed: false,
        log_tail: "tail".into(),
    }
}

fn backoff() -> JobEnd {
    JobEnd::Failed { reason: "BackoffLimitExceeded".into(), message: "Job has reached the backoff limit".into() }
}

impl Story {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn content(&self) -> Arc<ValidatedDefinition> {
        match &self.admission.definition {
            DefinitionFact::Ready { content, .. } => Arc::clone(content),
            DefinitionFact::Missing(_) | DefinitionFact::NotReady(_) => content(json!({})),
        }
    }

    /// As the effects read it: results only of steps whose Job has ended or is gone, pods only where they are needed.
    fn execution(&self, now: Timestamp) -> Execution {
        let status = self.task.status.clone().unwrap_or_default();
        let mut results = BTreeMap::new();
        for (step, attempt) in running(&status) {
            let job = self.world.jobs.iter().find(|job| job.step == step && job.attempt == attempt);
            let over = lingering(&self.world.pods, step, attempt).is_some_and(|(_, until)| until <= now);
            if job.is_none_or(|job| job.end.is_some()) || over {
                let left = self.world.results.get(step).cloned().unwrap_or_else(|| Ok(Results::default()));
                let pods = self.world.pods.iter().cloned();
                let with_pods = |left: Results| Results { pods: left.pods.into_iter().chain(pods).collect(), ..left };
                results.insert(step.to_owned(), left.map(with_pods));
            }
        }
        let needed = needs_pods(&self.task, &self.world.jobs, now);
        Execution {
            content: Ok(self.content()),
            jobs: self.world.jobs.clone(),
            results,
            tallies: self.world.tallies.iter().map(|(step, tally)| (step.clone(), Ok(tally.clone()))).collect(),
            quiet_until: self.world.quiet_until,
            pods: if needed { self.world.pods.clone() } else { Vec::new() },
            turn: self.world.turn.clone(),
            agent: self.admission.agent.clone(),
        }
    }

    fn seen(&self, now: Timestamp) -> Seen {
        match phase(&self.task) {
            Phase::New => Seen::New(Box::new(Admission {
                jobs: self.world.jobs.clone(),
                pods: if self.task.spec.is_canceled() { self.world.pods.clone() } else { Vec::new() },
                turn: self.world.turn.clone(),
                ..self.admission.clone()
            })),
            Phase::Pinned => Seen::Pinned(Box::new(self.execution(now))),
            Phase::Restored => Seen::Nothing,
            Phase::Finished => Seen::Finished { takers: Vec::new() },
            Phase::Deleting => Seen::Deleting(self.remains.clone()),
        }
    }

    fn snapshot_at(&self, now: Timestamp) -> Snapshot {
        Snapshot { task: Arc::new(self.task.clone()), seen: self.seen(now) }
    }

    fn snapshot(&self) -> Snapshot {
        self.snapshot_at(at(0))
    }

    fn plan(&self, now: Timestamp) -> Plan {
        plan(&self.snapshot_at(now), now)
    }

    fn job(&self) -> JobFact {
        self.job_of("import", 1)
    }

    fn job_of(&self, step: &str, attempt: u32) -> JobFact {
        let name = job_name(&self.task, step, attempt);
        JobFact {
            uid: format!("uid-{name}"),
            name,
            ours: true,
            step: step.into(),
            attempt,
            revision: Some(revision().name),
            created: Some(at(1)),
            started: Some(at(1)),
            suspended: false,
            ready: true,
            deleting: false,
            end: None,
            indexes: None,
        }
    }

    /// What a world without faults makes of the actions.
    fn applied(&self, plan: &Plan) -> Applied {
        let mut applied = Applied::default();
        for action in &plan.actions {
            match action {
                Action::CreateJob { step, job } => {
                    let attempt = job["metadata"]["labels"]["asynctask.dev/attempt"].as_str().expect("a label");
                    let made = self.job_of(step, attempt.parse().expect("a number"));
                    applied.jobs.insert(step.clone(), made);
                }
                Action::Seal { step, .. } => drop(applied.manifests.insert(step.clone(), "5".repeat(64))),
                Action::SealShards { step, .. } => {
                    let tally = self.world.tallies.get(step).cloned().unwrap_or_default();
                    let outputs = BTreeMap::from([("log".to_owned(), (3, 30))]);
                    let seal = ShardSeal { manifest: "6".repeat(64), tally, outputs };
                    applied.shards.insert(step.clone(), seal);
                }
                _ => {}
            }
        }
        applied
    }

    /// Lets the operator do what it plans, with what came of it, and the API server keep what it says.
    fn step(mut self, now: Timestamp, outcome: impl FnOnce(&mut Applied)) -> Self {
        let (snapshot, plan) = (self.snapshot_at(now), self.plan(now));
        let mut applied = self.applied(&plan);
        outcome(&mut applied);
        let said = status(&snapshot, &plan, &applied, now);
        let made = applied.jobs.values().filter(|job| job.ours).cloned();
        self.world.jobs.extend(made);
        for action in plan.actions {
            match action {
                Action::Hold => self.task.metadata.finalizers = Some(vec![FINALIZER_OUTPUTS.into()]),
                Action::Mark(state) if applied.trouble.is_none() => {
                    let annotations = self.task.metadata.annotations.get_or_insert_default();
                    annotations.insert(ANNOTATION_FINISHED.into(), state.as_str().into());
                }
                Action::DeleteJob(job) => {
                    self.remains.jobs.retain(|other| other.uid != job.uid);
                    self.world.jobs.retain(|other| other.uid != job.uid);
                }
                Action::Release if applied.trouble.is_none() => self.task.metadata.finalizers = None,
                _ => {}
            }
        }
        self.keep(said);
        self
    }

    /// As the API server does: what the gateway wrote of the steps stays.
    fn keep(&mut self, said: AsyncTaskStatus) {
        let before = self.task.status.take().unwrap_or_default();
        let mut after = AsyncTaskStatus { progress: before.progress, ..said };
        for step in &mut after.steps {
            if let Some(known) = before.steps.iter().find(|known| known.name == step.name) {
                (step.stage, step.guarded, step.progress) =
                    (known.stage.clone(), known.guarded, known.progress.clone());
            }
        }
        self.task.status = Some(after);
    }

    fn go(self, now: i64) -> Self {
        self.step(at(now), |_| {})
    }

    fn admitted(self) -> Self {
        self.go(1)
    }

    /// The Job of the step's last attempt has ended, and this is what it left.
    fn left(self, step: &str, end: JobEnd, results: Result<Results, Trouble>) -> Self {
        self.with(|story| {
            story.world.results.insert(step.into(), results);
            let attempt = story.world.jobs.iter().filter(|job| job.step == step).map(|job| job.attempt).max();
            match end {
                JobEnd::Gone => story.world.jobs.retain(|job| job.step != step),
                end => {
                    let own = |job: &&mut JobFact| job.step == step && Some(job.attempt) == attempt;
                    if let Some(job) = story.world.jobs.iter_mut().find(own) {
                        job.end = Some(end);
                    }
                }
            }
        })
    }

    fn ended(self, end: JobEnd, results: Results) -> Self {
        self.left("import", end, Ok(results)).go(9)
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

    /// Whether somebody looks again within 75 s if no event ever comes; of a run that is over nobody does.
    fn is_looked_at_again(&self, now: i64) -> bool {
        let plan = self.plan(at(now));
        let waits = matches!(plan.news.verdict, Verdict::Is { state: TaskState::Pending, .. } | Verdict::Stays(_));
        let soon = plan.wake_at.is_some_and(|wake| wake <= at(now + 75));
        let over = match phase(&self.task) {
            Phase::New | Phase::Pinned => false,
            Phase::Restored => plan.news.verdict != Verdict::Unchanged,
            Phase::Finished => plan == Plan::rest() || !plan.actions.is_empty(),
            // What does not succeed is tried again.
            Phase::Deleting => plan == Plan::rest() || plan.actions.contains(&Action::Release),
        };
        plan.blocked || waits || soon || over
    }

    fn condition(&self, kind: &str) -> (&str, &str) {
        let found = self.status().conditions.iter().find(|condition| condition.type_ == kind).expect("condition");
        (&found.status, &found.reason)
    }
}

fn committed(pods: &[&str]) -> Results {
    let commit = |uid: &&str| CommitFact {
        pod_uid: (*uid).into(),
        files: vec![file("report"), file("log")],
        ..CommitFact::default()
    };
    Results { commits: pods.iter().map(commit).collect(), ..Results::default() }
}
