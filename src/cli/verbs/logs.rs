//! `logs`: of the live pod while there is one, else the stored one, which outlives it.

use std::collections::BTreeSet;

use futures::{AsyncReadExt, StreamExt};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{ListParams, LogParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use reqwest::Url;

use crate::cluster::{ClusterError, is_transient, status, watch_failure};
use crate::connect::Session;
use crate::error::CliError;
use crate::exit::Exit;
use crate::follow::exit_of;
use crate::gateway::Gateway;
use crate::inputs::CHUNK;
use crate::terminal::{PrintError, say};
use crate::verbs::outputs;
use crate::verbs::shards::{sharded, step_of};
use asynctask_api::AsyncTask;
use asynctask_api::names::{ANNOTATION_SHARDS, LABEL_ATTEMPT, LABEL_STEP, LABEL_TASK_UID};
use asynctask_contract::env::{CONTAINER, LOG_OUTPUT};
use asynctask_contract::people::DownloadTicket;
use asynctask_plan::shards::ShardSet;

/// Labels of pods that Kubernetes sets.
const JOB: &str = "batch.kubernetes.io/job-name";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// Print what the program of a run wrote
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the run
    name: String,
    /// Only this step; needed with --shard where several run in shards
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    /// Only this shard, by its number from 0
    #[arg(long, value_name = "N")]
    shard: Option<u32>,
    /// Go on until the run ends, or the shard has given its result
    #[arg(short, long)]
    follow: bool,
}

/// A log that is nowhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogsError {
    /// Nothing ran yet.
    #[error("AsyncTask {name:?} has not started: {state}. With -f the command waits for it")]
    NotStarted {
        /// Task.
        name: String,
        /// What it waits for.
        state: String,
    },
    /// Only the stored log may be read, and it is stored at the end.
    #[error(
        "the pods of AsyncTask {name:?} cannot be read with your rights, and the stored log comes with the end of \
         the run: with -f the command waits for it"
    )]
    NotStored {
        /// Task.
        name: String,
    },
    /// Of many pods one has to be chosen.
    #[error(
        "step {step:?} of AsyncTask {name:?} runs in shards, and each has its own log: name one with --step {step} \
         --shard N. `kubectl asynctask shards {name} --step {step}` lists them"
    )]
    Shards {
        /// Task.
        name: String,
        /// Step.
        step: String,
    },
    /// The store has none of it.
    #[error(
        "{part} of AsyncTask {name:?} has no log: it has not started, or its program wrote nothing. \
         `kubectl asynctask status {name}` tells how far it is"
    )]
    NoneOf {
        /// Task.
        name: String,
        /// `step "send"`, `shard 7 of step "send"`
        part: String,
    },
    /// The run left none.
    #[error("AsyncTask {name:?} has ended and left no log: its program wrote nothing, or never ran")]
    None {
        /// Task.
        name: String,
    },
}

/// Prints the log of the newest pod, or follows them all.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<Exit, CliError> {
    let act = format!("read AsyncTask {:?}", args.name);
    let task = session.tasks().get(&args.name).await.map_err(ClusterError::on(act))?;
    let part = part(&task, args).map_err(|error| *error)?;
    let Some(pods) = Pods::of(session, &task, &part).await? else {
        stored(session, &task, &part).await?;
        return Ok(Exit::Ok);
    };
    if args.follow {
        follow(session, &pods, &task, &part).await?
    } else {
        once(session, &pods, &task, &part).await?
    }
    Ok(Exit::Ok)
}

/// Whose log is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// Of every step of one pod.
    Run,
    Step(String),
    Shard(String, u32),
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Run => f.write_str("it"),
            Self::Step(step) => write!(f, "step {step:?}"),
            Self::Shard(step, shard) => write!(f, "shard {shard} of step {step:?}"),
        }
    }
}

/// What is asked for. The logs of a fan-out are as many as its shards: never all of them.
fn part(task: &AsyncTask, args: &Args) -> Result<Part, Box<CliError>> {
    if let Some(shard) = args.shard {
        return match step_of(task, args.step.as_deref()) {
            Ok(step) => Ok(Part::Shard(step, shard)),
            Err(error) => Err(Box::new(error.into())),
        };
    }
    let many = sharded(task);
    let shards = |step: &str| LogsError::Shards { name: task.name_any(), step: step.to_owned() };
    let refused = |step: &str| Box::new(CliError::from(shards(step)));
    if let Some(step) = &args.step {
        return if many.contains(&step.as_str()) { Err(refused(step)) } else { Ok(Part::Step(step.clone())) };
    }
    let authors = task.status.iter().flat_map(|status| &status.plan).filter(|planned| planned.built_in.is_none());
    match many.as_slice() {
        [first, ..] if authors.count() == many.len() => Err(refused(first)),
        [first, ..] => {
            let hint = shards(first).to_string();
            say(&format!("Only what steps of one pod wrote is shown: {hint}"));
            Ok(Part::Run)
        }
        [] => Ok(Part::Run),
    }
}

async fn once(session: &Session, pods: &Pods, task: &AsyncTask, part: &Part) -> Result<(), CliError> {
    let found = match pods.list().await {
        Ok(found) => Some(found),
        Err(error) if error.status().is_some_and(|s| s.code == 403) => None,
        Err(error) => return Err(error.into()),
    };
    if *part == Part::Run {
        return all(session, task, found).await;
    }
    let Some(found) = found else { return stored(session, task, part).await };
    let started = found.iter().filter(|pod| has_started(pod)).max_by_key(|pod| created(pod));
    match started {
        Some(pod) => match copy(&pods.api, &pod.name_any(), false, &mut Lines::plain()).await? {
            Copied::All => Ok(()),
            Copied::Gone => stored(session, task, part).await,
        },
        None => stored(session, task, part).await,
    }
}

/// The log of each step, in their order, the failed one first. With more than one each line has its step before it.
async fn all(session: &Session, task: &AsyncTask, found: Option<Vec<Pod>>) -> Result<(), CliError> {
    let readable = found.is_some();
    let found = found.unwrap_or_default();
    let newest = |step: &str| {
        let of_step = |pod: &&Pod| pod.labels().get(LABEL_STEP).is_some_and(|label| label == step) && has_started(pod);
        found.iter().filter(of_step).max_by_key(|pod| created(pod))
    };
    let ran = ran(task);
    let steps: Vec<(&str, Option<&Pod>)> = ran.iter().map(|step| (*step, newest(step))).collect();
    if steps.is_empty() || !readable && exit_of(task).is_none() {
        let name = task.name_any();
        let is_over = exit_of(task).is_some();
        return Err(match (is_over, readable) {
            (true, _) => LogsError::None { name },
            (false, true) => LogsError::NotStarted { name, state: waits_for(task, &found) },
            (false, false) => LogsError::NotStored { name },
        }
        .into());
    }
    let width = steps.iter().map(|(step, _)| step.len()).max().unwrap_or_default();
    let mut shown = 0;
    for (step, pod) in &steps {
        let mut lines = if steps.len() > 1 { Lines::of(&format!("{step:width$} │ ")) } else { Lines::plain() };
        let copied = match pod {
            Some(pod) => copy(&session.pods(), &pod.name_any(), false, &mut lines).await?,
            None => Copied::Gone,
        };
        if copied == Copied::Gone {
            let gateway = session.gateway().await?;
            let link = link(&gateway, &session.namespace, &task.name_any(), &Part::Step((*step).to_owned()));
            match gateway.ask::<DownloadTicket>(link.clone()).await {
                Ok(ticket) => outputs::lines(&gateway, link, &ticket.file, &mut lines).await?,
                Err(error) if error.status() == Some(404) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        lines.end()?;
        shown += 1;
    }
    if shown == 0 { Err(LogsError::None { name: task.name_any() }.into()) } else { Ok(()) }
}

/// Steps of one pod that have begun, in their order, the one that failed the run first.
fn ran(task: &AsyncTask) -> Vec<&str> {
    let Some(status) = &task.status else { return Vec::new() };
    let failed = status.failure.as_ref().and_then(|failure| failure.step.as_deref());
    let built_in = |name: &str| status.plan.iter().any(|planned| planned.name == name && planned.built_in.is_some());
    let began =
        status.steps.iter().filter(|step| (step.attempt.is_some() || step.adopted.is_some()) && step.shards.is_none());
    let mut names: Vec<&str> = began.map(|step| step.name.as_str()).filter(|name| !built_in(name)).collect();
    names.sort_by_key(|name| Some(*name) != failed);
    names
}

/// Every pod of the run as it comes, until the run has ended. A run without any, or whose pods may not be read, shows
/// its stored log at the end.
async fn follow(session: &Session, pods: &Pods, task: &AsyncTask, part: &Part) -> Result<(), CliError> {
    let config = watcher::Config::default().labels(&pods.selector);
    let mut comings = watcher(pods.api.clone(), config).default_backoff().applied_objects().boxed();
    let mut changes = watcher::watch_object(session.tasks(), &task.name_any()).default_backoff().boxed();
    let mut seen = BTreeSet::new();
    let mut latest = task.clone();
    let mut readable = true;
    while exit_of(&latest).is_none() {
        tokio::select! {
            Some(pod) = comings.next(), if readable => match pod {
                Ok(pod) => {
                    pods.copy_new(&pod, &mut seen).await?;
                    // A shard is over before its run is, and no pod of it follows one that succeeded.
                    if matches!(part, Part::Shard(..)) && has_succeeded(&pod) {
                        break;
                    }
                }
                // What passes is tried again by the stream itself.
                Err(error) => readable = watch_failure(error).is_none_or(|e| is_transient(&e)),
            },
            Some(change) = changes.next() => match change {
                Ok(Some(task)) => latest = task,
                Ok(None) => return Ok(()),
                Err(error) => if let Some(e) = watch_failure(error).filter(|e| !is_transient(e)) {
                    return Err(ClusterError::new(format!("watch AsyncTask {:?}", task.name_any()), e).into());
                }
            }
        }
    }
    // A pod that began and ended between two looks.
    if readable && let Ok(mut rest) = pods.list().await {
        rest.sort_by_key(created);
        for pod in &rest {
            pods.copy_new(pod, &mut seen).await?;
        }
    }
    if seen.is_empty() { stored(session, &latest, part).await } else { Ok(()) }
}

/// The log in the store, through the gateway.
async fn stored(session: &Session, task: &AsyncTask, part: &Part) -> Result<(), CliError> {
    let name = task.name_any();
    match part {
        Part::Run if exit_of(task).is_none() => Err(LogsError::NotStored { name }.into()),
        Part::Run => all(session, task, Some(Vec::new())).await,
        Part::Step(_) | Part::Shard(..) => stored_of(session, &name, part).await,
    }
}

/// Of a step or a shard: there may be a log long before the run ends.
async fn stored_of(session: &Session, name: &str, part: &Part) -> Result<(), CliError> {
    let gateway = session.gateway().await?;
    let link = link(&gateway, &session.namespace, name, part);
    match gateway.ask::<DownloadTicket>(link.clone()).await {
        Ok(ticket) => outputs::stdout(&gateway, link, &ticket.file).await,
        Err(error) if error.status() == Some(404) => {
            Err(LogsError::NoneOf { name: name.to_owned(), part: part.to_string() }.into())
        }
        Err(error) => Err(error.into()),
    }
}

fn link(gateway: &Gateway, namespace: &str, name: &str, part: &Part) -> Url {
    let mut link = gateway.path(namespace, &["tasks", name, "outputs", LOG_OUTPUT, "files", "0", "download"]);
    match part {
        Part::Run => {}
        Part::Step(step) => drop(link.query_pairs_mut().append_pair("step", step)),
        Part::Shard(step, shard) => {
            link.query_pairs_mut().append_pair("step", step).append_pair("shard", &shard.to_string());
        }
    }
    link
}

/// Whether the log of a pod could be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copied {
    All,
    Gone,
}

/// The pods of one run, of a step or of a shard.
struct Pods {
    api: Api<Pod>,
    selector: String,
}

impl Pods {
    /// `None`: there can be no pod, or which one it is may not be read.
    async fn of(session: &Session, task: &AsyncTask, part: &Part) -> Result<Option<Self>, ClusterError> {
        let run = format!("{LABEL_TASK_UID}={}", task.uid().unwrap_or_default());
        let selector = match part {
            Part::Run => Some(format!("{run},!{INDEX}")),
            Part::Step(step) => Some(format!("{run},{LABEL_STEP}={step}")),
            Part::Shard(step, shard) => {
                let jobs: Api<Job> = Api::namespaced(session.client.clone(), &session.namespace);
                let params = ListParams::default().labels(&format!("{run},{LABEL_STEP}={step}"));
                match jobs.list(&params).await {
                    Ok(jobs) => of_shard(&jobs.items, *shard),
                    Err(error) if status(&error).is_some_and(|s| s.code == 403) => None,
                    Err(error) => return Err(ClusterError::new("list the Jobs of the step", error)),
                }
            }
        };
        Ok(selector.map(|selector| Self { api: session.pods(), selector }))
    }

    async fn list(&self) -> Result<Vec<Pod>, ClusterError> {
        let params = ListParams::default().labels(&self.selector);
        Ok(self.api.list(&params).await.map_err(ClusterError::on("list the pods of the run"))?.items)
    }

    /// Copies the log of a pod that has started and was not copied yet.
    async fn copy_new(&self, pod: &Pod, seen: &mut BTreeSet<String>) -> Result<(), CliError> {
        let uid = pod.uid().unwrap_or_default();
        if has_started(pod)
            && !seen.contains(&uid)
            && copy(&self.api, &pod.name_any(), true, &mut Lines::plain()).await? == Copied::All
        {
            seen.insert(uid);
        }
        Ok(())
    }
}

/// Bytes as they are: what a program writes is its own.
async fn copy(api: &Api<Pod>, name: &str, follow: bool, lines: &mut Lines) -> Result<Copied, CliError> {
    let params = LogParams { container: Some(CONTAINER.to_owned()), follow, ..LogParams::default() };
    let act = format!("read the log of pod {name:?}");
    let mut log = match api.log_stream(name, &params).await {
        Ok(log) => log,
        // Gone between the list and this call, its node gone, or its log not for us.
        Err(error) if status(&error).is_some_and(|s| matches!(s.code, 403 | 404)) => return Ok(Copied::Gone),
        Err(error) => return Err(ClusterError::new(act, error).into()),
    };
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = log
            .read(&mut buffer)
            .await
            .map_err(|e| ClusterError::new(format!("{act} to its end"), kube::Error::ReadEvents(e)))?;
        if n == 0 {
            return Ok(Copied::All);
        }
        lines.write(&buffer[..n])?;
    }
}

/// Selects the pods of a shard: those of the newest Job that has it.
fn of_shard(jobs: &[Job], shard: u32) -> Option<String> {
    let attempt = |job: &Job| job.labels().get(LABEL_ATTEMPT).and_then(|attempt| attempt.parse::<u32>().ok());
    let having = jobs.iter().filter_map(|job| Some((job, index(job, shard)?)));
    let (job, index) = having.max_by_key(|(job, _)| attempt(job))?;
    Some(format!("{JOB}={},{INDEX}={index}", job.name_any()))
}

/// By which index a Job runs a shard.
fn index(job: &Job, shard: u32) -> Option<u32> {
    let Some(some) = job.annotations().get(ANNOTATION_SHARDS) else { return Some(shard) };
    let place = ShardSet::unpack(some).ok()?.iter().position(|other| other == shard)?;
    u32::try_from(place).ok()
}

/// Standard output, with the same before each line.
pub(crate) struct Lines {
    prefix: String,
    fresh: bool,
}

impl Lines {
    fn plain() -> Self {
        Self::of("")
    }

    fn of(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), fresh: true }
    }

    /// Writes what comes next.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), PrintError> {
        let mut out = std::io::stdout().lock();
        Ok(self.write_to(bytes, &mut out)?)
    }

    pub(crate) fn write_to(&mut self, bytes: &[u8], out: &mut impl std::io::Write) -> std::io::Result<()> {
        if self.prefix.is_empty() {
            out.write_all(bytes)?;
            return out.flush();
        }
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.fresh {
                out.write_all(self.prefix.as_bytes())?;
            }
            out.write_all(line)?;
            self.fresh = line.ends_with(b"\n");
        }
        out.flush()
    }

    /// The next step begins a line of its own.
    fn end(&mut self) -> Result<(), PrintError> {
        if !self.prefix.is_empty() && !self.fresh { self.write(b"\n") } else { Ok(()) }
    }
}

fn created(pod: &Pod) -> Option<jiff::Timestamp> {
    pod.creation_timestamp().map(|t| t.0)
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|c| c.name == CONTAINER)
}

fn has_succeeded(pod: &Pod) -> bool {
    let ended = container(pod).and_then(|c| c.state.as_ref()?.terminated.as_ref());
    ended.is_some_and(|ended| ended.exit_code == 0)
}

fn has_started(pod: &Pod) -> bool {
    container(pod).and_then(|c| c.state.as_ref()).is_some_and(|s| s.running.is_some() || s.terminated.is_some())
}

/// What the newest pod waits for, else what the task says.
fn waits_for(task: &AsyncTask, pods: &[Pod]) -> String {
    let newest = pods.iter().max_by_key(|pod| created(pod));
    let waiting = newest.and_then(container).and_then(|c| c.state.as_ref()?.waiting.as_ref());
    let words = waiting.map(|w| [w.reason.as_deref(), w.message.as_deref()]);
    let known = task.status.as_ref();
    let words =
        words.unwrap_or_else(|| [known.and_then(|s| s.reason.as_deref()), known.and_then(|s| s.message.as_deref())]);
    let words: Vec<&str> = words.into_iter().flatten().collect();
    if words.is_empty() { "nothing is known of it yet".to_owned() } else { crate::words::clean(&words.join(": ")) }
}

#[cfg(test)]
mod tests {
    use super::{Args, Part, has_started, of_shard, part, waits_for};
    use asynctask_api::AsyncTask;
    use k8s_openapi::api::batch::v1::Job;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn pod(state: Value) -> Pod {
        let statuses = json!([{"name": "sidecar", "state": {"running": {}}}, {"name": "task", "state": state}]);
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"containerStatuses": statuses}}))
            .expect("a pod")
    }

    #[test]
    fn a_pod_has_a_log_once_the_container_task_runs_or_ran() {
        assert!(has_started(&pod(json!({"running": {}}))));
        assert!(has_started(&pod(json!({"terminated": {"exitCode": 1}}))));
        assert!(!has_started(&pod(json!({"waiting": {"reason": "PodInitializing"}}))), "a sidecar that runs is not it");
        assert!(!has_started(&Pod::default()));
    }

    #[test]
    fn a_shard_is_found_by_its_index_in_the_newest_job_that_runs_it() {
        let job = |name: &str, attempt: u32, shards: Option<&str>| -> Job {
            let annotations = shards.map(|shards| json!({"asynctask.dev/shards": shards}));
            let labels = json!({"asynctask.dev/attempt": attempt.to_string()});
            let metadata = json!({"name": name, "labels": labels, "annotations": annotations});
            serde_json::from_value(json!({ "metadata": metadata })).expect("a Job")
        };
        let jobs = [job("send-2", 2, Some("3,7-9")), job("send-1", 1, None)];
        let selector = |job, index| {
            Some(format!("batch.kubernetes.io/job-name={job},batch.kubernetes.io/job-completion-index={index}"))
        };
        assert_eq!(of_shard(&jobs, 8), selector("send-2", 2));
        assert_eq!(of_shard(&jobs, 4), selector("send-1", 4));
        assert_eq!(of_shard(&[], 4), None);
    }

    #[test]
    fn the_step_that_failed_comes_first_and_each_line_says_whose_it_is() {
        let step = |name: &str, attempt: Option<i32>| json!({"name": name, "state": "Complete", "attempt": attempt});
        let task: AsyncTask = serde_json::from_value(json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": "t"},
            "spec": {"definition": {"name": "d"}}, "status": {
                "failure": {"step": "count", "reason": "StepFailed", "message": "m"},
                "steps": [step("read", Some(1)), step("count", Some(3)), step("report", None), step("clean", Some(1))],
            },
        }))
        .expect("a task");
        assert_eq!(super::ran(&task), ["count", "read", "clean"]);
        let (mut lines, mut out) = (super::Lines::of("read │ "), Vec::new());
        for part in ["one\ntw", "o\n", "three"] {
            lines.write_to(part.as_bytes(), &mut out).expect("in memory");
        }
        assert_eq!(String::from_utf8(out).expect("text"), "read │ one\nread │ two\nread │ three");
    }

    #[test]
    fn the_logs_of_a_fan_out_are_asked_for_one_by_one() {
        let task: AsyncTask = serde_yaml_ng::from_str(include_str!("../golden/shards_during.yaml")).expect("a task");
        let wanted = |step: Option<&str>, shard| {
            let args = Args { name: "mail-1".into(), step: step.map(str::to_owned), shard, follow: false };
            part(&task, &args).map_err(|error| error.to_string())
        };
        assert_eq!(wanted(None, None), Ok(Part::Run));
        assert_eq!(wanted(Some("plan"), None), Ok(Part::Step("plan".into())));
        assert_eq!(wanted(None, Some(7)), Ok(Part::Shard("send".into(), 7)));
        assert!(wanted(Some("send"), None).expect_err("many").contains("--step send --shard N"));
        assert!(wanted(Some("plan"), Some(7)).expect_err("one pod").contains("there is send"));
    }

    #[test]
    fn what_a_run_waits_for_is_told_by_its_pod_or_by_itself() {
        let task: AsyncTask = serde_json::from_value(json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": "t"},
            "spec": {"definition": {"name": "d"}}, "status": {"reason": "StoreNotReady", "message": "no store"}
        }))
        .expect("a task");
        let waiting = pod(json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}));
        assert_eq!(waits_for(&task, &[waiting]), "ImagePullBackOff: no such image");
        assert_eq!(waits_for(&task, &[]), "StoreNotReady: no store");
    }
}
