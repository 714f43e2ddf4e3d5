//! The gateway's certificate, watched and taken up without a restart, and the authority that signs people's client
//! certificates.

use std::pin::pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use x509_parser::extensions::GeneralName;

use asynctask_runtime::client::watch_config;
use asynctask_runtime::health::Readiness;

/// Secret with the certificate, in our own namespace; the operator keeps it, or somebody like cert-manager.
const SECRET: &str = "asynctask-gateway-tls";
/// Where the API server says who signs client certificates of this cluster's users.
const AUTHENTICATION: (&str, &str, &str) = ("kube-system", "extension-apiserver-authentication", "client-ca-file");
/// What readiness calls it.
const NEED: &str = "certificate";

/// A certificate that cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A key of the Secret is missing.
    #[error("Secret {SECRET} has no key {0}: it must be of type kubernetes.io/tls")]
    Key(&'static str),
    /// Not PEM, or none of what is needed in it.
    #[error("{0} of Secret {SECRET} holds no usable PEM")]
    Pem(&'static str),
    /// Agents would not know it.
    #[error("the certificate in Secret {SECRET} is not for {0}, the name agents call: add it to its DNS names")]
    Name(String),
    /// Certificate and key do not belong together, or are of a kind we cannot use.
    #[error("certificate and key in Secret {SECRET} cannot be used: {0}")]
    Unusable(#[source] rustls::Error),
    /// The authority of client certificates cannot be used.
    #[error("the cluster's client CA cannot be used: {0}")]
    ClientCa(String),
}

/// Keeps the TLS configuration up to date.
pub(crate) struct Keeper {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    /// DNS name under which agents reach the gateway.
    pub(crate) name: String,
    pub(crate) readiness: Readiness,
    /// `None` until there is a certificate.
    pub(crate) configured: watch::Sender<Option<Arc<ServerConfig>>>,
}

impl Keeper {
    /// Says what is waited for; to be called before anybody asks.
    pub(crate) fn announce(&self) {
        let why = format!("Secret {SECRET} in namespace {} is not there yet; the operator makes it", self.namespace);
        self.readiness.missing(NEED, why);
    }

    /// Watches until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let (namespace, name, _) = AUTHENTICATION;
        let config_maps = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let mut secrets = pin!(named(secrets, SECRET));
        let mut config_maps = pin!(named(config_maps, name));
        let (mut secret, mut client_ca) = (None, None);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(changed) = secrets.next() => match changed {
                    // Once served, a certificate is served on: a deleted Secret comes back, connections should not go.
                    Ok(Some(changed)) => secret = Some(changed),
                    Ok(None) => {}
                    Err(error) => { self.unreadable(&error); continue }
                },
                Some(changed) = config_maps.next() => match changed {
                    Ok(map) => client_ca = map.and_then(|map| map.data?.get(AUTHENTICATION.2).cloned()),
                    Err(error) => {
                        tracing::warn!(%error, "ConfigMap {name} in {namespace} cannot be read: client certificates are not taken");
                        continue;
                    }
                },
            }
            if let Some(secret) = &secret {
                self.take_up(secret, client_ca.as_deref());
            }
        }
    }

    fn unreadable(&self, error: &watcher::Error) {
        tracing::warn!(%error, "Secret {SECRET} cannot be read");
        if self.configured.borrow().is_none() {
            self.readiness
                .missing(NEED, format!("Secret {SECRET} in namespace {} cannot be read: {error}", self.namespace));
        }
    }

    fn take_up(&self, secret: &Secret, client_ca: Option<&str>) {
        match configuration(secret, client_ca, &self.name) {
            Ok((configuration, expires)) => {
                tracing::info!(%expires, client_certificates = client_ca.is_some(), "certificate taken up");
                self.readiness.met(NEED, format!("good until {expires}"));
                self.configured.send_replace(Some(Arc::new(configuration)));
            }
            Err(error) if self.configured.borrow().is_some() => {
                tracing::error!(%error, "the new certificate is refused, the old one is served on");
            }
            Err(error) => {
                tracing::error!(%error, "no certificate to serve");
                self.readiness.missing(NEED, error.to_string());
            }
        }
    }
}

/// One object by name: each state it is seen in, and `None` when it is not there.
fn named<K>(api: Api<K>, name: &str) -> impl Stream<Item = Result<Option<K>, watcher::Error>> + Send + use<K>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let config = watch_config().fields(&format!("metadata.name={name}"));
    watch_objects(api, config).default_backoff().filter_map(|event| {
        std::future::ready(match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => Some(Ok(Some(object))),
            Ok(Event::Delete(_)) => Some(Ok(None)),
            Ok(Event::Init | Event::InitDone) => None,
            Err(error) => Some(Err(error)),
        })
    })
}

/// What is served, and when the certificate ends.
pub(crate) fn configuration(
    secret: &Secret,
    client_ca: Option<&str>,
    name: &str,
) -> Result<(ServerConfig, String), TlsError> {
    let data = |key: &'static str| {
        let data = secret.data.as_ref().and_then(|data| data.get(key));
        data.map(|bytes| bytes.0.as_slice()).ok_or(TlsError::Key(key))
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(data("tls.crt")?)
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::Pem("tls.crt"))?;
    let key = PrivateKeyDer::from_pem_slice(data("tls.key")?).map_err(|_| TlsError::Pem("tls.key"))?;
    let expires = checked(chain.first().ok_or(TlsError::Pem("tls.crt"))?, name)?;
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?;
    let builder = match client_ca {
        Some(pem) => builder.with_client_cert_verifier(verifier(pem)?),
        None => builder.with_no_client_auth(),
    };
    let mut configuration = builder.with_single_cert(chain, key).map_err(TlsError::Unusable)?;
    configuration.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((configuration, expires))
}

/// The certificate's end, if it is for `name`.
fn checked(der: &[u8], name: &str) -> Result<String, TlsError> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|_| TlsError::Pem("tls.crt"))?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let is_for = |known: &GeneralName<'_>| {
        let GeneralName::DNSName(known) = known else { return false };
        let wildcard = known
            .strip_prefix('*')
            .is_some_and(|rest| name.split_once('.').is_some_and(|(_, tail)| rest[1..] == *tail));
        known.eq_ignore_ascii_case(name) || (known.starts_with("*.") && wildcard)
    };
    if !names.is_some_and(|names| names.value.general_names.iter().any(is_for)) {
        return Err(TlsError::Name(name.to_owned()));
    }
    Ok(certificate.validity().not_after.to_string())
}

/// A client certificate is welcome, not required; one that this authority has not signed ends the handshake.
fn verifier(pem: &str) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| TlsError::ClientCa(error.to_string()))?;
        roots.add(certificate).map_err(|error| TlsError::ClientCa(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::ClientCa(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    const NAME: &str = "asynctask-gateway.asynctask-system.svc";

    fn secret(names: &[&str]) -> Secret {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let data = [("tls.crt", made.cert.pem()), ("tls.key", made.signing_key.serialize_pem())];
        let data = data.into_iter().map(|(key, pem)| (key.to_owned(), ByteString(pem.into_bytes()))).collect();
        Secret { data: Some(data), ..Secret::default() }
    }

    fn ca() -> String {
        rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).expect("a certificate").cert.pem()
    }

    #[test]
    fn a_certificate_for_the_name_agents_call_is_served() {
        for name in [NAME, "*.asynctask-system.svc"] {
            configuration(&secret(&[name]), None, NAME).expect("usable");
            configuration(&secret(&[name]), Some(&ca()), NAME).expect("usable with client certificates");
        }
    }

    #[test]
    fn a_certificate_for_another_name_is_refused_before_agents_meet_it() {
        for name in ["localhost", "gateway.example.org", "*.svc", "*asynctask-system.svc"] {
            let refused = configuration(&secret(&[name]), None, NAME).map(|(_, expires)| expires);
            assert!(matches!(refused, Err(TlsError::Name(_))), "{name}: {refused:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let empty = Secret::default();
        assert!(matches!(configuration(&empty, None, NAME).map(|_| ()), Err(TlsError::Key("tls.crt"))));
        let mut mixed = secret(&[NAME]);
        let other = secret(&[NAME]).data.expect("set")["tls.key"].clone();
        mixed.data.as_mut().expect("set").insert("tls.key".to_owned(), other);
        assert!(matches!(configuration(&mixed, None, NAME).map(|_| ()), Err(TlsError::Unusable(_))));
        mixed.data.as_mut().expect("set").insert("tls.key".to_owned(), ByteString(b"none".to_vec()));
        assert!(matches!(configuration(&mixed, None, NAME).map(|_| ()), Err(TlsError::Pem("tls.key"))));
        assert!(matches!(configuration(&secret(&[NAME]), Some("none"), NAME).map(|_| ()), Err(TlsError::ClientCa(_))));
    }
}
