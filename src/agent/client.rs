//! HTTP to the gateway and to stores: which roots are trusted, where the token goes, what an error may say.
//!
//! Errors name the act, the status and the peer's sentence. They never carry a URL: a signed one is a key.

use std::error::Error;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, ClientBuilder, Method, RequestBuilder, Response, redirect};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use super::notice;
use super::retry::{Decision, Kind, Peer, Tries};
use asynctask_contract::env;
use asynctask_contract::wire::{FailedBy, SignedRequest, word};

const CONNECT: Duration = Duration::from_secs(10);
/// A commit of 1,000 files makes the gateway look at each of them.
const ANSWER: Duration = Duration::from_secs(120);
/// Slower than this, a transfer counts as stalled.
const BYTES_PER_SECOND: u64 = 32 << 10;
/// One line about an unreachable peer at most this often.
const REMIND: Duration = Duration::from_secs(60);
/// Of an error body no more is read.
const ERROR_BODY: usize = 8 << 10;
/// Of a gateway's sentence no more is shown, in characters.
const DETAIL: usize = 1024;

/// The client could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("{0} is not set: this binary is started by the AsyncTask operator, inside a task pod")]
    Unset(&'static str),
    #[error("{} is not an https:// URL: the pod's token is never sent in the clear", env::GATEWAY_URL)]
    NotHttps,
    #[error("the certificates in {of} cannot be used: {said}")]
    Certificates { of: &'static str, said: String },
}

/// A call did not succeed and will not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{act}: {said}")]
    Local { act: &'static str, said: String },
    #[error("{act}: the gateway refused with status {status}: {said}")]
    Refused { act: &'static str, status: u16, word: Option<String>, said: String },
    #[error("{act}: the gateway's answer is not understood ({said}); are agent and gateway of neighbouring versions?")]
    Answer { act: &'static str, said: String },
}

impl CallError {
    /// Whose failure it is that the call did not succeed.
    pub(crate) fn failed_by(&self) -> FailedBy {
        match self {
            Self::Local { .. } | Self::Answer { .. } => FailedBy::Agent,
            Self::Refused { status, word, .. } => refused(*status, word.as_deref()),
        }
    }
}

/// Whose failure a refusal of the gateway speaks of. 422 speaks of content: what the definition asks for or the program
/// left; 410 of bytes that are gone.
fn refused(status: u16, word: Option<&str>) -> FailedBy {
    match (status, word) {
        (422, Some(word::INPUT_MISSING)) | (410, _) => FailedBy::PlatformForGood,
        // What was sent is not what was stored: the next attempt sends it anew.
        (422, Some(word::NOT_STORED | word::CONTENT_ALTERED)) => FailedBy::Platform,
        (422, Some(word::INVALID_DIGEST | word::INVALID_PART | word::UNKNOWN_STAGE)) => FailedBy::Agent,
        (422, _) => FailedBy::Contract,
        (400 | 413 | 415, _) => FailedBy::Agent,
        _ => FailedBy::Platform,
    }
}

/// How one try failed.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// Title of the gateway's answer, or code of the store's: a word programs can tell apart.
    pub(crate) word: Option<String>,
    /// For people; without a URL.
    pub(crate) said: String,
}

impl Fault {
    pub(crate) fn new(kind: Kind, said: impl Into<String>) -> Self {
        Self { kind, word: None, said: said.into() }
    }

    /// Whose failure it is, once no further try is made. A store's "there is no such bucket" is a 404 too, and heals.
    pub(crate) fn failed_by(&self, peer: Peer) -> FailedBy {
        match (self.kind, peer) {
            (Kind::File, _) => FailedBy::Contract,
            (Kind::Local, _) => FailedBy::Agent,
            (Kind::Unreachable, _) => FailedBy::Platform,
            (Kind::Status { code, .. }, Peer::Gateway) => refused(code, self.word.as_deref()),
            (Kind::Status { code: 404, .. }, Peer::Store) if self.word.as_deref() == Some("NoSuchKey") => {
                FailedBy::PlatformForGood
            }
            (Kind::Status { .. }, Peer::Store) => FailedBy::Platform,
        }
    }
}

/// The gateway, with the pod's own token.
pub(crate) struct Gateway {
    http: Client,
    base: String,
    token: PathBuf,
    waiting: Waiting,
}

/// What was last said about a peer that is away.
#[derive(Default)]
struct Waiting(Mutex<Option<(Instant, String)>>);

impl Gateway {
    /// From the environment the Job gives.
    pub(crate) fn from_env(token: PathBuf) -> Result<Self, ClientError> {
        let var = |name| std::env::var(name).ok().filter(|v| !v.is_empty()).ok_or(ClientError::Unset(name));
        let base = var(env::GATEWAY_URL)?;
        if !base.starts_with("https://") {
            return Err(ClientError::NotHttps);
        }
        let roots = certificates(env::GATEWAY_CA, &var(env::GATEWAY_CA)?)?;
        let http = build(env::GATEWAY_CA, builder().tls_certs_only(roots).https_only(true).no_proxy())?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), token, waiting: Waiting::default() })
    }

    /// Asks until there is an answer. `act` names the call in errors, as "publish the result".
    pub(crate) async fn get<T: DeserializeOwned>(&self, act: &'static str, path: &str) -> Result<T, CallError> {
        let body = self.persist(act, Method::GET, path, None).await?;
        understood(act, &body)
    }

    /// Sends until there is an answer.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        act: &'static str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        let body = self.persist(act, Method::POST, path, Some(encoded(body))).await?;
        understood(act, &body)
    }

    /// Sends until it is acknowledged; the answer has no content.
    pub(crate) async fn tell(&self, act: &'static str, path: &str, body: &impl Serialize) -> Result<(), CallError> {
        self.persist(act, Method::POST, path, Some(encoded(body))).await.map(drop)
    }

    /// Sends once.
    pub(crate) async fn tell_once(&self, path: &str, body: &impl Serialize, patience: Duration) -> Result<(), Fault> {
        self.call(Method::POST, path, Some(encoded(body)), patience).await.map(drop)
    }

    /// What keeps the agent waiting at this moment, if anything does.
    pub(crate) fn waits_for(&self) -> Option<String> {
        self.waiting.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).as_ref().map(|(_, said)| said.clone())
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        patience: Duration,
    ) -> Result<Vec<u8>, Fault> {
        let mut request = self.authorised(method, path)?.timeout(patience);
        if let Some(body) = body {
            request = request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body);
        }
        let answer = send(Peer::Gateway, request).await?;
        Ok(answer.bytes().await.map_err(|error| unreachable(&error))?.into())
    }

    fn authorised(&self, method: Method, path: &str) -> Result<RequestBuilder, Fault> {
        let token = std::fs::read_to_string(&self.token)
            .map_err(|error| Fault::new(Kind::Local, format!("cannot read the pod's token: {error}")))?;
        Ok(self.http.request(method, format!("{}{path}", self.base)).bearer_auth(token.trim()))
    }

    async fn persist(
        &self,
        act: &'static str,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, CallError> {
        let mut tries = Tries::default();
        loop {
            let fault = match self.call(method.clone(), path, body.clone(), ANSWER).await {
                Ok(answer) => {
                    self.waiting.over();
                    return Ok(answer);
                }
                Err(fault) => fault,
            };
            if self.wait_after(act, Peer::Gateway, &fault, &mut tries).await == Decision::Stop {
                return Err(match fault.kind {
                    Kind::Status { code, .. } => {
                        CallError::Refused { act, status: code, word: fault.word, said: fault.said }
                    }
                    Kind::Local | Kind::File | Kind::Unreachable => CallError::Local { act, said: fault.said },
                });
            }
        }
    }

    /// Sleeps as the retry rules say, and says now and then what it waits for.
    pub(crate) async fn wait_after(&self, act: &str, peer: Peer, fault: &Fault, tries: &mut Tries) -> Decision {
        let decision = tries.after(peer, fault.kind, jitter());
        if let Decision::Again(wait) = decision {
            self.waiting.begin(format!("{act}: {}", fault.said));
            sleep(wait).await;
        }
        decision
    }

    /// A store call worked after all.
    pub(crate) fn works_again(&self) {
        self.waiting.over();
    }
}

/// Whoever holds bytes: the gateway itself, or a store by signed URL.
pub(crate) struct Transport {
    gateway: Arc<Gateway>,
    store: Client,
}

impl Transport {
    /// `store_ca`: PEM certificates trusted for stores, beside the public roots.
    pub(crate) fn new(gateway: Arc<Gateway>, store_ca: Option<&str>) -> Result<Self, ClientError> {
        const OF: &str = "the assignment's storeCa";
        let mut roots = match store_ca {
            Some(pem) => certificates(OF, pem)?,
            None => Vec::new(),
        };
        for der in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
            roots.push(Certificate::from_der(der).map_err(|error| unusable("the public roots", &error))?);
        }
        Ok(Self { gateway, store: build(OF, builder().tls_certs_only(roots))? })
    }

    /// Makes a signed request ready. A path goes to the gateway with the token, a URL to its host without.
    pub(crate) fn request(&self, signed: &SignedRequest) -> Result<(Peer, RequestBuilder), Fault> {
        let wrong = |what: &str| Fault::new(Kind::Local, format!("the signed request has {what}"));
        let method = Method::from_bytes(signed.method.as_bytes()).map_err(|_| wrong("no HTTP method"))?;
        let (peer, request) = if signed.url.starts_with('/') {
            (Peer::Gateway, self.gateway.authorised(method, &signed.url)?)
        } else {
            (Peer::Store, self.store.request(method, &signed.url))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in &signed.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("a header name that is none"))?;
            headers.insert(name, HeaderValue::from_str(value).map_err(|_| wrong("a header value that is none"))?);
        }
        Ok((peer, request.headers(headers)))
    }
}

/// How long a transfer of so many bytes may take before it counts as stalled.
pub(crate) fn transfer_time(size: u64) -> Duration {
    ANSWER + Duration::from_secs(size / BYTES_PER_SECOND)
}

/// Sends; everything but a 2xx is a fault.
pub(crate) async fn send(peer: Peer, request: RequestBuilder) -> Result<Response, Fault> {
    let answer = request.send().await.map_err(|error| unreachable(&error))?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    let code = answer.status().as_u16();
    let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let kind = Kind::Status { code, retry_after: retry_after.map(Duration::from_secs) };
    let body = beginning(answer).await;
    let (word, said) = match peer {
        Peer::Gateway => (title(&body), detail(&body).unwrap_or_else(|| "no reason given".to_owned())),
        Peer::Store => match store_code(&body) {
            Some(word) => {
                let said = format!("the store answered {code} ({word})");
                (Some(word), said)
            }
            None => (None, format!("the store answered {code}")),
        },
    };
    Err(Fault { kind, word, said })
}

/// An error of the HTTP library with its causes, without the URL it carries.
pub(crate) fn unreachable(error: &reqwest::Error) -> Fault {
    let mut said = if error.is_timeout() { "timed out".to_owned() } else { String::new() };
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            if !said.is_empty() {
                said.push_str(": ");
            }
            said.push_str(&text);
        }
        cause = error.source();
    }
    if said.is_empty() {
        said.push_str("the connection failed");
    }
    // A URL that does not parse is the peer's mistake, and trying again would not mend it.
    Fault::new(if error.is_builder() { Kind::Local } else { Kind::Unreachable }, said)
}

impl Waiting {
    fn begin(&self, said: String) {
        let mut last = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let fresh = last.as_ref().is_none_or(|(at, before)| *before != said || at.elapsed() >= REMIND);
        if fresh {
            notice(format_args!("waiting: {said}"));
            *last = Some((Instant::now(), said));
        }
    }

    fn over(&self) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    }
}

fn builder() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("asynctask-agent/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT)
        // The library's own silent second tries would hide faults from the one place that decides them.
        .retry(reqwest::retry::never())
}

fn build(of: &'static str, builder: ClientBuilder) -> Result<Client, ClientError> {
    builder.build().map_err(|error| unusable(of, &error))
}

fn certificates(of: &'static str, pem: &str) -> Result<Vec<Certificate>, ClientError> {
    let found = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| unusable(of, &error))?;
    if found.is_empty() {
        return Err(ClientError::Certificates { of, said: "no PEM certificate in it".to_owned() });
    }
    Ok(found)
}

fn unusable(of: &'static str, error: &reqwest::Error) -> ClientError {
    ClientError::Certificates { of, said: unreachable(error).said }
}

fn encoded(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("wire types have string keys only")
}

fn understood<T: DeserializeOwned>(act: &'static str, body: &[u8]) -> Result<T, CallError> {
    // serde's sentence would quote what it met, and what it met may be a signed URL.
    serde_json::from_slice(body).map_err(|error| CallError::Answer {
        act,
        said: format!("{:?} error at line {}, column {}", error.classify(), error.line(), error.column()),
    })
}

async fn beginning(mut answer: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() >= ERROR_BODY {
            break;
        }
    }
    body
}

/// The word of a problem+json body.
fn title(body: &[u8]) -> Option<String> {
    let problem: serde_json::Value = serde_json::from_slice(body).ok()?;
    problem.get("title")?.as_str().map(str::to_owned)
}

/// The sentence of a problem+json body.
fn detail(body: &[u8]) -> Option<String> {
    let problem: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = problem.get("detail").or_else(|| problem.get("title"))?.as_str()?;
    Some(text.chars().filter(|c| !c.is_control()).take(DETAIL).collect())
}

/// The word in `<Code>` of a store's answer. Nothing else of it is shown: S3 answers with the string it signed.
fn store_code(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let word = text.split_once("<Code>")?.1.split_once("</Code>")?.0;
    (word.len() <= 64 && word.chars().all(|c| c.is_ascii_alphanumeric())).then(|| word.to_owned())
}

/// From 0 to 1. Spread is all that is asked of it, so the seed of a hash map will do.
fn jitter() -> f64 {
    let drawn = u32::try_from(RandomState::new().build_hasher().finish() >> 32).expect("32 bits are left");
    f64::from(drawn) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_stores_answer_only_the_code_is_shown() {
        let body = b"<Error><Code>SignatureDoesNotMatch</Code><StringToSign>AWS4 secret</StringToSign></Error>";
        assert_eq!(store_code(body).as_deref(), Some("SignatureDoesNotMatch"));
        assert_eq!(store_code(b"<Error><Code>a b</Code></Error>"), None);
        assert_eq!(store_code(b"nothing of the kind"), None);
    }

    #[test]
    fn of_a_gateways_answer_the_sentence_is_shown() {
        let body = br#"{"type":"about:blank","title":"Conflict","status":409,"detail":"the run is\u001b over"}"#;
        assert_eq!(detail(body).as_deref(), Some("the run is over"));
        assert_eq!(detail(br#"{"title":"Conflict"}"#).as_deref(), Some("Conflict"));
        assert_eq!(detail(b"<html>"), None);
    }

    #[test]
    fn an_answer_that_is_not_understood_is_not_quoted() {
        let error = understood::<Vec<u32>>("sign", br#"["https://store/key?X-Amz-Signature=abc"]"#).unwrap_err();
        assert!(!error.to_string().contains("Signature"), "{error}");
    }
}
