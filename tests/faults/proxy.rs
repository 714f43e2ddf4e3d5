//! Stands between the operator and what it writes to: the API server and the store. All is passed on as it is, but for
//! the faults that are asked for.
//!
//! Towards the operator it speaks plain HTTP on this machine, so that no bytes have to be decrypted to be counted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;

use crate::rules::{Fault, Point, Run, Runs};

/// What lies behind a front.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Behind {
    ApiServer(String),
    /// Pods and the gateway come through the same door: only requests from this address are the operator's.
    Store(String, IpAddr),
}

type Crash = Box<dyn Fn() + Send + Sync>;

/// The faults, and both fronts.
pub(crate) struct Proxy {
    client: reqwest::Client,
    runs: Mutex<Runs>,
    frozen: watch::Sender<BTreeSet<String>>,
    old: Mutex<BTreeMap<String, Bytes>>,
    crash: OnceLock<Crash>,
    /// While this is a status, it is the API server's answer to everything.
    outage: watch::Sender<Option<u16>>,
    traffic: Mutex<Traffic>,
    /// Namespace whose pods have to wait before a file of theirs goes on to the store.
    slow: watch::Sender<Option<String>>,
    /// Files that had to wait so far.
    waited: AtomicUsize,
}

/// What the operator has asked the API server for, answered or not. Leases, Events and dry runs count as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) reads: usize,
    pub(crate) writes: usize,
}

impl std::ops::Sub for Traffic {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { reads: self.reads - earlier.reads, writes: self.writes - earlier.writes }
    }
}

impl Proxy {
    /// `ca` are the PEM certificates of the API server's authority.
    pub(crate) fn new(ca: &[u8]) -> Arc<Self> {
        let ca = reqwest::Certificate::from_pem_bundle(ca).unwrap();
        // What the operator sends is passed on as it is, and it speaks HTTP/1.
        let client =
            reqwest::Client::builder().http1_only().tls_certs_only(ca).redirect(reqwest::redirect::Policy::none());
        Arc::new(Self {
            client: client.no_proxy().build().unwrap(),
            runs: Mutex::default(),
            frozen: watch::Sender::default(),
            old: Mutex::default(),
            crash: OnceLock::new(),
            outage: watch::Sender::default(),
            traffic: Mutex::default(),
            slow: watch::Sender::new(None),
            waited: AtomicUsize::new(0),
        })
    }

    /// What a crash is.
    pub(crate) fn crash_is(&self, crash: impl Fn() + Send + Sync + 'static) {
        assert!(self.crash.set(Box::new(crash)).is_ok(), "a crash is defined once");
    }

    /// Serves the API server behind `url`; the address to go to.
    pub(crate) async fn api_server(self: &Arc<Self>, url: &str) -> SocketAddr {
        self.serve(IpAddr::from([127, 0, 0, 1]), Behind::ApiServer(url.to_owned())).await
    }

    /// Serves the store behind `url` on the address that pods reach too.
    pub(crate) async fn store(self: &Arc<Self>, ip: IpAddr, url: &str) -> SocketAddr {
        self.serve(ip, Behind::Store(url.to_owned(), ip)).await
    }

    async fn serve(self: &Arc<Self>, ip: IpAddr, behind: Behind) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new().fallback(front).with_state((Arc::clone(self), behind));
        tokio::spawn(async move {
            axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await.unwrap();
        });
        address
    }

    /// Counts the writes of a run from now on; with a plan, a fault strikes one of them.
    pub(crate) fn watch(&self, namespace: &str, planned: Option<(Point, Fault)>) {
        self.runs().watch(namespace, planned);
    }

    /// Asks something about a run.
    pub(crate) fn run<T>(&self, namespace: &str, ask: impl FnOnce(&Run) -> T) -> T {
        ask(self.runs().of(namespace))
    }

    /// No event of a watch of these resources passes until [`Self::thaw`]; none is lost.
    pub(crate) fn freeze(&self, resources: &[&str]) {
        self.frozen.send_replace(resources.iter().map(|&name| name.to_owned()).collect());
    }

    /// All watches go on.
    pub(crate) fn thaw(&self) {
        self.frozen.send_replace(BTreeSet::new());
    }

    /// The next list of the resource is this old one.
    pub(crate) fn list_is(&self, resource: &str, list: String) {
        lock(&self.old).insert(resource.to_owned(), list.into());
    }

    /// From now on the API server answers everything with this status, and ends its watches; `None`: it serves again.
    pub(crate) fn refuse(&self, status: Option<u16>) {
        self.outage.send_replace(status);
    }

    /// From now on files that pods of this namespace send do not arrive; `None`: they go on.
    pub(crate) fn slow(&self, namespace: Option<&str>) {
        self.waited.store(0, Ordering::Relaxed);
        self.slow.send_replace(namespace.map(str::to_owned));
    }

    /// Files that had to wait since then.
    pub(crate) fn waited(&self) -> usize {
        self.waited.load(Ordering::Relaxed)
    }

    async fn wait(&self, path: &str) {
        let is_slow = |namespace: &Option<String>| {
            namespace.as_ref().is_some_and(|name| path.contains(&format!("/{name}/")) && path.contains("/files/"))
        };
        if is_slow(&self.slow.borrow()) {
            self.waited.fetch_add(1, Ordering::Relaxed);
            let _ = self.slow.subscribe().wait_for(|namespace| !is_slow(namespace)).await;
        }
    }

    /// What was asked for so far.
    pub(crate) fn traffic(&self) -> Traffic {
        *lock(&self.traffic)
    }

    fn runs(&self) -> MutexGuard<'_, Runs> {
        lock(&self.runs)
    }

    async fn api(self: &Arc<Self>, url: &str, request: Request) -> Response {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let query = uri.query().unwrap_or_default();
        {
            let mut traffic = lock(&self.traffic);
            *(if method == "GET" { &mut traffic.reads } else { &mut traffic.writes }) += 1;
        }
        if let Some(status) = *self.outage.borrow() {
            return refusal(status);
        }
        let fault = self.runs().api(method.as_str(), uri.path(), query);
        let resource = uri.path().rsplit('/').next().unwrap_or_default().to_owned();
        let watching = query.split('&').any(|part| part == "watch=true");
        if method == "GET" && !watching {
            let old = lock(&self.old).remove(&resource);
            if let Some(list) = old {
                return Response::builder().header("content-type", "application/json").body(list.into()).unwrap();
            }
        }
        let answer = self.under(fault, url, request).await;
        if !watching {
            return answer;
        }
        let (head, body) = answer.into_parts();
        let mut outage = self.outage.subscribe();
        let outage = async move { outage.wait_for(Option::is_some).await.is_ok() };
        Response::from_parts(head, Body::from_stream(gated(self.frozen.subscribe(), resource, body).take_until(outage)))
    }

    /// Passes a request on, as the fault allows.
    async fn under(self: &Arc<Self>, fault: Option<Fault>, url: &str, request: Request) -> Response {
        match fault {
            None => self.forward(url, request).await,
            Some(Fault::CrashBefore) => self.crash().await,
            Some(Fault::CrashAfter) => {
                // On its own: our connection to the operator, and we with it, may end at any time.
                let (proxy, url) = (Arc::clone(self), url.to_owned());
                let made = tokio::spawn(async move {
                    whole(proxy.pass(&url, request).await).await;
                    proxy.crash().await
                });
                made.await.unwrap_or_else(|_| hang_up())
            }
            Some(Fault::LoseReply) => {
                whole(self.forward(url, request).await).await;
                hang_up()
            }
            Some(Fault::Answer(status)) => refusal(status),
            Some(Fault::Hold(time)) => {
                tokio::time::sleep(time).await;
                self.forward(url, request).await
            }
        }
    }

    async fn crash(self: &Arc<Self>) -> Response {
        let proxy = Arc::clone(self);
        tokio::task::spawn_blocking(move || proxy.crash.get().expect("a crash is defined")()).await.unwrap();
        hang_up()
    }

    /// What has come is made, whatever becomes of our connection to the operator, and of us with it: a write that is cut
    /// half way would be one that the audit log calls neither made nor refused.
    async fn forward(self: &Arc<Self>, url: &str, request: Request) -> Response {
        let (proxy, url) = (Arc::clone(self), url.to_owned());
        let made = tokio::spawn(async move { proxy.pass(&url, request).await }).await;
        made.unwrap_or_else(|_| hang_up())
    }

    async fn pass(&self, url: &str, request: Request) -> Response {
        let (head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut headers = head.headers;
        for hop in ["connection", "transfer-encoding", "content-length"] {
            headers.remove(hop);
        }
        // The store's signatures cover the host's name; the API server does not look at it.
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let sent = self.client.request(head.method, format!("{url}{path}")).headers(headers).body(body).send().await;
        let Ok(answer) = sent else { hang_up() };
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer.headers().iter().filter(|(name, _)| *name != "transfer-encoding") {
            response = response.header(name, value);
        }
        response.body(Body::from_stream(answer.bytes_stream())).unwrap()
    }
}

async fn front(
    State((proxy, behind)): State<(Arc<Proxy>, Behind)>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    match behind {
        Behind::ApiServer(url) => proxy.api(&url, request).await,
        Behind::Store(url, operator) => {
            let (head, body) = request.into_parts();
            let body = to_bytes(body, usize::MAX).await.unwrap();
            if head.method == "PUT" && peer.ip() != operator {
                proxy.wait(head.uri.path()).await;
            }
            let fault = (peer.ip() == operator)
                .then(|| proxy.runs().store(head.method.as_str(), head.uri.path(), &body))
                .flatten();
            proxy.under(fault, &url, Request::from_parts(head, body.into())).await
        }
    }
}

/// The events of a watch, held back while its resource is frozen.
fn gated(
    frozen: watch::Receiver<BTreeSet<String>>,
    resource: String,
    body: Body,
) -> impl Stream<Item = Result<Bytes, axum::Error>> + Send + 'static {
    stream::unfold((body.into_data_stream(), frozen, resource), |(mut body, mut frozen, resource)| async move {
        let chunk = body.next().await?;
        let open = frozen.wait_for(|frozen| !frozen.contains(&resource)).await.is_ok();
        open.then_some((chunk, (body, frozen, resource)))
    })
}

/// Reads an answer to its end, so that the write behind it is surely made.
async fn whole(answer: Response) {
    let _ = to_bytes(answer.into_body(), usize::MAX).await;
}

/// Ends the connection without a word. A handler must answer; one that unwinds does not, and this way without noise.
fn hang_up() -> ! {
    std::panic::resume_unwind(Box::new("the connection is cut"))
}

/// As the API server refuses.
fn refusal(status: u16) -> Response {
    let reason = match status {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "reason": reason,
        "message": "a fault that a test has placed",
    });
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(body.to_string().into()).unwrap()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
