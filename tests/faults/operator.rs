//! The operator as a process of this machine, with the rights of its service account.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::support::{SYSTEM, get, run};

/// How it is started.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) binary: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) log: PathBuf,
    /// Arguments of the installed Deployment, with the volume where it is on this machine.
    pub(crate) arguments: Vec<String>,
}

impl Start {
    /// As the Deployment of the chart has it.
    pub(crate) fn like_the_deployment(folder: &std::path::Path, binary: PathBuf, volume: &str) -> Self {
        let deployment = get(&["-n", SYSTEM, "deployment", "asynctask-operator"]);
        let arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap().clone();
        let here = |argument: &serde_json::Value| match argument.as_str().unwrap() {
            root if root.starts_with("--filesystem-root=") => format!("--filesystem-root={volume}"),
            other => other.to_owned(),
        };
        let arguments = arguments.iter().map(here).chain(["--listen=127.0.0.1:0".to_owned()]).collect();
        Self { binary, kubeconfig: folder.join("kubeconfig.json"), log: folder.join("operator.log"), arguments }
    }

    /// The same with another value of an argument of the Deployment.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        let before = format!("{name}=");
        let argument = self.arguments.iter_mut().find(|argument| argument.starts_with(&before));
        *argument.unwrap_or_else(|| panic!("the Deployment has no argument {name}")) = format!("{before}{value}");
        self
    }
}

/// One operator. It is gone when this is.
#[derive(Debug)]
pub(crate) struct Operator {
    start: Start,
    name: String,
    child: Mutex<Option<Child>>,
    /// A crash is its end until [`Self::start`].
    stays_down: AtomicBool,
    starts: AtomicUsize,
}

impl Operator {
    /// Starts one. `name` is that of its pod: one that is started again under it finds its lease its own, as a
    /// container does that the kubelet starts again.
    pub(crate) fn new(start: Start, name: &str) -> Self {
        let (stays_down, starts) = (AtomicBool::new(false), AtomicUsize::new(0));
        let operator = Self { start, name: name.to_owned(), child: Mutex::default(), stays_down, starts };
        operator.start();
        operator
    }

    /// Starts it unless it runs.
    pub(crate) fn start(&self) {
        let mut child = self.child();
        if child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none()) {
            return;
        }
        let log = File::options().create(true).append(true).open(&self.start.log).unwrap();
        let command = Command::new(&self.start.binary)
            .args(&self.start.arguments)
            .env("KUBECONFIG", &self.start.kubeconfig)
            .env("POD_NAME", &self.name)
            .env("POD_NAMESPACE", SYSTEM)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let started = command.unwrap();
        // Whoever ends us without unwinding finds what to stop.
        std::fs::write(self.start.log.with_file_name(format!("{}.pid", self.name)), started.id().to_string()).unwrap();
        *child = Some(started);
        self.starts.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it was started.
    pub(crate) fn starts(&self) -> usize {
        self.starts.load(Ordering::Relaxed)
    }

    /// The next crash is its end until [`Self::start`].
    pub(crate) fn stays_down_after_a_crash(&self) {
        self.stays_down.store(true, Ordering::Relaxed);
    }

    /// Whether it runs.
    pub(crate) fn runs(&self) -> bool {
        self.child().as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// SIGKILL; it stays away until [`Self::start`].
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// A crash: killed, and at once started again.
    pub(crate) fn crash(&self) {
        self.kill();
        if !self.stays_down.swap(false, Ordering::Relaxed) {
            self.start();
        }
    }

    /// Sends `-STOP` or `-CONT`.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child().as_ref().unwrap().id().to_string();
        run(Command::new("kill").args([signal, &pid]), None).ok();
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.kill();
    }
}
