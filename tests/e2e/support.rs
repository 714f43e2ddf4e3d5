//! What the tests share: commands as a user types them, people with rights, and conditions that are awaited.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use asynctask_operator::contract::env::{CONTAINER, WORK_DIR};
use serde_json::Value;

use self::openapi::Document;
pub(crate) use crate::api::{audit, get};

#[path = "evidence.rs"]
pub(crate) mod evidence;
#[path = "../support/openapi.rs"]
mod openapi;

/// Namespace of operator and gateway.
pub(crate) const SYSTEM: &str = "asynctask-system";
/// How long anything may take on a busy machine before the test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// How long a run may go on as long as its status changes.
const MOVES_ON: Duration = Duration::from_secs(900);

pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run tests/e2e/run.sh, or `make test-e2e`"))
}

/// The volume of the filesystem store, as this machine sees it.
pub(crate) fn volume() -> PathBuf {
    variable("E2E_VOLUME").into()
}

/// The repository, as cargo says when it runs us: checkouts share a target folder, and with it compiled tests.
pub(crate) fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| variable("CARGO_MANIFEST_DIR").into())
}

/// Where pods reach a server on this machine.
pub(crate) fn host_ip() -> String {
    variable("ASYNCTASK_HOST_IP")
}

/// What a command said.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// The command must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self.out
    }

    /// The command must have failed; both streams.
    #[track_caller]
    pub(crate) fn refused(self) -> String {
        assert_ne!(self.code, 0, "it was not refused: {}", self.out);
        format!("{}{}", self.out, self.err)
    }
}

pub(crate) fn run(command: &mut Command, stdin: Option<&str>) -> Said {
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    if let Some(text) = stdin {
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let said = Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    // `kubectl wait`, `delete` and `rollout status` when their time is up, whatever the caller makes of it.
    if command.get_program() == "kubectl" && said.err.contains("timed out waiting") {
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        evidence::show(&format!("not in time: kubectl {}: {}", args.join(" "), said.err.trim()));
    }
    said
}

/// `kubectl …` as the administrator.
pub(crate) fn kubectl(args: &[&str]) -> Said {
    run(Command::new("kubectl").args(args), None)
}

/// `kubectl ARGS -f -` with a document.
pub(crate) fn kubectl_in(args: &[&str], document: &str) -> Said {
    run(Command::new("kubectl").args(args).args(["-f", "-"]), Some(document))
}

/// Fails the test when its patience since then is at an end: says what was awaited, and shows the evidence.
#[track_caller]
pub(crate) fn in_time(what: &str, since: Instant, patience: Duration) {
    if since.elapsed() >= patience {
        let what = format!("not after {patience:?}: {what}");
        evidence::show(&what);
        panic!("{what}");
    }
}

/// Waits until a question has an answer; what is not there after [`PATIENCE`] is said.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        in_time(what, started, PATIENCE);
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// `kubectl wait --for=CONDITION OBJECT` for so many seconds, of what is in no namespace.
#[track_caller]
pub(crate) fn wait(condition: &str, object: &str, seconds: u32) {
    waited(&[], condition, object, seconds);
}

#[track_caller]
fn waited(scope: &[&str], condition: &str, object: &str, seconds: u32) {
    let (condition, timeout) = (format!("--for={condition}"), format!("--timeout={seconds}s"));
    let objects: Vec<&str> = object.split(' ').collect();
    kubectl(&[scope, &["wait", &condition, &timeout], &objects].concat()).ok();
}

/// A namespace of one test, gone at its end.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    /// A new one that enforces the restricted profile.
    pub(crate) fn new(topic: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self::named(format!("{topic}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// The same by its whole name.
    pub(crate) fn named(name: String) -> Self {
        kubectl_in(
            &["apply"],
            &format!(
                "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: \
                 {{pod-security.kubernetes.io/enforce: restricted}}}}}}"
            ),
        )
        .ok();
        evidence::opened(&name);
        Self { name }
    }

    /// `kubectl -n … ARGS` as the administrator.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Said {
        run(Command::new("kubectl").args(["-n", &self.name]).args(args), None)
    }

    /// Applies a document here.
    pub(crate) fn apply(&self, document: &str) -> Said {
        kubectl_in(&["-n", &self.name, "apply"], document)
    }

    /// Creates many objects, faster than by applying them.
    #[track_caller]
    pub(crate) fn create(&self, documents: &str) {
        kubectl_in(&["-n", &self.name, "create"], documents).ok();
    }

    /// One object of this namespace.
    pub(crate) fn get(&self, kind: &str, name: &str) -> Value {
        get(&["-n", &self.name, kind, name])
    }

    /// The status of a task.
    pub(crate) fn status(&self, task: &str) -> Value {
        self.get("asynctask", task)["status"].clone()
    }

    /// `kubectl wait --for=CONDITION OBJECT` here, for so many seconds.
    #[track_caller]
    pub(crate) fn wait(&self, condition: &str, object: &str, seconds: u32) {
        waited(&["-n", &self.name], condition, object, seconds);
    }

    /// Waits for the end of a task; its status. One that moves on is given time: what its many pods need is the node's pace.
    #[track_caller]
    pub(crate) fn finished(&self, task: &str) -> Value {
        let is_over = |condition: &Value| condition["type"] == "Finished" && condition["status"] == "True";
        let begun = Instant::now();
        let (mut seen, mut moved) = (Value::Null, begun);
        loop {
            let status = self.status(task);
            if status["conditions"].as_array().is_some_and(|conditions| conditions.iter().any(is_over)) {
                return status;
            }
            if status != seen {
                (seen, moved) = (status, Instant::now());
            }
            in_time(&format!("{task} has ended; its status stood still"), moved, PATIENCE);
            in_time(&format!("{task} has ended"), begun, MOVES_ON);
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Tells a waiting program of the pod with these labels to end, by a file among its outputs.
    #[track_caller]
    pub(crate) fn let_end(&self, labels: &str) {
        let pod = self.kubectl(&["get", "pods", "-l", labels, "-o", "name"]).ok();
        let go = format!("{WORK_DIR}/outputs/go");
        let said = self.kubectl(&["exec", pod.trim(), "-c", CONTAINER, "--", "touch", &go]);
        // The program may see the file before `touch` is gone; the end of its container then kills it (128 + 9).
        assert!([0, 137].contains(&said.code), "{}{}", said.out, said.err);
    }

    /// Applies an example's definition and waits until it is usable; `store` names another store than the default.
    #[track_caller]
    pub(crate) fn example(&self, example: &str, store: Option<&str>) {
        let file = root().join("manifests/examples").join(example).join("definition.yaml");
        let mut document = std::fs::read_to_string(file).unwrap();
        if let Some(store) = store {
            document = document.replacen("\nspec:\n", &format!("\nspec:\n  store: {store}\n"), 1);
        }
        self.define(example, &document);
    }

    /// Applies a definition and waits until it is usable.
    #[track_caller]
    pub(crate) fn define(&self, name: &str, document: &str) {
        self.apply(document).ok();
        let said = self.kubectl(&["wait", "--for=condition=Ready", &format!("taskdefinition/{name}"), "--timeout=60s"]);
        assert_eq!(said.code, 0, "{}{:#}", said.err, self.get("taskdefinition", name)["status"]);
    }

    /// A person: a service account that is bound to a cluster role here, with a token.
    pub(crate) fn person(&self, name: &str, role: Option<&str>) -> Person {
        self.kubectl(&["create", "serviceaccount", name]).ok();
        if let Some(role) = role {
            let account = format!("--serviceaccount={}:{name}", self.name);
            let role = format!("--clusterrole={role}");
            self.kubectl(&["create", "rolebinding", name, &role, &account]).ok();
        }
        // The command line reaches the gateway through a port-forward when no URL is set.
        let subject = format!("--serviceaccount={}:{name}", self.name);
        let binding = format!("{}-{name}", self.name);
        kubectl(&["-n", SYSTEM, "create", "rolebinding", &binding, "--role=asynctask-cli", &subject]).ok();
        let token = self.kubectl(&["create", "token", name]).ok().trim().to_owned();
        Person { token, kubeconfig: kubeconfig_of(&self.name, name), namespace: self.name.clone() }.ready()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            evidence::show_once(&self.name);
        } else {
            kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
        }
        evidence::closed(&self.name);
    }
}

/// The chart with other values, which starts new pods of operator and gateway; with those before again when it is dropped.
/// Only one test at a time can do this.
pub(crate) struct Upgraded(());

impl Upgraded {
    /// With another value.
    #[track_caller]
    pub(crate) fn set(key: &str, value: &str) -> Self {
        Self::with(&["--set", &format!("{key}={value}")])
    }

    /// With what these arguments of helm say.
    #[track_caller]
    pub(crate) fn with(more: &[&str]) -> Self {
        let chart = root().join("charts/asynctask-operator").display().to_string();
        helm(&[&["upgrade", "asynctask", &chart, "-n", SYSTEM, "--reuse-values"], more].concat()).ok();
        rolled_out();
        Self(())
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        helm(&["rollback", "asynctask", "-n", SYSTEM]).ok();
        rolled_out();
    }
}

/// `helm …` as the administrator.
pub(crate) fn helm(args: &[&str]) -> Said {
    run(Command::new("helm").args(args), None)
}

fn rolled_out() {
    for workload in ["operator", "gateway"] {
        let deployment = format!("deployment/asynctask-{workload}");
        kubectl(&["-n", SYSTEM, "rollout", "status", &deployment, "--timeout=120s"]).ok();
    }
}

/// Somebody with a token.
pub(crate) struct Person {
    pub(crate) token: String,
    namespace: String,
    kubeconfig: PathBuf,
}

fn kubeconfig_of(namespace: &str, name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("asynctask-e2e-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir.join(format!("{namespace}-{name}.yaml"))
}

impl Person {
    fn ready(self) -> Self {
        let mut config: Value =
            serde_json::from_str(&kubectl(&["config", "view", "--raw", "--minify", "-o", "json"]).ok()).unwrap();
        config["users"][0]["user"] = serde_json::json!({ "token": self.token });
        config["contexts"][0]["context"]["namespace"] = serde_json::json!(self.namespace);
        std::fs::write(&self.kubeconfig, config.to_string()).unwrap();
        self
    }

    /// How this person signs in.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// `kubectl ARGS` as this person.
    pub(crate) fn kubectl(&self, args: &[&str], stdin: Option<&str>) -> Said {
        run(Command::new("kubectl").env("KUBECONFIG", &self.kubeconfig).args(args), stdin)
    }

    /// `kubectl asynctask ARGS` as this person, through a port-forward.
    pub(crate) fn cli(&self, args: &[&str]) -> Said {
        run(Command::new("kubectl").arg("asynctask").args(args).env("KUBECONFIG", &self.kubeconfig), None)
    }

    /// One call of the gateway's HTTP API with curl.
    pub(crate) fn http(&self, method: &str, path: &str, more: &[&str]) -> Answer {
        let bearer = format!("Authorization: Bearer {}", self.token);
        http(method, path, &[&["-H", &bearer], more].concat())
    }
}

/// `kubectl asynctask ARGS` as the administrator, who has a client certificate and goes through a port-forward.
pub(crate) fn cli(args: &[&str]) -> Said {
    run(Command::new("kubectl").arg("asynctask").args(args), None)
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// The gateway as a server of this cluster: its certificate is checked against the published authority, and what it answers against
/// the OpenAPI document.
pub(crate) fn http(method: &str, path: &str, more: &[&str]) -> Answer {
    static DOCUMENT: LazyLock<Document> = LazyLock::new(|| {
        let document = std::fs::read_to_string(root().join("docs/src/openapi.json")).unwrap();
        Document::new(serde_json::from_str(&document).unwrap())
    });
    let url = format!("{}{path}", gateway_url());
    let ca = gateway_ca();
    let answer = curl(
        &[&["-X", method, "--cacert", ca.to_str().unwrap(), "--resolve", gateway_address(), url.as_str()], more]
            .concat(),
    );
    if path.starts_with("/api/v1/") {
        let media_type = answer.header("content-type").unwrap_or_default();
        assert_eq!(DOCUMENT.differs(method, path, answer.status, media_type, answer.body.as_bytes()), None);
    }
    answer
}

/// curl, with the answer taken apart.
pub(crate) fn curl(args: &[&str]) -> Answer {
    let text = run(Command::new("curl").args(["-sS", "-i", "--max-time", "60"]).args(args), None).ok();
    let mut rest = text.as_str();
    loop {
        let (head, body) = rest.split_once("\r\n\r\n").unwrap_or((rest, ""));
        let status = head.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        if status == 100 {
            rest = body;
            continue;
        }
        return Answer { status, headers: head.to_owned(), body: body.to_owned() };
    }
}

/// URL of the gateway under the name in its certificate; [`curl`] is told its cluster IP, which this machine routes to.
pub(crate) fn gateway_url() -> String {
    format!("https://asynctask-gateway.{SYSTEM}.svc")
}

pub(crate) fn gateway_address() -> &'static str {
    let mut known = GATEWAY.lock().unwrap_or_else(PoisonError::into_inner);
    known.address.get_or_insert_with(|| {
        let service = get(&["-n", SYSTEM, "service", "asynctask-gateway"]);
        let address = format!("asynctask-gateway.{SYSTEM}.svc:443:{}", service["spec"]["clusterIP"].as_str().unwrap());
        Box::leak(address.into_boxed_str())
    })
}

pub(crate) fn gateway_ca() -> PathBuf {
    let mut known = GATEWAY.lock().unwrap_or_else(PoisonError::into_inner);
    let file = known.ca.get_or_insert_with(|| {
        let pem = get(&["-n", SYSTEM, "configmap", "asynctask-gateway-ca"])["data"]["ca.crt"].clone();
        let file = kubeconfig_of("gateway", "ca").with_extension("pem");
        std::fs::write(&file, pem.as_str().unwrap()).unwrap();
        file
    });
    file.clone()
}

/// The gateway is another one from now on: it has been installed anew.
pub(crate) fn forget_gateway() {
    *GATEWAY.lock().unwrap_or_else(PoisonError::into_inner) = Gateway::default();
}

/// Where the gateway is and who signs for it: asked for once.
static GATEWAY: Mutex<Gateway> = Mutex::new(Gateway { address: None, ca: None });

#[derive(Default)]
struct Gateway {
    address: Option<&'static str>,
    ca: Option<PathBuf>,
}

/// Whether an audit line is a successful request of one of our accounts.
pub(crate) fn by_account(line: &Value, account: &str) -> bool {
    line["user"]["username"] == format!("system:serviceaccount:{SYSTEM}:{account}")
        && line["responseStatus"]["code"].as_i64().is_some_and(|code| code < 300)
}

/// Every object of the filesystem store whose key holds a text, without the markers of runs that are gone.
pub(crate) fn stored(part: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&volume().join("trial/objects"), &mut found);
    let wanted = |path: &str| path.contains(part) && !path.contains("/_gone/");
    found.retain(|path| wanted(&path.to_string_lossy()));
    found
}

/// A definition whose program is a shell script in the hello-report image; `more` is added below `spec`.
pub(crate) fn script(name: &str, shell: &str, more: &str) -> String {
    steps(name, more, &[("work", shell, "stages: [First, Second]")])
}

/// A definition of several steps: name, shell script, and what else the step says (flow style). `more` is added below
/// `spec`.
pub(crate) fn steps(name: &str, more: &str, steps: &[(&str, &str, &str)]) -> String {
    let image = variable("HELLO_REPORT_IMAGE");
    let mut document = format!(
        "apiVersion: asynctask.dev/v1alpha1\nkind: TaskDefinition\nmetadata: {{name: {name}}}\nspec:\n  \
         title: {name}\n{more}\n  steps:\n"
    );
    for (step, shell, said) in steps {
        let shell = serde_json::to_string(shell).unwrap();
        let said: String = flow(said).iter().map(|field| format!("    {field}\n")).collect();
        document.push_str(&format!(
            r#"  - name: {step}
    timeout: 5m
{said}    template:
      spec:
        terminationGracePeriodSeconds: 10
        securityContext:
          runAsNonRoot: true
          runAsUser: 65532
          seccompProfile: {{type: RuntimeDefault}}
        containers:
        - name: task
          image: {image}
          imagePullPolicy: IfNotPresent
          command: [sh, -c, {shell}]
          securityContext:
            allowPrivilegeEscalation: false
            capabilities: {{drop: [ALL]}}
"#
        ));
    }
    document
}

/// The fields of a flow mapping without its braces, each on its own.
fn flow(text: &str) -> Vec<String> {
    let (mut fields, mut depth, mut field) = (Vec::new(), 0, String::new());
    for c in text.chars() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            ',' if depth == 0 => {
                fields.push(std::mem::take(&mut field).trim().to_owned());
                continue;
            }
            _ => {}
        }
        field.push(c);
    }
    fields.extend(Some(field.trim().to_owned()).filter(|field| !field.is_empty()));
    fields
}

/// An AsyncTask of a definition, without parameters.
pub(crate) fn task(name: &str, definition: &str) -> String {
    format!(
        "{{apiVersion: asynctask.dev/v1alpha1, kind: AsyncTask, metadata: {{name: {name}}}, \
         spec: {{definition: {{name: {definition}}}}}}}"
    )
}
