//! The client of the API server: who we say we are, how long we wait, and what an error means.

use std::error::Error as _;
use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use kube::{Client, Config};

/// Longest silence on a connection: just above the 290 s after which a watch ends by itself.
const READ_TIMEOUT: Duration = Duration::from_secs(295);
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
        config.read_timeout = Some(READ_TIMEOUT);
        Ok(Self { config })
    }

    /// A client for everything but the lease. Nothing limits its rate: the API server's own fairness does.
    ///
    /// # Errors
    /// [`ConnectError::Client`] when the configuration cannot be used.
    pub fn client(&self) -> Result<Client, ConnectError> {
        Client::try_from(self.config.clone()).map_err(ConnectError::Client)
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
        Client::try_from(config).map_err(ConnectError::Client)
    }
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
pub fn explain_watch(error: &kube::runtime::watcher::Error) -> String {
    use kube::runtime::watcher::Error;
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
    use super::{explain, is_status};
    use kube::core::Status;

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
