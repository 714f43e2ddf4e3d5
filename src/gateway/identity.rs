//! Who is calling.
//!
//! People: a bearer token that the API server knows (TokenReview), or a client certificate that the cluster's client
//! CA has signed (checked in the TLS handshake); or whom a trusted proxy names. Agents: the token of their own pod, made for our audience alone; a
//! token of the one kind is no credential in the other's routes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum_server::tls::TlsInfo;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;

use super::Shared;
use super::audit::Trail;
use super::cache::Cache;
use super::problem::Refusal;
use super::proxy::behind;
use asynctask_contract::env::TOKEN_AUDIENCE;
use asynctask_storage::digest::Digest;

/// How long the API server's word about a token is believed. A token revoked meanwhile gets no further than that, and
/// the pod behind an agent's token is read besides.
const BELIEVED: Duration = Duration::from_secs(60);
const REMEMBERED: usize = 10_000;
/// How many tokens are reviewed at the same time; others wait. Whoever sends tokens of nobody makes the API server no
/// busier than this.
const AT_ONCE: usize = 16;
/// How many wait for their turn; more are told to come again.
const WAITING: usize = 256;

const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";
pub(super) const AUTHENTICATED: &str = "system:authenticated";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// A user, as the API server names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) user: String,
    pub(crate) uid: Option<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

/// A pod, as its token names it. Says nothing yet about what the pod is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodIdentity {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Reviews tokens and remembers the good ones, by their digest.
pub(crate) struct Identities {
    client: Client,
    people: Cache<Digest, Arc<Person>>,
    pods: Cache<Digest, Arc<PodIdentity>>,
    reviews: Semaphore,
    waiting: Semaphore,
}

impl Identities {
    pub(crate) fn new(client: Client) -> Self {
        let (people, pods) = (Cache::new(BELIEVED, REMEMBERED), Cache::new(BELIEVED, REMEMBERED));
        Self { client, people, pods, reviews: Semaphore::new(AT_ONCE), waiting: Semaphore::new(AT_ONCE + WAITING) }
    }

    async fn person(&self, token: &str) -> Result<Arc<Person>, Refusal> {
        let key = Digest::of(token.as_bytes());
        if let Some(person) = self.people.get(&key) {
            return Ok(person);
        }
        let status = self.review(token, None).await?;
        let person = Arc::new(reviewed_person(status).ok_or(Refusal::Unauthenticated)?);
        self.people.put(key, Arc::clone(&person));
        Ok(person)
    }

    async fn pod(&self, token: &str) -> Result<Arc<PodIdentity>, Refusal> {
        let key = Digest::of(token.as_bytes());
        if let Some(pod) = self.pods.get(&key) {
            return Ok(pod);
        }
        let status = self.review(token, Some(TOKEN_AUDIENCE)).await?;
        let pod = Arc::new(reviewed_pod(status).ok_or(Refusal::Unauthenticated)?);
        self.pods.put(key, Arc::clone(&pod));
        Ok(pod)
    }

    async fn review(&self, token: &str, audience: Option<&str>) -> Result<TokenReviewStatus, Refusal> {
        let spec = TokenReviewSpec {
            token: Some(token.to_owned()),
            audiences: audience.map(|audience| vec![audience.to_owned()]),
        };
        let Ok(_place) = self.waiting.try_acquire() else { return Err(Refusal::Crowded) };
        let _turn = self.reviews.acquire().await.expect("invariant: never closed");
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviewed = Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await;
        let reviewed = reviewed.map_err(|source| Refusal::Kube { act: "have a token reviewed", source })?;
        Ok(reviewed.status.unwrap_or_default())
    }
}

fn authenticated(status: TokenReviewStatus) -> Option<(UserInfo, Vec<String>)> {
    if status.authenticated != Some(true) {
        return None;
    }
    Some((status.user?, status.audiences.unwrap_or_default()))
}

fn reviewed_person(status: TokenReviewStatus) -> Option<Person> {
    let (user, _) = authenticated(status)?;
    let person = Person {
        user: user.username?,
        uid: user.uid.filter(|uid| !uid.is_empty()),
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
    };
    named(person)
}

/// Nobody in particular is nobody.
fn named(person: Person) -> Option<Person> {
    let anonymous = person.user.is_empty() || person.user == ANONYMOUS;
    (!anonymous && !person.groups.iter().any(|group| group == UNAUTHENTICATED)).then_some(person)
}

fn reviewed_pod(status: TokenReviewStatus) -> Option<PodIdentity> {
    let (user, audiences) = authenticated(status)?;
    // An authenticator that knows no audiences answers with none: its word is not about this audience.
    if !audiences.iter().any(|audience| audience == TOKEN_AUDIENCE) {
        return None;
    }
    let username = user.username?;
    let (namespace, _) = username.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let extra = user.extra.unwrap_or_default();
    let one = |key: &str| match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    Some(PodIdentity { namespace: namespace.to_owned(), name: one(POD_NAME)?, uid: one(POD_UID)? })
}

/// The user a verified client certificate names, as the API server reads it: CN is the user, each O a group.
fn certified_person(der: &[u8]) -> Option<Person> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|value| value.as_str().ok()).map(str::to_owned).collect();
    groups.push(AUTHENTICATED.to_owned());
    named(Person { user, groups, ..Person::default() })
}

/// The bearer token of a request. `None`: no such header. Any other scheme, or an empty token, is no credential.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let (scheme, token) =
        value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(Refusal::Unauthenticated)?;
    let token = token.trim();
    if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() {
        Ok(Some(token))
    } else {
        Err(Refusal::Unauthenticated)
    }
}

fn trail(parts: &Parts) -> Trail {
    parts.extensions.get::<Trail>().cloned().unwrap_or_default()
}

/// A person who calls. As a handler's first argument it is settled before anything else of the request is looked at.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) person: Arc<Person>,
    pub(crate) trail: Trail,
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, gateway: &Shared) -> Result<Self, Refusal> {
        let trail = trail(parts);
        let person = if let Some(token) = bearer(&parts.headers)? {
            gateway.identities.person(token).await?
        } else {
            let tls = parts.extensions.get::<Arc<TlsInfo>>();
            let certificate = tls.and_then(|tls| tls.peer_certificates.first());
            Arc::new(certificate.and_then(|der| certified_person(der)).ok_or(Refusal::Unauthenticated)?)
        };
        let person = behind(gateway.proxy.as_ref(), person, &parts.headers)?;
        trail.who(&person.user);
        if let Some(pace) = &gateway.pace {
            pace.pass(&person.user)?;
        }
        Ok(Self { person, trail })
    }
}

/// A pod that calls.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) pod: Arc<PodIdentity>,
    pub(crate) trail: Trail,
}

impl FromRequestParts<Shared> for Agent {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, gateway: &Shared) -> Result<Self, Refusal> {
        let trail = trail(parts);
        let token = bearer(&parts.headers)?.ok_or(Refusal::Unauthenticated)?;
        let pod = gateway.identities.pod(token).await?;
        trail.who(format!("pod/{}/{}", pod.namespace, pod.name));
        Ok(Self { pod, trail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(username: &str, audiences: &[&str]) -> TokenReviewStatus {
        let extra = [(POD_NAME, "p"), (POD_UID, "u-1")];
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(audiences.iter().map(ToString::to_string).collect()),
            user: Some(UserInfo {
                username: Some(username.to_owned()),
                extra: Some(extra.iter().map(|(k, v)| ((*k).to_owned(), vec![(*v).to_owned()])).collect()),
                ..UserInfo::default()
            }),
            ..TokenReviewStatus::default()
        }
    }

    #[test]
    fn a_pods_token_is_good_for_our_audience_only() {
        let name = "system:serviceaccount:studio:default";
        let pod = reviewed_pod(status(name, &[TOKEN_AUDIENCE])).expect("ours");
        assert_eq!(pod, PodIdentity { namespace: "studio".into(), name: "p".into(), uid: "u-1".into() });
        assert_eq!(reviewed_pod(status(name, &[])), None, "an authenticator that knows no audiences");
        assert_eq!(reviewed_pod(status(name, &["https://kubernetes.default.svc"])), None);
        assert_eq!(reviewed_pod(status("alice", &[TOKEN_AUDIENCE])), None, "not a service account");
    }

    #[test]
    fn a_token_bound_to_no_pod_is_no_agents_token() {
        let mut unbound = status("system:serviceaccount:studio:default", &[TOKEN_AUDIENCE]);
        unbound.user.as_mut().expect("set above").extra = None;
        assert_eq!(reviewed_pod(unbound), None);
    }

    #[test]
    fn an_unauthenticated_review_is_nobody_whatever_it_says_about_a_user() {
        let mut refused = status("alice", &[]);
        refused.authenticated = Some(false);
        assert_eq!(reviewed_person(refused), None);
        assert_eq!(reviewed_person(status(ANONYMOUS, &[])), None);
        assert_eq!(reviewed_person(status("", &[])), None);
        assert!(reviewed_person(status("alice", &[])).is_some());
    }

    #[test]
    fn only_a_bearer_header_is_read() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().expect("a header value"));
            headers
        };
        assert!(matches!(bearer(&HeaderMap::new()), Ok(None)));
        assert!(matches!(bearer(&with("Bearer abc")), Ok(Some("abc"))));
        assert!(matches!(bearer(&with("bearer abc")), Ok(Some("abc"))));
        for bad in ["Bearer", "Bearer ", "Basic abc", "abc", ""] {
            assert!(matches!(bearer(&with(bad)), Err(Refusal::Unauthenticated)), "{bad:?}");
        }
    }

    #[test]
    fn a_certificate_names_user_and_groups_as_the_api_server_reads_it() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = |build: &dyn Fn(&mut rcgen::DistinguishedName)| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            build(&mut params.distinguished_name);
            params.self_signed(&key).expect("signed").der().to_vec()
        };
        let alice = certificate(&|name| {
            name.push(rcgen::DnType::CommonName, "alice");
            name.push(rcgen::DnType::OrganizationName, "team-a");
        });
        let person = certified_person(&alice).expect("named");
        assert_eq!(person.user, "alice");
        assert_eq!(person.groups, ["team-a", AUTHENTICATED]);
        let nobody = certificate(&|name| name.push(rcgen::DnType::OrganizationName, "team-a"));
        assert_eq!(certified_person(&nobody), None);
        let anonymous = certificate(&|name| name.push(rcgen::DnType::CommonName, ANONYMOUS));
        assert_eq!(certified_person(&anonymous), None);
    }
}
