//! Client of the gateway's API for people.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, Config};
use reqwest::{Body, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cluster::why;
use super::connect::ConnectionArgs;
use super::credentials::{self, Credentials, CredentialsError};
use super::forward::{Forward, ForwardError};
use super::proxy::is_loopback;
use asynctask_contract::people::Problem;
use asynctask_contract::wire::SignedRequest;

/// ConfigMap the operator keeps the gateway's signers in.
const CA_CONFIG_MAP: &str = "asynctask-gateway-ca";
const CA_KEY: &str = "ca.crt";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For calls that carry no file.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes read of an answer that is not a file.
const MAX_PROBLEM: usize = 256 * 1024;

/// A call to the gateway, or to a store it named, that failed. No variant shows a URL: one may be a key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GatewayError {
    /// No usable credentials.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// No way there.
    #[error(
        "gateway not found: {0}. Name the operator's namespace with --operator-namespace, or the gateway's address \
         with --gateway-url. The way there without an address needs the Role asynctask-cli of that namespace: administrators \
         bind it with `cli.groups` of the chart"
    )]
    Forward(#[from] ForwardError),
    /// Its signers cannot be read.
    #[error(
        "cannot read ConfigMap {CA_CONFIG_MAP:?} in namespace {namespace:?}, which says how to know the gateway: {}",
        why(.source)
    )]
    Signers {
        /// Where.
        namespace: String,
        /// Why.
        source: kube::Error,
    },
    /// The file with its signers cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    SignersFile {
        /// File.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not an address to send credentials to.
    #[error("--gateway-url {0:?}: write https://HOST[:PORT] without a path; plain http is for a loopback address only")]
    Address(String),
    /// A client that cannot be built.
    #[error("cannot set up a connection: {0}")]
    Build(#[source] reqwest::Error),
    /// A plan that leads somewhere else.
    #[error("the gateway named a request that cannot be made: {0}")]
    Plan(&'static str),
    /// No answer.
    #[error("{peer} does not answer: {why}")]
    Silence {
        /// Gateway or store.
        peer: &'static str,
        /// Why, without the URL.
        why: String,
    },
    /// An answer that says no.
    #[error("{}", sentence(.0))]
    Refused(Box<Problem>),
    /// An answer that is no problem document.
    #[error("{peer} answered {status}")]
    Status {
        /// Gateway or store.
        peer: &'static str,
        /// What it answered.
        status: StatusCode,
    },
    /// An answer that cannot be understood.
    #[error(
        "the gateway's answer cannot be read ({0}): is it older or newer than this command? \
         `kubectl asynctask version` tells"
    )]
    Answer(String),
}

impl GatewayError {
    /// Status of the answer, when there was one.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(problem) => Some(problem.status),
            Self::Status { status, .. } => Some(status.as_u16()),
            Self::Credentials(_)
            | Self::Forward(_)
            | Self::Signers { .. }
            | Self::SignersFile { .. }
            | Self::Address(_)
            | Self::Build(_)
            | Self::Plan(_)
            | Self::Silence { .. }
            | Self::Answer(_) => None,
        }
    }

    /// Whether the same call may succeed a moment later.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Silence { .. }) || self.status().is_some_and(|s| s == 429 || (s >= 500 && s != 501))
    }
}

/// Detail and violations of a problem, as people read them.
fn sentence(problem: &Problem) -> String {
    let clean = super::words::clean;
    let mut text = clean(if problem.detail.is_empty() { &problem.title } else { &problem.detail });
    for violation in &problem.violations {
        text.push_str("\n  ");
        text.push_str(&clean(violation));
    }
    text
}

/// The gateway, with the user's credentials.
pub(crate) struct Gateway {
    http: reqwest::Client,
    base: Url,
    credentials: Credentials,
    forward: Option<Forward>,
    /// The client of the last store, with the certificates it was made for: many files come from one store.
    store: Mutex<Option<(Option<String>, reqwest::Client)>>,
}

impl Gateway {
    /// By its URL when one is set, else by a port-forward.
    pub(crate) async fn open(client: &Client, config: &Config, args: &ConnectionArgs) -> Result<Self, GatewayError> {
        let credentials = Credentials::new(config)?;
        let from_file = match &args.gateway_ca {
            Some(file) => {
                let pem = tokio::fs::read(file)
                    .await
                    .map_err(|source| GatewayError::SignersFile { file: file.clone(), source })?;
                Some(credentials::certificates(&pem, &file.display().to_string())?)
            }
            None => None,
        };
        if let Some(url) = &args.gateway_url {
            let base = address(url)?;
            let tls = credentials::tls(config, from_file.unwrap_or_else(credentials::public_roots))?;
            // As any other server, but for one of this machine.
            let own = base.host_str().is_some_and(is_loopback);
            let builder = if own { builder().no_proxy() } else { builder() };
            let http = builder.tls_backend_preconfigured(tls).build().map_err(GatewayError::Build)?;
            return Ok(Self { http, base, credentials, forward: None, store: Mutex::default() });
        }
        let namespace = &args.operator_namespace;
        let forward = Forward::open(client.clone(), namespace).await?;
        let roots = match from_file {
            Some(roots) => roots,
            None => signers(client, namespace).await?,
        };
        let tls = credentials::tls(config, roots)?;
        // The certificate names the Service; the bytes go to our loopback port.
        let host = format!("{}.{namespace}.svc", args.gateway_service);
        let base = address(&format!("https://{host}:{}", forward.address().port()))?;
        // Never through a proxy, which would look for the Service by its name.
        let http = builder().no_proxy().tls_backend_preconfigured(tls).resolve(&host, forward.address()).build();
        let http = http.map_err(GatewayError::Build)?;
        Ok(Self { http, base, credentials, forward: Some(forward), store: Mutex::default() })
    }

    /// A gateway on a loopback port, and a token for it.
    #[cfg(test)]
    pub(crate) fn loopback(address: std::net::SocketAddr, token: &str) -> Self {
        let base: Url = format!("http://{address}").parse().expect("a URL");
        let mut config = Config::new(base.as_str().parse().expect("a URI"));
        config.auth_info.token = Some(token.to_owned().into());
        let credentials = Credentials::new(&config).expect("a token is usable");
        let http = store(None).expect("a client");
        Self { http, base, credentials, forward: None, store: Mutex::default() }
    }

    /// `/api/v1/namespaces/<namespace>/<rest>…`, each part encoded.
    pub(crate) fn path(&self, namespace: &str, rest: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(["api", "v1", "namespaces", namespace]).extend(rest);
        }
        url
    }

    /// A GET that answers JSON.
    pub(crate) async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, GatewayError> {
        let call = self.http.get(url).header(ACCEPT, "application/json").timeout(CALL_TIMEOUT);
        json(self.send(call).await?).await
    }

    /// The gateway's own document about itself.
    pub(crate) async fn openapi<T: DeserializeOwned>(&self) -> Result<T, GatewayError> {
        let url = self.base.join("/openapi.json").map_err(|_| GatewayError::Plan("no such path"))?;
        self.get(url).await
    }

    /// A POST of JSON that answers JSON.
    pub(crate) async fn post<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        url: Url,
        body: &B,
    ) -> Result<T, GatewayError> {
        json(self.post_raw(url, body).await?).await
    }

    /// A POST of JSON whose answer has no content.
    pub(crate) async fn post_empty<B: Serialize + Sync>(&self, url: Url, body: &B) -> Result<(), GatewayError> {
        self.post_raw(url, body).await.map(|_| ())
    }

    /// A POST without a body that answers JSON.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, url: Url) -> Result<T, GatewayError> {
        let call = self.http.post(url).header(ACCEPT, "application/json").timeout(CALL_TIMEOUT);
        json(self.send(call).await?).await
    }

    /// A DELETE whose answer has no content.
    pub(crate) async fn delete(&self, url: Url) -> Result<(), GatewayError> {
        let call = self.http.delete(url).header(ACCEPT, "application/json").timeout(CALL_TIMEOUT);
        self.send(call).await.map(|_| ())
    }

    /// A client for stores: the public roots, and the certificates that came with a ticket. It knows no credentials.
    pub(crate) fn store(&self, ca: Option<&str>) -> Result<reqwest::Client, GatewayError> {
        let mut last = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = last.as_ref().filter(|(known, _)| known.as_deref() == ca) {
            return Ok(client.clone());
        }
        let client = store(ca)?;
        *last = Some((ca.map(str::to_owned), client.clone()));
        Ok(client)
    }

    async fn post_raw<B: Serialize + Sync>(&self, url: Url, body: &B) -> Result<Response, GatewayError> {
        let call = self.http.post(url).header(ACCEPT, "application/json").timeout(CALL_TIMEOUT).json(body);
        self.send(call).await
    }

    async fn send(&self, call: reqwest::RequestBuilder) -> Result<Response, GatewayError> {
        accepted(self.raw(call).await?, GATEWAY).await
    }

    async fn raw(&self, call: reqwest::RequestBuilder) -> Result<Response, GatewayError> {
        let header = self.credentials.header().await?;
        let call = header.into_iter().fold(call, |call, header| call.header(AUTHORIZATION, header));
        call.send().await.map_err(|error| {
            let behind = self.forward.as_ref().and_then(|f| f.trouble());
            GatewayError::Silence { peer: GATEWAY, why: behind.unwrap_or_else(|| silence(error)) }
        })
    }

    /// Makes a request the gateway planned: a path of its own with the user's credentials, any other URL without.
    /// The status is the caller's to judge.
    pub(crate) async fn perform(
        &self,
        store: &reqwest::Client,
        request: &SignedRequest,
        more: HeaderMap,
        body: Option<Body>,
    ) -> Result<(Response, &'static str), GatewayError> {
        let method: Method = request.method.parse().map_err(|_| GatewayError::Plan("no such method"))?;
        let mut headers = more;
        for (name, value) in &request.headers {
            let name: HeaderName = name.parse().map_err(|_| GatewayError::Plan("a header has no valid name"))?;
            let value: HeaderValue = value.parse().map_err(|_| GatewayError::Plan("a header has no valid value"))?;
            headers.insert(name, value);
        }
        let own = request.url.starts_with('/');
        let url = self.base.join(&request.url).map_err(|_| GatewayError::Plan("no valid URL"))?;
        if own && url.origin() != self.base.origin() {
            return Err(GatewayError::Plan("a path that leads to another host"));
        }
        let http = if own { &self.http } else { store };
        let call = http.request(method, url).headers(headers);
        let call = body.into_iter().fold(call, reqwest::RequestBuilder::body);
        if own {
            return Ok((self.raw(call).await?, GATEWAY));
        }
        let reply = call.send().await.map_err(|e| GatewayError::Silence { peer: STORE, why: silence(e) })?;
        Ok((reply, STORE))
    }
}

const GATEWAY: &str = "the gateway";
/// Whose answer a [`GatewayError::Status`] was.
pub(crate) const STORE: &str = "the store";

fn store(ca: Option<&str>) -> Result<reqwest::Client, GatewayError> {
    let mut roots = credentials::public_roots();
    if let Some(pem) = ca {
        roots.extend(credentials::certificates(pem.as_bytes(), "the store's CA bundle")?);
    }
    let roots: Result<Vec<_>, _> = roots.iter().map(|der| reqwest::Certificate::from_der(der)).collect();
    builder().tls_certs_only(roots.map_err(GatewayError::Build)?).build().map_err(GatewayError::Build)
}

/// No redirect is followed: what a URL grants stays with the host it was made for. Names are resolved as the system
/// does it, which knows VPNs and split DNS.
fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("kubectl-asynctask/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .no_hickory_dns()
}

/// The answer if it says yes, else its problem as an error.
pub(crate) async fn accepted(reply: Response, peer: &'static str) -> Result<Response, GatewayError> {
    let status = reply.status();
    if status.is_success() {
        return Ok(reply);
    }
    let json = reply.headers().get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/problem+json"));
    if json
        && let Ok(body) = tokio::time::timeout(CALL_TIMEOUT, bounded(reply)).await
        && let Ok(problem) = serde_json::from_slice::<Problem>(&body)
    {
        return Err(GatewayError::Refused(Box::new(problem)));
    }
    Err(GatewayError::Status { peer, status })
}

async fn bounded(mut reply: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = reply.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_PROBLEM {
            break;
        }
    }
    body
}

async fn json<T: DeserializeOwned>(reply: Response) -> Result<T, GatewayError> {
    reply.json().await.map_err(|e| GatewayError::Answer(silence(e)))
}

/// Why a call failed, innermost first reason last, without its URL.
pub(crate) fn silence(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

fn address(text: &str) -> Result<Url, GatewayError> {
    let bad = || GatewayError::Address(text.to_owned());
    let url: Url = text.parse().map_err(|_| bad())?;
    let loopback = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    let secure = url.scheme() == "https" || (url.scheme() == "http" && loopback);
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if secure && bare && url.username().is_empty() && url.password().is_none() { Ok(url) } else { Err(bad()) }
}

async fn signers(client: &Client, namespace: &str) -> Result<Vec<Vec<u8>>, GatewayError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let namespace = namespace.to_owned();
    let map = api.get(CA_CONFIG_MAP).await.map_err(|source| GatewayError::Signers { namespace, source })?;
    let pem = map.data.and_then(|mut data| data.remove(CA_KEY)).unwrap_or_default();
    Ok(credentials::certificates(pem.as_bytes(), &format!("ConfigMap {CA_CONFIG_MAP:?}"))?)
}

#[cfg(test)]
mod tests {
    use super::{GatewayError, address, sentence};
    use asynctask_contract::people::Problem;

    #[test]
    fn credentials_go_to_https_or_loopback_only() {
        for good in ["https://tasks.example.org", "https://tasks.example.org:8443/", "http://127.0.0.1:8080"] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in [
            "http://tasks.example.org",
            "https://tasks.example.org/path",
            "https://user:pw@tasks.example.org",
            "https://tasks.example.org?x=1",
            "ftp://127.0.0.1",
            "http://127.0.0.1.example.org",
            "tasks.example.org",
        ] {
            assert!(matches!(address(bad), Err(GatewayError::Address(_))), "{bad}");
        }
    }

    #[test]
    fn a_problem_is_told_with_every_violation() {
        let problem = Problem {
            kind: "about:blank".into(),
            title: "InvalidParameters".into(),
            status: 422,
            detail: "The parameters do not fit.".into(),
            violations: vec!["/course: missing".into(), "/depth: \x1b[2J".into()],
        };
        assert_eq!(sentence(&problem), "The parameters do not fit.\n  /course: missing\n  /depth: \u{FFFD}[2J");
    }
}
