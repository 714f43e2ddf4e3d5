//! One attempt from the fence to the exit code: the order of things, and who may hold it up for how long.

use std::ffi::OsString;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::assemble;
use super::built_in::{Undone, work_of};
use super::child::{self, Exit, Reaper};
use super::client::{CallError, Gateway, Transport};
use super::emit::{Emission, EmitError};
use super::fetch::{FetchError, Peers};
use super::inputs;
use super::items::ItemResults;
use super::layout::Layout;
use super::log::Log;
use super::notice;
use super::outputs::{self, Found};
use super::progress::{Listener, Said};
use super::report::{Ending, Failure, write_termination};
use super::signals::Shutdown;
use super::stragglers::{self, Killed};
use super::upload::Uploader;
use asynctask_contract::env::exit;
use asynctask_contract::wire::{Assignment, CANCELED, Commit, Emitted, FailedBy, FailureReport, StoppedBy, Work, path};

/// Asked to stop and nobody answers: with a grace period of 30 s there has to be time left to say so.
const WAIT_WHEN_TOLD: Duration = Duration::from_secs(15);
const REPORT_WHEN_TOLD: Duration = Duration::from_secs(8);
/// The exit code tells the operator of a failure too, so its words are not waited for without end.
const REPORT: Duration = Duration::from_secs(120);

/// What a request to stop comes before, until the program has started.
const STARTED: &str = "the program was started";

/// Between SIGTERM and SIGKILL for a program that must not go on.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Runs `command` as one attempt of a task and returns the exit code: 0 only when the result is committed.
#[must_use]
pub fn run(layout: &Layout, command: &[OsString]) -> u8 {
    // One thread is enough to wait on sockets; files are read and hashed by two beside it. Each has memory of its own that
    // it does not give back, so more would make the agent larger and hardly faster.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            notice(format_args!("cannot begin: {error}"));
            return exit::CONTRACT;
        }
    };
    let code = runtime.block_on(whole(layout, command));
    runtime.shutdown_background();
    code
}

async fn whole(layout: &Layout, command: &[OsString]) -> u8 {
    let gateway = match Gateway::from_env(layout.token().to_owned()) {
        Ok(gateway) => Arc::new(gateway),
        Err(error) => return say(layout, &Ending::Failed(error.into()), None, None, String::new()),
    };
    let shutdown = match Shutdown::listen() {
        Ok(shutdown) => shutdown,
        Err(error) => {
            let failure = Failure::of_set_up(format_args!("cannot listen for signals: {error}"));
            return say(layout, &Ending::Failed(failure), None, None, String::new());
        }
    };
    let mut attempt = Attempt { layout, command, gateway, shutdown, stage: None, records: None };
    let ending = attempt.go().await.unwrap_or_else(Ending::Failed);
    attempt.close(&ending).await
}

struct Attempt<'a> {
    layout: &'a Layout,
    command: &'a [OsString],
    gateway: Arc<Gateway>,
    shutdown: Shutdown,
    /// Last stage entered.
    stage: Option<String>,
    /// There is none before the program has started.
    records: Option<Records>,
}

/// What there is to tell besides files.
#[derive(Default)]
struct Results {
    /// Items that are still being stored.
    emission: Option<Emission>,
    /// Items that are stored.
    emitted: Option<Emitted>,
    items: Option<ItemResults>,
    /// How many items the program was given.
    given: Option<u64>,
    /// What people should know of a result that counts.
    warning: Option<String>,
}

/// What the program has left besides its outputs.
struct Records {
    log: Log,
    uploader: Arc<Uploader>,
    storing: JoinHandle<()>,
}

impl Attempt<'_> {
    async fn go(&mut self) -> Result<Ending, Failure> {
        let reaper = Reaper::begin()?;
        let assignment = self.gateway.get("ask for the assignment", path::ASSIGNMENT);
        let work = match self.unless_told(STARTED, assignment).await?? {
            Assignment::Run(work) => *work,
            Assignment::AlreadyCommitted => return Ok(Ending::AlreadyCommitted),
            Assignment::Stop { message } => return Ok(Ending::Fenced { message }),
        };
        if self.command.is_empty() && work.built_in.is_none() {
            let said = "there is no command to run after `run --`";
            return Err(Failure::new("NoCommand", FailedBy::Contract, exit::CONTRACT, said));
        }
        self.layout.prepare(&work)?;
        let transport = Arc::new(Transport::new(Arc::clone(&self.gateway), work.store_ca.as_deref())?);
        let gateway = Arc::clone(&self.gateway);
        let peers = Peers { gateway: &gateway, transport: &transport };
        let given = match self.unless_told(STARTED, fetch(peers, self.layout, &work)).await? {
            Err(FetchError::CalledOff(message)) => return Ok(Ending::Fenced { message }),
            other => other?,
        };
        let uploader = Arc::new(Uploader::new(Arc::clone(&self.gateway), Arc::clone(&transport)));
        let log = self.keep_records(&work, &uploader)?;
        let results = match &work.built_in {
            Some(built_in) => {
                let doing = work_of(built_in, peers, self.layout, &work, uploader);
                match self.unless_told("its work was done", doing).await? {
                    Err(Undone::CalledOff(message)) => return Ok(Ending::Fenced { message }),
                    Err(Undone::Failed(failure)) => return Err(failure),
                    Ok(emitted) => Results { emitted, ..Results::default() },
                }
            }
            None => self.run_program(reaper, &work, &log, uploader).await?,
        };
        tokio::select! {
            published = self.publish(&work, Results { given, ..results }) => published?,
            waiting = self.told_and_waiting() => {
                let said = "the pod was asked to stop before the result could be published; it was waiting to";
                let said = format_args!("{said} {waiting}");
                return Err(Failure::new("Terminated", FailedBy::Platform, exit::GATEWAY, said));
            }
        }
        Ok(Ending::Succeeded)
    }

    /// Before the program has started, a request to stop ends everything at once. Built-in work has no program. `before`:
    /// what has not come to pass then.
    async fn unless_told<T>(&self, before: &str, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.shutdown.told() => {
                let doing = self.gateway.waits_for().map(|on| format!("; it was waiting to {on}")).unwrap_or_default();
                let said = format!("the pod was asked to stop before {before}{doing}");
                Err(Failure::new("Terminated", FailedBy::Platform, exit::TERMINATED, said))
            }
            done = work => Ok(done),
        }
    }

    /// Ends when the pod was asked to stop and nothing moves any more. Bytes that do move go on until the kubelet ends
    /// it: the grace period is the template's choice, and unknown here.
    async fn told_and_waiting(&self) -> String {
        self.shutdown.told().await;
        sleep(WAIT_WHEN_TOLD).await;
        loop {
            if let Some(waiting) = self.gateway.waits_for() {
                return waiting;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    fn keep_records(&mut self, work: &Work, uploader: &Arc<Uploader>) -> Result<Log, Failure> {
        let log = Log::new(&self.layout.scratch(), work.limits.log_bytes).map_err(failed("cannot keep a log"))?;
        let storing = tokio::spawn(log.clone().keep_storing(Arc::clone(uploader)));
        self.records = Some(Records { log: log.clone(), uploader: Arc::clone(uploader), storing });
        Ok(log)
    }

    async fn run_program(
        &mut self,
        mut reaper: Reaper,
        work: &Work,
        log: &Log,
        uploader: Arc<Uploader>,
    ) -> Result<Results, Failure> {
        let scratch = self.layout.scratch();
        let items = ItemResults::new(&scratch, &work.outputs, log.clone());
        let listener = Listener::begin(&self.layout.fifo(), work, Arc::clone(&self.gateway), items)
            .map_err(failed("cannot read progress"))?;
        let mut emission = match work.emits {
            Some(limits) => Some(
                Emission::listen(&self.layout.emit(), scratch, limits, uploader)
                    .map_err(failed("cannot read emitted items"))?,
            ),
            None => None,
        };
        let agent = std::env::current_exe().map_err(failed("cannot tell the agent's own path"))?;
        let program = child::start(self.command, self.layout.environment(&agent, work))?;
        let pid = program.pid;
        self.shutdown.pass_on_to(pid);
        let pumps = match log.pump(program).map_err(failed("cannot pass on what the program writes")) {
            Ok(pumps) => pumps,
            Err(failure) => {
                child::end_stragglers(pid);
                return Err(failure);
            }
        };

        let (ended, broken) = tokio::select! {
            ended = reaper.wait_for(pid) => (ended, None),
            error = broken(&mut emission) => (end_program(&mut reaper, pid, &error).await, Some(error)),
        };
        let stopped = self.shutdown.stopped_by();
        tokio::spawn(reaper.keep_on());
        // Only of a success is the result looked at: what still writes to it may come to its end, unless the pod has to stop.
        let (mut killed, mut interrupted) = (Killed::default(), None);
        if matches!((ended, &broken), (Exit::Code(0), None)) {
            let watched = [self.layout.outputs(), self.layout.emit()];
            let limit = Duration::from_secs(if stopped.is_some() { 0 } else { work.limits.writer_seconds });
            tokio::select! {
                biased;
                left = stragglers::wait(&watched, limit) => killed = left,
                () = self.shutdown.told() => {}
            }
            // A request to stop was passed on to them too: that they end then, before anybody looked even, is no sign that they
            // were done.
            interrupted = self.shutdown.stopped_by().filter(|_| stopped.is_none() || killed.wrote());
        }
        self.shutdown.pass_on_to_nobody();
        child::end_stragglers(pid);
        pumps.end().await;
        let (said, items) = listener.end().await;
        self.stage.clone_from(&said.stage);
        if let Some(error) = broken {
            return Err(error.into());
        }
        judge(ended, &said, stopped, log.last_words())?;
        if let Some(by) = interrupted {
            let said = "the pod was asked to stop while processes that the program had left behind were still at work";
            return Err(Failure::new("Terminated", blame(Some(by)), exit::TERMINATED, said));
        }
        // As any program that fails with exit code 0.
        let warning = killed.judge().map_err(|said| Failure::new("WriterKilled", FailedBy::Program, 1, said))?;
        if let Some(warning) = &warning {
            log.say(warning);
        }
        Ok(Results { emission, items: Some(items), warning, ..Results::default() })
    }

    /// Stores outputs and log, then commits. From here on the gateway decides whether it counts.
    async fn publish(&self, work: &Work, results: Results) -> Result<(), Failure> {
        let emitted = match results.emission {
            Some(emission) => Some(emission.finish().await?),
            None => results.emitted,
        };
        let counts = results.items.as_ref().and_then(|items| items.counts(results.given));
        let found = collect(self.layout, work, results.items)?;
        let Records { log, uploader, storing } = self.records.as_ref().expect("the program has run");
        let (files, log) = tokio::join!(uploader.store_all(found), log.store(uploader));
        storing.abort();
        let mut files = files?;
        match log {
            Ok(log) => files.extend(log),
            // The result is what people wait for; a log alone is no reason to withhold it.
            Err(error) => notice(format_args!("the log is not part of the result: {error}")),
        }
        let commit = Commit { files, emitted, items: counts, warning: results.warning };
        self.gateway.tell("publish the result", path::COMMIT, &commit).await.map_err(|error| match error {
            CallError::Refused { .. } => Failure::new("CommitRefused", error.failed_by(), exit::GATEWAY, error),
            CallError::Local { .. } | CallError::Answer { .. } => error.into(),
        })
    }

    /// Says how it ended to everybody who asks, and returns the exit code.
    async fn close(&self, ending: &Ending) -> u8 {
        let tail = self.records.as_ref().map(|records| records.log.tail()).unwrap_or_default();
        let code = say(self.layout, ending, self.stage.clone(), self.shutdown.stopped_by(), tail.clone());
        if let Ending::Failed(failure) = ending {
            let patience = if self.shutdown.is_told() { REPORT_WHEN_TOLD } else { REPORT };
            if timeout(patience, self.report(failure, tail, patience / 2)).await.is_err() {
                notice("the failure could not be reported to the gateway in time");
            }
        }
        code
    }

    async fn report(&self, failure: &Failure, log_tail: String, for_the_log: Duration) {
        let mut log = None;
        if let Some(Records { log: kept, uploader, storing }) = &self.records {
            match timeout(for_the_log, kept.store(uploader)).await {
                Ok(Ok(stored)) => log = stored,
                Ok(Err(error)) => notice(error),
                Err(_) => notice("the log could not be stored in time"),
            }
            storing.abort();
        }
        let report = FailureReport {
            code: failure.code.clone(),
            message: failure.message.clone(),
            link: failure.link.clone(),
            exit_code: failure.exit.into(),
            failed_by: Some(failure.by),
            stopped_by: self.shutdown.stopped_by(),
            stage: self.stage.clone(),
            log_tail,
            log,
        };
        if let Err(error) = self.gateway.tell("report the failure", path::FAILURE, &report).await {
            notice(error);
        }
    }
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::of_set_up(format_args!("{what}: {error}"))
}

/// Fetches what the program is given; answers how many items it is.
async fn fetch(peers: Peers<'_>, layout: &Layout, work: &Work) -> Result<Option<u64>, FetchError> {
    inputs::fetch(peers, &layout.inputs(), work).await?;
    match work.shard.as_ref().and_then(|shard| shard.items.as_ref()) {
        Some(items) => inputs::fetch_items(peers, &layout.items(), items).await.map(Some),
        None => Ok(None),
    }
}

/// What the program wrote as outputs, and what it said of items as such.
fn collect(layout: &Layout, work: &Work, items: Option<ItemResults>) -> Result<Vec<Found>, Failure> {
    let (root, limit) = (layout.outputs(), work.limits.files);
    let Some(items) = items else {
        return Ok(outputs::collect(&root, &assemble::declared(work), limit)?);
    };
    let written: Vec<_> = work.outputs.iter().filter(|output| !output.failed_items).cloned().collect();
    let failed = items.into_files(&work.outputs).map_err(|error| {
        Failure::new(
            "ItemsNotKept",
            FailedBy::Agent,
            exit::CONTRACT,
            format_args!(
                "the failed items could not be kept in the work folder: {error}; is the step's `workspace.size` enough?"
            ),
        )
    })?;
    let room = limit.saturating_sub(u32::try_from(failed.len()).unwrap_or(u32::MAX));
    let mut found = outputs::collect(&root, &written, room)?;
    found.extend(failed);
    Ok(found)
}

/// Never, for a program that emits nothing.
async fn broken(emission: &mut Option<Emission>) -> EmitError {
    match emission {
        Some(emission) => emission.broken().await,
        None => std::future::pending().await,
    }
}

/// Ends a program whose result can be none any more.
async fn end_program(reaper: &mut Reaper, pid: Pid, why: &EmitError) -> Exit {
    notice(format_args!("the program is ended: {why}"));
    child::signal_group(pid, Signal::SIGTERM);
    if let Ok(ended) = timeout(LAST_WORDS, reaper.wait_for(pid)).await {
        return ended;
    }
    child::signal_group(pid, Signal::SIGKILL);
    reaper.wait_for(pid).await
}

/// Leaves the termination message and a line in the pod's log.
fn say(layout: &Layout, ending: &Ending, stage: Option<String>, stopped_by: Option<StoppedBy>, tail: String) -> u8 {
    let code = ending.exit_code();
    match ending {
        Ending::Succeeded => {}
        Ending::AlreadyCommitted => notice("this step already has a committed result; nothing is started"),
        Ending::Fenced { message } => notice(format_args!("this attempt must not start: {message}")),
        Ending::Failed(failure) => notice(format_args!("{}: {}", failure.code, failure.message)),
    }
    if let Err(error) = write_termination(layout.termination(), ending.termination(stage, stopped_by, tail)) {
        notice(format_args!("the termination message was not written: {error}"));
    }
    code
}

/// Whether the program's end is a success; `stopped` says who had asked the pod to stop.
fn judge(ended: Exit, said: &Said, stopped: Option<StoppedBy>, last_line: Option<String>) -> Result<(), Failure> {
    let code = match ended.code() {
        0 if stopped.is_some() => exit::TERMINATED,
        0 => 1,
        code => code,
    };
    let by = blame(stopped);
    // Its own word counts, whatever the exit code: a result whose author says that it failed is never published.
    if let Some(failure) = &said.failure {
        let link = failure.link.clone();
        return Err(Failure { link, ..Failure::new(failure.code.clone(), by, code, &failure.message) });
    }
    match (ended, stopped) {
        (Exit::Code(0), None) => Ok(()),
        (Exit::Code(0), Some(_)) if said.done => Ok(()),
        // Programs with a graceful shutdown exit 0 when they are asked to stop half way.
        (_, Some(stopped)) => {
            let who = match stopped {
                StoppedBy::Inside => "a process of the container asked it to stop (a signal to the agent)",
                StoppedBy::Outside | StoppedBy::Unknown => "the pod was asked to stop",
            };
            let said = format_args!("{who} before the program had said `done`; {ended}");
            Err(Failure::new("Terminated", by, code, said))
        }
        (Exit::Code(code), None) if code == exit::CANCELED && said.turned_away.is_some() => {
            let why = said.turned_away.as_deref().unwrap_or_default();
            Err(Failure::new(CANCELED, FailedBy::Platform, exit::CANCELED, why))
        }
        (_, None) => {
            let last = last_line.map(|line| format!("; its last words on stderr: {line}")).unwrap_or_default();
            Err(Failure::new(ended.reason(), by, code, format_args!("{ended}{last}")))
        }
    }
}

/// Who is to blame for an end that a request to stop came before. A program that stops its own container did that itself.
fn blame(stopped: Option<StoppedBy>) -> FailedBy {
    if stopped == Some(StoppedBy::Outside) { FailedBy::Platform } else { FailedBy::Program }
}

#[cfg(test)]
mod tests {
    use super::*;
    use asynctask_contract::wire::AuthorFailure;

    fn said(done: bool, failure: Option<&str>) -> Said {
        let failure = failure.map(|code| AuthorFailure {
            code: code.into(),
            message: "m".into(),
            link: Some("https://x".into()),
        });
        Said { done, failure, ..Said::default() }
    }

    #[test]
    fn the_table_of_endings() {
        use FailedBy::{Platform, Program};
        let outside = Some(StoppedBy::Outside);
        let inside = Some(StoppedBy::Inside);
        let ok = None;
        for (ended, stopped, done, failure, expected) in [
            (Exit::Code(0), None, false, None, ok),
            (Exit::Code(0), None, true, None, ok),
            (Exit::Code(0), outside, true, None, ok),
            (Exit::Code(0), outside, false, None, Some(("Terminated", 143, Platform))),
            (Exit::Code(0), inside, false, None, Some(("Terminated", 143, Program))),
            (Exit::Code(3), None, false, None, Some(("ExitCode3", 3, Program))),
            (Exit::Code(3), None, true, None, Some(("ExitCode3", 3, Program))),
            (Exit::Code(3), outside, true, None, Some(("Terminated", 3, Platform))),
            (Exit::Signal(9), None, false, None, Some(("Signal9", 137, Program))),
            (Exit::Signal(15), None, false, None, Some(("Signal15", 143, Program))),
            (Exit::Signal(15), outside, false, None, Some(("Terminated", 143, Platform))),
            (Exit::Signal(15), inside, false, None, Some(("Terminated", 143, Program))),
            (Exit::Code(70), None, false, Some("InvalidCourse"), Some(("InvalidCourse", 70, Program))),
            (Exit::Code(0), None, true, Some("InvalidCourse"), Some(("InvalidCourse", 1, Program))),
            (Exit::Code(0), outside, true, Some("InvalidCourse"), Some(("InvalidCourse", 143, Platform))),
        ] {
            let judged = judge(ended, &said(done, failure), stopped, None).err().map(|f| (f.code, f.exit, f.by));
            let expected = expected.map(|(code, exit, by)| (code.to_owned(), exit, by));
            assert_eq!(judged, expected, "{ended:?} stopped={stopped:?} done={done} fail={failure:?}");
        }
    }

    #[test]
    fn every_exit_code_is_the_programs_own() {
        for code in 1..=255 {
            let failure = judge(Exit::Code(code), &said(false, None), None, None).unwrap_err();
            assert_eq!((failure.exit, failure.by), (code, FailedBy::Program));
        }
    }

    #[test]
    fn a_failure_carries_the_authors_words_or_the_last_ones_of_the_program() {
        let author = judge(Exit::Code(70), &said(false, Some("C")), None, Some("noise".into())).unwrap_err();
        assert_eq!((author.message.as_str(), author.link.as_deref()), ("m", Some("https://x")));
        let bare = judge(Exit::Code(1), &said(false, None), None, Some("KeyError: 'x'".into())).unwrap_err();
        assert_eq!(bare.message, "the program ended with exit code 1; its last words on stderr: KeyError: 'x'");
    }
}
