//! Lines from the program's FIFO to the gateway: read at once, sent coalesced, so that the program never waits.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::client::{Fault, Gateway};
use super::door::Door;
use super::items::ItemResults;
use super::layout::{self, Stages};
use super::notice;
use super::retry::{Decision, Peer, Tries};
use asynctask_contract::env;
use asynctask_contract::wire::{AuthorFailure, FailedItem, Progress, ProgressLine, StageRequest, Work, path};

/// Updates are at least this far apart; a change of stage does not wait for it.
const PACE: Duration = Duration::from_secs(2);
/// One update may take this long: the next one is newer anyway.
const ANSWER: Duration = Duration::from_secs(10);
/// After the program has ended, its last words are worth this much.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// A longer line is no line of progress. More than PIPE_BUF, because one writer alone may write longer ones: a failed item
/// may be as long as an item can be.
const LONGEST_LINE: usize = (1 << 20) + (4 << 10);
/// What a pipe can hold at most; more than that after the program's end is somebody else's.
const LEFT_IN_PIPE: usize = 1 << 20;
/// So many complaints about lines are enough.
const COMPLAINTS: u32 = 10;
const LONGEST_MESSAGE: usize = 1024;
const LONGEST_UNIT: usize = 40;
const LONGEST_CODE: usize = 64;
/// Stands for a code that is no word.
const UNNAMED_FAILURE: &str = "Failed";

/// What the program has said so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    pub(crate) stage: Option<String>,
    pub(crate) failure: Option<AuthorFailure>,
    pub(crate) done: bool,
    pub(crate) progress: Progress,
    /// Why it was not let into a guarded stage: the run is to be cancelled or held.
    pub(crate) turned_away: Option<String>,
}

/// The running reader and sender.
pub(crate) struct Listener {
    board: Arc<Board>,
    end: watch::Sender<bool>,
    reader: JoinHandle<ItemResults>,
    /// Absent in a shard: of many pods nobody could show each stage.
    sender: Option<JoinHandle<()>>,
    door: JoinHandle<()>,
}

/// What the program has said, for all who hear it and the one who tells it on.
#[derive(Default)]
pub(crate) struct Board {
    said: Mutex<Said>,
    changed: Notify,
}

impl Board {
    fn said(&self) -> MutexGuard<'_, Said> {
        // A panic ends the process, so nobody has seen half a change.
        self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The program is in this stage now.
    pub(crate) fn enter(&self, stage: String) {
        self.said().stage = Some(stage);
        self.changed.notify_one();
    }

    /// The program was told not to enter a guarded stage, and to end.
    pub(crate) fn turn_away(&self, why: &str) {
        self.said().turned_away = Some(why.to_owned());
    }
}

impl Listener {
    /// Opens the FIFO for reading **and writing**: so a writer never waits for a reader, and the end of one writer is
    /// never the end of the stream.
    pub(crate) fn begin(fifo: &Path, work: &Work, gateway: Arc<Gateway>, items: ItemResults) -> io::Result<Self> {
        let stages = Stages::of(work);
        let door = Door::open(&layout::door(fifo))?;
        let fifo = pipe::OpenOptions::new().read_write(true).open_receiver(fifo)?;
        let board = Arc::new(Board::default());
        let (end, ended) = watch::channel(false);
        let door = tokio::spawn(door.keep(stages.guarded.clone(), Arc::clone(&gateway), Arc::clone(&board)));
        let hearing = Hearing { stages, items, complaints: 0 };
        let reader = tokio::spawn(read(fifo, Arc::clone(&board), hearing, ended.clone()));
        let sender = work.shard.is_none().then(|| tokio::spawn(send(gateway, Arc::clone(&board), ended)));
        Ok(Self { board, end, reader, sender, door })
    }

    /// Call it when the program has ended: takes what is left in the FIFO, sends what is new, and says what the
    /// program said.
    pub(crate) async fn end(self) -> (Said, ItemResults) {
        self.door.abort();
        let _ = self.end.send(true);
        let items = self.reader.await.expect("invariant: nobody aborts the reader");
        self.board.changed.notify_one();
        if let Some(sender) = self.sender {
            let abort = sender.abort_handle();
            if timeout(LAST_WORDS, sender).await.is_err() {
                abort.abort();
            }
        }
        (self.board.said().clone(), items)
    }
}

async fn read(
    fifo: pipe::Receiver,
    board: Arc<Board>,
    mut hearing: Hearing,
    mut ended: watch::Receiver<bool>,
) -> ItemResults {
    let mut lines = Lines::default();
    let mut buffer = vec![0; 8 << 10];
    loop {
        let heard = tokio::select! {
            ready = fifo.readable() => ready.and_then(|()| fifo.try_read(&mut buffer)),
            _ = ended.wait_for(|ended| *ended) => break,
        };
        match heard {
            Ok(length) => hearing.hear(&mut lines, &buffer[..length], &board),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                notice(format_args!("progress is not read any more: {error}"));
                return hearing.items;
            }
        }
    }
    // Straight from the pipe: readiness may lag behind what the program wrote in its last moment.
    let Ok(mut fifo) = fifo.into_nonblocking_fd().map(File::from) else { return hearing.items };
    let mut left = LEFT_IN_PIPE;
    while let Ok(length @ 1..) = fifo.read(&mut buffer) {
        hearing.hear(&mut lines, &buffer[..length], &board);
        left = left.saturating_sub(length);
        if left == 0 {
            break;
        }
    }
    hearing.items
}

/// Cuts a stream into lines, whatever the pieces it comes in.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
    /// In the middle of a line that is too long.
    skipping: bool,
}

impl Lines {
    /// Hands each whole line to `take`; `None` stands for one that was too long.
    fn push(&mut self, bytes: &[u8], mut take: impl FnMut(Option<&[u8]>)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, whole) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            if self.partial.len() + text.len() > LONGEST_LINE {
                self.skipping = true;
                self.partial.clear();
            }
            if !self.skipping {
                self.partial.extend_from_slice(text);
            }
            if whole {
                take(if self.skipping { None } else { Some(&self.partial) });
                self.partial.clear();
                self.skipping = false;
            }
        }
    }
}

/// Understands lines, and complains about those it does not, but not for ever.
struct Hearing {
    stages: Stages,
    items: ItemResults,
    complaints: u32,
}

impl Hearing {
    fn hear(&mut self, lines: &mut Lines, bytes: &[u8], board: &Board) {
        let mut said = board.said();
        lines.push(bytes, |line| {
            let heard = match line {
                Some(line) if line.trim_ascii().is_empty() => Ok(()),
                Some(line) => understand(line, &mut said, &self.stages, &mut self.items),
                None => Err(format!("a line in $ASYNCTASK_PROGRESS is longer than {LONGEST_LINE} bytes")),
            };
            let Err(complaint) = heard else { return };
            self.complaints += 1;
            if self.complaints <= COMPLAINTS {
                notice(complaint);
            }
        });
        board.changed.notify_one();
    }
}

/// The item of a line as its program wrote it: numbers and the order of keys are the program's own.
#[derive(Deserialize)]
struct Given<'a> {
    #[serde(borrow)]
    item: &'a RawValue,
}

/// Takes one line in; says what is wrong with it.
fn understand(line: &[u8], said: &mut Said, stages: &Stages, items: &mut ItemResults) -> Result<(), String> {
    let strange = |error| format!("a line in $ASYNCTASK_PROGRESS is not understood: {error}");
    match serde_json::from_slice(line).map_err(strange)? {
        ProgressLine::ItemFailed(FailedItem { item: _, reason }) => {
            let given: Given<'_> = serde_json::from_slice(line).map_err(strange)?;
            items.fail(given.item.get(), reason.as_deref())
        }
        ProgressLine::Skip { count } => {
            items.skip(count);
            Ok(())
        }
        line => said.take(line, stages),
    }
}

impl Said {
    /// Takes one line in; says what is wrong with it.
    fn take(&mut self, line: ProgressLine, stages: &Stages) -> Result<(), String> {
        match line {
            ProgressLine::Stage(StageRequest { stage }) => {
                if !stages.declared.contains(&stage) {
                    return Err(undeclared(&stage, &stages.declared));
                }
                if stages.guarded.contains(&stage) {
                    return Err(format!(
                        "the stage {stage:?} is guarded and was not entered: a line in ${} cannot be answered; enter it \
                         with `${} stage {stage}` and go on only when that succeeds",
                        env::PROGRESS,
                        env::AGENT
                    ));
                }
                self.stage = Some(stage);
            }
            ProgressLine::Progress(new) => {
                if new.done.is_some_and(|n| n < 0) || new.total.is_some_and(|n| n < 0) {
                    return Err("progress below zero is left out".to_owned());
                }
                let last = &mut self.progress;
                last.done = new.done.or(last.done);
                last.total = new.total.or(last.total);
                last.unit = new.unit.map(|unit| cut(&unit, LONGEST_UNIT)).or_else(|| last.unit.take());
                last.message = new.message.map(|text| cut(&text, LONGEST_MESSAGE)).or_else(|| last.message.take());
            }
            ProgressLine::Fail(failure) => {
                let AuthorFailure { code, message, link } = failure;
                let good = is_code(&code);
                let code = if good { code } else { UNNAMED_FAILURE.to_owned() };
                let link = link.filter(|link| is_link(link));
                self.failure = Some(AuthorFailure { code, message: cut(&message, LONGEST_MESSAGE), link });
                if !good {
                    return Err(format!(
                        "the code of a failure is no word of letters and digits: {UNNAMED_FAILURE} is used"
                    ));
                }
            }
            // Of items, not of the run: counted by [`ItemResults`].
            ProgressLine::ItemFailed(_) | ProgressLine::Skip { .. } => {}
            ProgressLine::Done => self.done = true,
        }
        Ok(())
    }
}

/// A word of at most 64 letters and digits that begins with a letter.
pub(crate) fn is_code(code: &str) -> bool {
    code.len() <= LONGEST_CODE
        && code.starts_with(|c: char| c.is_ascii_alphabetic())
        && code.chars().all(|c| c.is_ascii_alphanumeric())
}

/// Something a page may show as a link.
pub(crate) fn is_link(link: &str) -> bool {
    (link.starts_with("https://") || link.starts_with("http://"))
        && link.len() <= 2048
        && !link.contains(|c: char| c.is_control() || c.is_whitespace())
}

pub(crate) fn undeclared(stage: &str, stages: &[String]) -> String {
    if stages.is_empty() {
        return format!("the stage {stage:?} is not declared: the step declares no `stages` in its TaskDefinition");
    }
    format!("the stage {stage:?} is not declared by the step; its stages are: {}", stages.join(", "))
}

fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// What the gateway knows already.
#[derive(Default)]
struct Sent {
    stage: Option<String>,
    progress: Progress,
    /// No update before this.
    not_before: Option<Instant>,
}

#[derive(Debug, PartialEq)]
enum Due {
    Stage(String),
    Progress(Progress),
    At(Instant),
    Nothing,
}

/// What is to be sent now; pure, so that the pace can be tested without waiting.
fn due(said: &Said, sent: &Sent, ended: bool, now: Instant) -> Due {
    match &said.stage {
        Some(stage) if sent.stage.as_ref() != Some(stage) => return Due::Stage(stage.clone()),
        _ => {}
    }
    if said.progress == sent.progress {
        return Due::Nothing;
    }
    match sent.not_before {
        Some(at) if at > now && !ended => Due::At(at),
        _ => Due::Progress(said.progress.clone()),
    }
}

async fn send(gateway: Arc<Gateway>, board: Arc<Board>, ended: watch::Receiver<bool>) {
    let mut sent = Sent::default();
    let mut tries = Tries::default();
    loop {
        let is_over = *ended.borrow();
        let next = due(&board.said(), &sent, is_over, Instant::now());
        let result = match next {
            Due::Nothing if is_over => return,
            Due::Nothing => {
                board.changed.notified().await;
                continue;
            }
            Due::At(at) => {
                tokio::select! {
                    () = sleep_until(at) => {}
                    () = board.changed.notified() => {}
                }
                continue;
            }
            Due::Stage(stage) => {
                let result = gateway.tell_once(path::STAGE, &StageRequest { stage: stage.clone() }, ANSWER).await;
                settle(result, &mut tries, || sent.stage = Some(stage)).await
            }
            Due::Progress(progress) => {
                sent.not_before = Some(Instant::now() + PACE);
                let result = gateway.tell_once(path::PROGRESS, &progress, ANSWER).await;
                settle(result, &mut tries, || sent.progress = progress).await
            }
        };
        if let Err(refused) = result {
            notice(format_args!("progress is not shown: {refused}"));
        }
    }
}

/// After a passing fault nothing is settled, and the newest state is tried after a while; a refusal is final.
async fn settle(result: Result<(), Fault>, tries: &mut Tries, known: impl FnOnce()) -> Result<(), String> {
    let Err(fault) = result else {
        *tries = Tries::default();
        known();
        return Ok(());
    };
    match tries.after(Peer::Gateway, fault.kind, 0.5) {
        Decision::Again(wait) => {
            sleep(wait).await;
            Ok(())
        }
        Decision::Stop => {
            *tries = Tries::default();
            known();
            Err(fault.said)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Log;

    fn hear(text: &str) -> (Said, u32) {
        let (said, complaints, _) = hear_items(text);
        (said, complaints)
    }

    fn hear_items(text: &str) -> (Said, u32, ItemResults) {
        let folder = tempfile::tempdir().unwrap();
        let items = ItemResults::new(folder.path(), &[], Log::new(folder.path(), 1 << 20).unwrap());
        let board = Board::default();
        let mut lines = Lines::default();
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let stages = Stages { declared: names(&["Unpacking", "Verifying", "Updating"]), guarded: names(&["Updating"]) };
        let mut hearing = Hearing { stages, items, complaints: 0 };
        for piece in text.as_bytes().chunks(7) {
            hearing.hear(&mut lines, piece, &board);
        }
        let said = board.said().clone();
        (said, hearing.complaints, hearing.items)
    }

    #[test]
    fn results_of_items_are_counted_beside_what_the_run_says() {
        let (said, complaints, items) = hear_items(concat!(
            "{\"type\":\"item-failed\",\"item\":{\"id\":7},\"reason\":\"Bounced\"}\n",
            "{\"type\":\"item-failed\",\"item\":null}\n",
            "{\"type\":\"item-failed\"}\n",
            "{\"type\":\"skip\",\"count\":3}\n",
            "{\"type\":\"skip\",\"count\":-3}\n",
        ));
        let counts = items.counts(None).unwrap();
        assert_eq!((counts.failed, counts.skipped, counts.reasons["Bounced"], complaints), (2, 3, 1, 2));
        assert_eq!((said.stage, said.failure), (None, None));
    }

    #[test]
    fn absent_fields_keep_their_last_value() {
        let (said, complaints) = hear(concat!(
            "{\"type\":\"progress\",\"done\":1,\"total\":10,\"unit\":\"blocks\"}\n",
            "\n",
            "{\"type\":\"stage\",\"stage\":\"Verifying\"}\n",
            "{\"type\":\"progress\",\"done\":4,\"message\":\"half way\"}\n",
            "{\"type\":\"done\"}\n",
        ));
        let expected =
            Progress { done: Some(4), total: Some(10), unit: Some("blocks".into()), message: Some("half way".into()) };
        assert_eq!((said.progress, said.stage.as_deref(), said.done), (expected, Some("Verifying"), true));
        assert_eq!(complaints, 0);
    }

    #[test]
    fn what_is_not_understood_changes_nothing_and_is_said() {
        let (said, complaints) = hear(concat!(
            "nonsense\n",
            "{\"type\":\"stage\",\"stage\":\"Verifing\"}\n",
            "{\"type\":\"stage\",\"stage\":\"Updating\"}\n",
            "{\"type\":\"progress\",\"done\":-1}\n",
            "{\"type\":\"dance\"}\n",
        ));
        assert_eq!((said.stage, said.progress, complaints), (None, Progress::default(), 5));
    }

    #[test]
    fn a_line_without_end_is_dropped_and_the_next_one_heard() {
        let long = "x".repeat(LONGEST_LINE * 3);
        let (said, complaints) = hear(&format!("{long}\n{{\"type\":\"done\"}}\n"));
        assert_eq!((said.done, complaints), (true, 1));
    }

    #[test]
    fn a_failure_is_kept_whatever_its_code() {
        let (said, _) = hear("{\"type\":\"fail\",\"code\":\"no word\",\"message\":\"m\",\"link\":\"javascript:x\"}\n");
        let expected = AuthorFailure { code: "Failed".into(), message: "m".into(), link: None };
        assert_eq!(said.failure, Some(expected));
    }

    #[test]
    fn a_misspelt_stage_is_answered_with_the_right_ones() {
        let said = undeclared("Verifing", &["Unpacking".into(), "Verifying".into()]);
        assert!(said.contains("Verifing") && said.contains("Unpacking, Verifying"), "{said}");
    }

    #[tokio::test]
    async fn stages_go_at_once_and_updates_keep_their_pace() {
        let now = Instant::now();
        let update = Progress { done: Some(1), ..Progress::default() };
        let mut said = Said { progress: update.clone(), ..Said::default() };
        let mut sent = Sent { not_before: Some(now + PACE), ..Sent::default() };
        assert_eq!(due(&said, &sent, false, now), Due::At(now + PACE));
        assert_eq!(due(&said, &sent, true, now), Due::Progress(update.clone()));
        assert_eq!(due(&said, &sent, false, now + PACE), Due::Progress(update.clone()));
        said.stage = Some("Verifying".into());
        assert_eq!(due(&said, &sent, false, now), Due::Stage("Verifying".into()));
        sent.stage = said.stage.clone();
        sent.progress = update;
        assert_eq!(due(&said, &sent, false, now), Due::Nothing);
    }
}
