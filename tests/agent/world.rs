//! A gateway and two stores on loopback, and the real agent run against them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use asynctask_contract::env;
use asynctask_contract::wire::{
    Assignment, Commit, FailureReport, InputSource, ItemsSource, Limits, OutputDeclaration, Segment, ShardWork,
    SignedRequest, Termination, Work,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::servers;

/// Part of every signed URL, and of nothing that people may read.
pub(crate) const SIGNATURE: &str = "SIGNED-bd41f0c2";
/// The binary under test: the one of this build, or the static one that ships when this variable names it.
pub(crate) fn binary() -> String {
    std::env::var("ASYNCTASK_TEST_AGENT").unwrap_or_else(|_| env!("CARGO_BIN_EXE_asynctask-agent").to_owned())
}

/// Longer than anything a test waits for.
const PATIENCE: Duration = Duration::from_secs(240);

/// What happens to a call instead of, or around, its proper answer.
#[derive(Clone)]
pub(crate) enum Fault {
    /// This status, nothing done.
    Status(u16),
    /// The gateway refuses with this status and word.
    Refused(u16, &'static str),
    /// Done, but this status is answered: the answer is lost.
    DoneBut(u16),
    /// The run is to be cancelled, as the gateway answers at a guarded stage.
    Canceled,
    /// Answered only when the test says so.
    Hold(Arc<Notify>),
    /// Half of the body, then the connection breaks.
    Half,
    /// Another place is named, where nobody may go.
    Redirect,
}

pub(crate) struct Object {
    pub(crate) size: u64,
    pub(crate) sha256: String,
    /// The bytes, when they are few.
    pub(crate) bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) what: String,
    pub(crate) body: serde_json::Value,
    pub(crate) range: Option<String>,
}

pub(crate) struct State {
    pub(crate) assignments: VecDeque<Assignment>,
    pub(crate) faults: Vec<(String, Fault)>,
    pub(crate) calls: Vec<Call>,
    pub(crate) objects: HashMap<String, Object>,
    pub(crate) token: String,
    /// Files from this size on are planned in parts.
    pub(crate) multipart_from: u64,
    pub(crate) part_size: u64,
    /// Keys of the segments of each output, in order.
    pub(crate) segments: HashMap<String, Vec<String>>,
    /// So many of them are listed at once.
    pub(crate) segments_a_page: usize,
    /// The gateway carries the bytes itself.
    pub(crate) proxied: bool,
    /// Addresses of the stores, plain and TLS.
    pub(crate) plain: String,
    pub(crate) secure: String,
    /// Anything that must never happen.
    pub(crate) crimes: Vec<String>,
    /// Stdout and stderr of the agent so far.
    pub(crate) streams: [Stream; 2],
}

/// Bytes that are still being written.
pub(crate) type Stream = Arc<Mutex<Vec<u8>>>;

/// The most lines of each part of the evidence.
const EVIDENCE: usize = 40;

#[derive(Clone)]
pub(crate) struct Shared {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn touch(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until `look` finds something.
    pub(crate) async fn until<T>(&self, what: &str, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        let found = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(found) = look(&mut self.lock()) {
                    return found;
                }
                changed.await;
            }
        };
        timeout(PATIENCE, found).await.unwrap_or_else(|_| self.ran_out(what))
    }

    /// Fails the test with what was awaited, the last calls, and what the agent said last.
    pub(crate) fn ran_out(&self, what: &str) -> ! {
        let state = self.lock();
        // Without bodies and signatures.
        let calls: Vec<&str> = state.calls.iter().map(|call| call.what.as_str()).collect();
        let [out, err] = state.streams.each_ref().map(text);
        let evidence = [("calls", calls), ("stdout", out.lines().collect()), ("stderr", err.lines().collect())];
        let part = |(name, lines): (&str, Vec<&str>)| {
            let left_out = lines.len().saturating_sub(EVIDENCE);
            format!("-- {name}, {left_out} before\n{}\n", lines[left_out..].join("\n"))
        };
        let evidence: String = evidence.into_iter().map(part).collect();
        // Whoever unwinds asks for it again.
        drop(state);
        panic!("waited in vain until {what}\n{evidence}")
    }
}

pub(crate) struct World {
    pub(crate) shared: Shared,
    pub(crate) root: TempDir,
    gateway: String,
    authority: String,
    command: Vec<String>,
    vars: BTreeMap<String, String>,
}

/// A task without inputs and outputs.
pub(crate) fn work() -> Work {
    Work {
        parameters: serde_json::json!({"course": "course-v1:edX+DemoX+2026"}),
        inputs: vec![],
        outputs: vec![],
        stages: vec!["Unpacking".into(), "Verifying".into(), "Updating".into()],
        guarded: vec!["Updating".into()],
        emits: None,
        shard: None,
        built_in: None,
        store_ca: None,
        limits: Limits::default(),
    }
}

pub(crate) fn output(name: &str, path: &str) -> OutputDeclaration {
    let media_type = Some("text/csv".into());
    OutputDeclaration { name: name.into(), path: path.into(), media_type, failed_items: false, one_file: false }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A URL nobody else holds.
pub(crate) fn sign(base: &str, key: &str) -> String {
    if base.is_empty() {
        return format!("/agent/v1/bytes/{key}");
    }
    format!("{base}/{key}?X-Amz-Signature={SIGNATURE}&n={}", SERIAL.fetch_add(1, Ordering::Relaxed))
}

/// A fresh address of an object.
pub(crate) fn get(base: &str, key: &str) -> SignedRequest {
    SignedRequest { method: "GET".into(), url: sign(base, key), headers: BTreeMap::new() }
}

impl World {
    /// The agent runs `script` in a shell.
    pub(crate) async fn new(script: &str) -> Self {
        let root = TempDir::new().unwrap();
        for folder in ["var/run/secrets/asynctask.dev", "dev"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let state = State {
            assignments: VecDeque::from([Assignment::Run(Box::new(work()))]),
            faults: vec![],
            calls: vec![],
            objects: HashMap::new(),
            token: String::new(),
            multipart_from: u64::MAX,
            part_size: 16 << 20,
            segments: HashMap::new(),
            segments_a_page: 100,
            proxied: false,
            plain: String::new(),
            secure: String::new(),
            crimes: vec![],
            streams: Default::default(),
        };
        let shared = Shared { state: Arc::new(Mutex::new(state)), changed: Arc::default() };
        let servers = servers::start(&shared).await;
        let mut world = Self {
            shared,
            root,
            gateway: servers.gateway,
            authority: servers.authority,
            command: ["sh", "-c", script].map(String::from).to_vec(),
            vars: BTreeMap::new(),
        };
        world.give_token("token-one-57c1");
        world.work(|work| work.store_ca = Some(world.authority.clone()));
        world.vars.insert("PATH".into(), std::env::var("PATH").unwrap());
        world
    }

    /// Changes the assignment.
    pub(crate) fn work(&self, change: impl FnOnce(&mut Work)) {
        let mut state = self.shared.lock();
        let Some(Assignment::Run(work)) = state.assignments.back_mut() else { panic!("no work") };
        change(work);
    }

    pub(crate) fn assign(&self, assignment: Assignment) {
        self.shared.lock().assignments = VecDeque::from([assignment]);
    }

    /// Puts an input into the store at `base` and into the assignment.
    pub(crate) fn give_input(&self, base: &str, name: &str, bytes: &[u8]) {
        let Segment { size, sha256, source } = self.keep(base, &format!("uploads/{name}"), bytes);
        self.work(|work| work.inputs.push(InputSource { name: name.into(), path: None, size, sha256, source }));
    }

    /// Puts bytes into the store at `base`, and says where they are.
    pub(crate) fn keep(&self, base: &str, key: &str, bytes: &[u8]) -> Segment {
        let object = Object { size: bytes.len() as u64, sha256: sha256(bytes), bytes: bytes.to_vec() };
        let segment = Segment { size: object.size, sha256: object.sha256.clone(), source: get(base, key) };
        self.shared.lock().objects.insert(key.to_owned(), object);
        segment
    }

    /// Makes the attempt shard `number` of `of`, with these items.
    pub(crate) fn give_items(&self, number: u32, of: u32, items: &[u8]) {
        let Segment { size, sha256, source } = self.keep(&self.plain_store(), "plan/items", items);
        let items = Some(ItemsSource { size, sha256: Some(sha256), source });
        self.work(|work| work.shard = Some(ShardWork { number, of, items }));
    }

    /// Segments of an output, for the gateway to list.
    pub(crate) fn give_segments(&self, output: &str, segments: &[impl AsRef<[u8]>]) {
        let store = self.plain_store();
        let keys = segments.iter().enumerate().map(|(number, bytes)| {
            let key = format!("segments/{output}/{number}");
            self.keep(&store, &key, bytes.as_ref());
            key
        });
        let keys = keys.collect();
        self.shared.lock().segments.insert(output.into(), keys);
    }

    /// So many files whose names begin like this are in the agent's own folder.
    pub(crate) fn kept(&self, beginning: &str) -> usize {
        let names = std::fs::read_dir(self.root.path().join("asynctask/work/.agent")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with(beginning)).count()
    }

    pub(crate) fn plain_store(&self) -> String {
        self.shared.lock().plain.clone()
    }

    pub(crate) fn secure_store(&self) -> String {
        self.shared.lock().secure.clone()
    }

    /// The pod's token changes, on disk and for the gateway.
    pub(crate) fn give_token(&self, token: &str) {
        std::fs::write(self.root.path().join("var/run/secrets/asynctask.dev/token"), token).unwrap();
        self.shared.lock().token = token.into();
    }

    /// The next call that contains `path` goes wrong, `times` times.
    pub(crate) fn fail(&self, path: &str, times: usize, fault: &Fault) {
        let faults = std::iter::repeat_n((path.to_owned(), fault.clone()), times);
        self.shared.lock().faults.extend(faults);
    }

    pub(crate) fn command(&mut self, command: &[&str]) {
        self.command = command.iter().copied().map(String::from).collect();
    }

    pub(crate) fn var(&mut self, name: &str, value: &str) {
        self.vars.insert(name.into(), value.into());
    }

    pub(crate) fn start(self) -> Running {
        let mut command = Command::new(binary());
        command.arg("run").arg("--root").arg(self.root.path());
        if !self.command.is_empty() {
            command.arg("--").args(&self.command);
        }
        command.env_clear().env(env::GATEWAY_URL, &self.gateway).env(env::GATEWAY_CA, &self.authority);
        command.env(env::NAME, "import-1").envs(&self.vars);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut agent = command.spawn().unwrap();
        let (out, err) = (agent.stdout.take().unwrap(), agent.stderr.take().unwrap());
        let [stdout, stderr] = self.shared.lock().streams.clone();
        let readers = [
            tokio::spawn(follow(out, Arc::clone(&stdout), self.shared.clone())),
            tokio::spawn(follow(err, Arc::clone(&stderr), self.shared.clone())),
        ];
        Running { world: self, agent, stdout, stderr, readers }
    }

    /// Runs to the end.
    pub(crate) async fn run(self) -> Ended {
        self.start().end().await
    }
}

fn text(stream: &Stream) -> String {
    String::from_utf8_lossy(&stream.lock().unwrap()).into_owned()
}

async fn follow(mut from: impl AsyncReadExt + Unpin, to: Stream, shared: Shared) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        to.lock().unwrap().extend_from_slice(&buffer[..length]);
        shared.touch();
    }
}

pub(crate) struct Running {
    pub(crate) world: World,
    agent: Child,
    stdout: Stream,
    stderr: Stream,
    readers: [tokio::task::JoinHandle<()>; 2],
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.agent.id().expect("not yet waited for")
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid() as i32), signal).unwrap();
    }

    /// Most memory it has taken, in KiB. The pages of the binary itself are left out: those of a debug build are three
    /// times those that ship.
    pub(crate) fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        field("VmHWM") - field("RssFile")
    }

    /// Waits for so many calls whose names begin like this.
    pub(crate) async fn called(&self, what: &str, times: usize) {
        let called = |state: &mut State| {
            (state.calls.iter().filter(|call| call.what.starts_with(what)).count() >= times).then_some(())
        };
        self.world.shared.until(&format!("{what} is called {times} times"), called).await;
    }

    /// Waits for a text on stdout or stderr.
    pub(crate) async fn says(&self, text: &str) {
        let streams = [&self.stdout, &self.stderr];
        let said = |_: &mut State| streams.iter().any(|stream| self::text(stream).contains(text)).then_some(());
        self.world.shared.until(&format!("the agent says {text:?}"), said).await;
    }

    pub(crate) async fn end(mut self) -> Ended {
        let status = timeout(PATIENCE, self.agent.wait()).await;
        let status = status.unwrap_or_else(|_| self.world.shared.ran_out("the agent ends")).unwrap();
        for reader in self.readers {
            reader.await.unwrap();
        }
        let message = std::fs::read(self.world.root.path().join("dev/termination-log")).unwrap();
        assert!(message.len() <= 4096, "the termination message has {} bytes", message.len());
        let ended = Ended {
            code: status.code().expect("the agent ends by itself"),
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
            termination: serde_json::from_slice(&message).unwrap(),
            world: self.world,
        };
        ended.keeps_secrets();
        ended
    }
}

pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) termination: Termination,
    pub(crate) world: World,
}

impl Ended {
    /// On every path, whatever happened: no signed URL and no token in what people read.
    fn keeps_secrets(&self) {
        let state = self.world.shared.lock();
        assert_eq!(state.crimes, Vec::<String>::new());
        let told = state.calls.iter().filter(|call| call.what.contains("failure"));
        let told: String = told.map(|call| call.body.to_string()).collect();
        let termination = serde_json::to_string(&self.termination).unwrap();
        for text in [&self.stdout, &self.stderr, &termination, &told] {
            assert!(!text.contains(SIGNATURE) && !text.contains(&state.token), "a secret was told: {text}");
        }
    }

    pub(crate) fn calls(&self, what: &str) -> Vec<Call> {
        self.world.shared.lock().calls.iter().filter(|call| call.what.contains(what)).cloned().collect()
    }

    /// The one commit.
    pub(crate) fn commit(&self) -> Commit {
        let commits = self.calls("POST /agent/v1/commit");
        assert_eq!(commits.len(), 1, "{}", self.stderr);
        serde_json::from_value(commits[0].body.clone()).unwrap()
    }

    /// The one failure; there is no commit then.
    pub(crate) fn failure(&self) -> FailureReport {
        assert_eq!(self.calls("/commit").len(), 0, "committed, though it failed");
        let failures = self.calls("POST /agent/v1/failure");
        assert_eq!(failures.len(), 1, "{}", self.stderr);
        serde_json::from_value(failures[0].body.clone()).unwrap()
    }

    /// Bytes of a stored file.
    pub(crate) fn stored(&self, key: &str) -> String {
        let state = self.world.shared.lock();
        let object = state.objects.get(key).unwrap_or_else(|| panic!("{key} is not stored"));
        String::from_utf8_lossy(&object.bytes).into_owned()
    }

    pub(crate) fn was_started(&self) -> bool {
        self.stdout.contains("started")
    }
}
