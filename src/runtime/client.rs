//! The client of the API server: who we say we are, how long we wait, and what an error means.

use std::error::Error as _;
use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use kube::client::ClientBuilder;
use kube::runtime::watcher;
use kube::{Client, Config};
use tower::util::MapResponseLayer;

use asynctask_api::quarantine::{Without, screened};

/// Seconds after which the API server ends a watch, which is then begun again where it ended. Two seconds before, the
/// server sends a bookmark: the new watch needs no list.
const WATCH: u32 = 60;
/// How long a connection may stay silent before it is closed as dead. The API server answers or ends every request within a
/// minute: a watch by its `timeoutSeconds`, any other by `--request-timeout`. kube's own idle timeout comes later, and does not
/// cover the request that opens a watch.
pub const SILENCE: Duration = Duration::from_secs(63);
/// A lease that could not be renewed in this time is as good as lost.
const LEASE_READ_TIMEOUT: Duration = Duration::from_secs(2);

/// There is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a service account.
    #[error("no configuration for the API server was found (KUBECONFIG, ~/.kube/config, service account): {0}")]
    Configuration(#[from] kube::config::InferConfigError),
    /// The configuration cannot be used.
    #[error("the client of the API server cannot be built: {}", explain(.0))]
    Client(#[source] kube::Error),
}

/// Makes clients that all carry the same user agent, so that the audit log tells whose writes are whose.
#[derive(Clone, Debug)]
pub struct Connector {
    config: Config,
    silence: Duration,
}

impl Connector {
    /// Finds the configuration: kubeconfig first, then the service account of the pod. `component` is
    /// `asynctask-operator` or `asynctask-gateway`; the version is appended to it.
    ///
    /// # Errors
    /// [`ConnectError::Configuration`] when there is none.
    pub async fn infer(component: &'static str) -> Result<Self, ConnectError> {
        let mut config = Config::infer().await?;
        let agent = HeaderValue::from_str(&format!("{component}/{}", env!("CARGO_PKG_VERSION")))
            .expect("invariant: component and version are ASCII");
        config.headers.push((USER_AGENT, agent));
        Ok(Self { config, silence: SILENCE })
    }

    /// A client for everything but watches and the lease. Nothing limits its rate: the API server's own fairness does.
    ///
    /// # Errors
    /// [`ConnectError::Client`] when the configuration cannot be used.
    pub fn client(&self, without: Without) -> Result<Client, ConnectError> {
        build(self.patient(), without)
    }

    /// A client for watches. It leaves the parameters of AsyncTasks out. It does not try again by itself: the client's pauses double up to minutes, unseen, and a watch
    /// makes its own, of half a minute to a minute at most.
    ///
    /// # Errors
    /// [`ConnectError::Client`] when the configuration cannot be used.
    pub fn watch_client(&self) -> Result<Client, ConnectError> {
        let mut config = self.patient();
        config.default_retry = false;
        build(config, Without::Parameters)
    }

    fn patient(&self) -> Config {
        let mut config = self.config.clone();
        config.read_timeout = Some(self.silence);
        // Counted from the request, not from the end of the one before it on the same connection.
        config.reset_reader_on_write = true;
        config
    }

    /// A client for the lease: it neither waits long nor tries again by itself, because the holder has to know in
    /// time that it no longer is.
    ///
    /// # Errors
    /// [`ConnectError::Client`] when the configuration cannot be used.
    pub fn lease_client(&self) -> Result<Client, ConnectError> {
        let mut config = self.config.clone();
        config.connect_timeout = Some(LEASE_READ_TIMEOUT);
        config.read_timeout = Some(LEASE_READ_TIMEOUT);
        config.default_retry = false;
        build(config, Without::Nothing)
    }
}

/// A client that sets aside what cannot be decoded.
fn build(config: Config, without: Without) -> Result<Client, ConnectError> {
    let screen = MapResponseLayer::new(move |answer| screened(answer, without));
    Ok(ClientBuilder::try_from(config).map_err(ConnectError::Client)?.with_layer(&screen).build())
}

/// How every watch of this process is made: a view is never older than [`SILENCE`] without anybody noticing.
#[must_use]
pub fn watch_config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH)
}

/// An error of the client in words for people: the API server's own message, or what the connection said. kube's own
/// text repeats itself and hides the cause.
#[must_use]
pub fn explain(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}

/// The same for an error of a watch.
#[must_use]
pub fn explain_watch(error: &watcher::Error) -> String {
    use watcher::Error;
    match error {
        Error::InitialListFailed(error) | Error::WatchStartFailed(error) | Error::WatchFailed(error) => explain(error),
        Error::WatchError(status) => status.message.clone(),
        Error::NoResourceVersion => error.to_string(),
    }
}

/// Whether the API server answered with this HTTP status.
#[must_use]
pub fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Chooses the cryptography of every TLS connection of the process. To be called once, first thing in `main`.
pub fn install_crypto_provider() {
    // A second call would be a second choice; the first one stands and is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use axum::Router;
    use axum::body::{Body, Bytes};
    use axum::extract::{RawQuery, State};
    use axum::response::{IntoResponse, Response};
    use futures::{StreamExt, stream};
    use k8s_openapi::api::batch::v1::Job;
    use kube::core::{DeserializeGuard, Status};
    use kube::runtime::watcher;
    use kube::{Api, Config, ResourceExt};
    use serde_json::json;

    use asynctask_api::AsyncTask;
    use asynctask_api::names::ANNOTATION_UNREADABLE;

    use super::{Connector, SILENCE, WATCH, Without, explain, is_status, watch_config};

    /// A server of Jobs whose first answers never come, in each of the ways in which they may not.
    async fn silent_at_first(State(asked): State<Arc<AtomicUsize>>, RawQuery(query): RawQuery) -> Response {
        let query = query.unwrap_or_default();
        let watching = query.contains("watch=true");
        assert!(!watching || query.contains("timeoutSeconds=60"), "{query}");
        let job = json!({"type": "ADDED", "object": {
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "made-meanwhile", "resourceVersion": "2"},
        }});
        let line = |line: Option<String>| {
            let lines = stream::iter(line).map(|line| Ok::<_, Infallible>(Bytes::from(line + "\n")));
            Body::from_stream(lines.chain(stream::pending())).into_response()
        };
        match (asked.fetch_add(1, Ordering::Relaxed), watching) {
            (0, false) | (2, true) => std::future::pending().await,
            (_, false) => {
                json!({"kind": "JobList", "apiVersion": "batch/v1", "metadata": {"resourceVersion": "1"}, "items": []})
                    .to_string()
                    .into_response()
            }
            (3, true) => line(None),
            (_, true) => line(Some(job.to_string())),
        }
    }

    async fn connector(server: Router, silence: Duration) -> Connector {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, server).await });
        super::install_crypto_provider();
        Connector { config: Config::new(url.parse().expect("a URL")), silence }
    }

    #[tokio::test]
    async fn a_watch_that_falls_silent_at_any_point_is_begun_again_and_shows_what_happened_meanwhile() {
        let asked = Arc::<AtomicUsize>::default();
        let server = Router::new().fallback(silent_at_first).with_state(Arc::clone(&asked));
        let client = connector(server, Duration::from_millis(100)).await.watch_client().expect("a client");
        let events = watcher(Api::<Job>::all(client), watch_config());
        let shown = events.filter_map(|event| {
            std::future::ready(match event {
                Ok(watcher::Event::Apply(job)) => Some(job.name_any()),
                _ => None,
            })
        });
        let shown = tokio::time::timeout(Duration::from_secs(20), std::pin::pin!(shown).next()).await;
        assert_eq!(shown.ok().flatten().as_deref(), Some("made-meanwhile"));
        assert_eq!(
            asked.load(Ordering::Relaxed),
            5,
            "a list and a start unanswered, a list, a silent watch, a live one"
        );
    }

    #[tokio::test]
    async fn one_object_that_nobody_can_read_is_set_aside_and_the_others_are_listed_and_watched() {
        let task = |name: &str, parameters: &str| {
            let task = json!({
                "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": name, "namespace": "a", "resourceVersion": "2"},
                "spec": {"definition": {"name": "d"}, "parameters": "here"},
            });
            task.to_string().replace("\"here\"", parameters)
        };
        let deep = format!("{}1{}", "[".repeat(130), "]".repeat(130));
        let items = format!("{},{}", task("deep", &deep), task("good", "{}"));
        let list =
            format!(r#"{{"kind": "AsyncTaskList", "metadata": {{"resourceVersion": "1"}}, "items": [{items}]}}"#);
        let event = |task| format!("{{\"type\": \"ADDED\", \"object\": {task}}}\n");
        let events = event(task("deep-2", &deep)) + &event(task("good-2", "{}"));
        let answer = move |RawQuery(query): RawQuery| {
            let watching = query.unwrap_or_default().contains("watch=true");
            let body = if watching { events.clone() } else { list.clone() };
            std::future::ready(([("content-type", "application/json")], body))
        };
        let connector = connector(Router::new().fallback(answer), SILENCE).await;
        let client = connector.client(Without::Nothing).expect("a client");
        let events = watcher(Api::<DeserializeGuard<AsyncTask>>::all(client), watch_config());
        let shown = events.filter_map(|event| {
            std::future::ready(match event {
                Ok(watcher::Event::Apply(task) | watcher::Event::InitApply(task)) => {
                    let why = task.annotations().get(ANNOTATION_UNREADABLE).cloned();
                    Some((task.name_any(), task.0.is_ok(), why.is_some_and(|why| why.contains("nested 13"))))
                }
                Ok(_) => None,
                Err(error) => panic!("{error}"),
            })
        });
        let shown = tokio::time::timeout(Duration::from_secs(20), shown.take(4).collect::<Vec<_>>()).await;
        let (bad, good) = (|name: &str| (name.to_owned(), false, true), |name: &str| (name.to_owned(), true, false));
        assert_eq!(shown.expect("all are shown"), [bad("deep"), good("good"), bad("deep-2"), good("good-2")]);
    }

    #[tokio::test]
    async fn a_call_that_hangs_is_given_up_and_a_refused_watch_is_not_tried_again_unseen() {
        let asked = Arc::<AtomicUsize>::default();
        let refuse = |State(asked): State<Arc<AtomicUsize>>| async move {
            asked.fetch_add(1, Ordering::Relaxed);
            http::StatusCode::SERVICE_UNAVAILABLE
        };
        let server = Router::new()
            .route("/api/v1/nodes", axum::routing::get(std::future::pending::<()>))
            .fallback(refuse)
            .with_state(Arc::clone(&asked));
        let connector = connector(server, Duration::from_millis(100)).await;

        let nodes = Api::<k8s_openapi::api::core::v1::Node>::all(connector.client(Without::Nothing).expect("a client"));
        let hung = tokio::time::timeout(Duration::from_secs(20), nodes.list(&kube::api::ListParams::default())).await;
        assert!(hung.expect("it is given up").is_err());

        let jobs = Api::<Job>::all(connector.watch_client().expect("a client"));
        assert!(jobs.list(&kube::api::ListParams::default()).await.is_err());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn silence_is_longer_than_a_watch_and_shorter_than_what_kube_waits() {
        let watch = Duration::from_secs(WATCH.into());
        assert!(watch < SILENCE && SILENCE < watch + Duration::from_secs(5));
        assert_eq!((watch_config().timeout, watch_config().bookmarks), (Some(WATCH), true));
    }

    #[test]
    fn an_api_error_is_told_in_the_servers_words() {
        let error = kube::Error::Api(Status::failure("pods \"x\" is forbidden", "Forbidden").with_code(403).boxed());
        assert_eq!(explain(&error), "pods \"x\" is forbidden");
        assert!(is_status(&error, 403) && !is_status(&error, 404));
    }

    #[test]
    fn a_transport_error_is_told_with_its_cause_once() {
        let cause = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused");
        let text = explain(&kube::Error::Service(Box::new(cause)));
        assert_eq!(text, "ServiceError: connection refused");
    }
}
