//! The user's own credentials, for the gateway: whatever the kubeconfig holds (token, token file, exec plugin, OIDC,
//! client certificate) goes through the code of the Kubernetes client, so that there is one reading of it.

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tower::{BoxError, ServiceBuilder};

/// Credentials that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    /// The kubeconfig acts as somebody else.
    #[error("the kubeconfig acts as {0:?}; the gateway knows no impersonation: use that user's own credentials")]
    Impersonation(String),
    /// The Kubernetes client refuses them.
    #[error("cannot use the credentials of the kubeconfig: {0}")]
    Prepare(#[source] kube::Error),
    /// The exec plugin, token file or OIDC provider failed.
    #[error("cannot get a token: {0}")]
    Token(#[source] kube::Error),
    /// No PEM certificates.
    #[error("{place} holds no PEM certificates")]
    Certificates {
        /// Where they were looked for.
        place: String,
    },
}

/// Gives the `Authorization` header for each request; refreshed by the Kubernetes client's own rules.
#[derive(Clone)]
pub(crate) struct Credentials {
    signer: Client,
}

impl Credentials {
    pub(crate) fn new(config: &Config) -> Result<Self, CredentialsError> {
        if let Some(user) = &config.auth_info.impersonate {
            return Err(CredentialsError::Impersonation(user.clone()));
        }
        let layer = config.auth_layer().map_err(CredentialsError::Prepare)?;
        // A client with no network behind it: its only server hands back the header the layer has made.
        let service = ServiceBuilder::new().option_layer(layer).map_err(BoxError::from).service_fn(
            |request: Request<Body>| async move {
                let mut reply = Response::new(Body::empty());
                if let Some(header) = request.headers().get(AUTHORIZATION) {
                    reply.headers_mut().insert(AUTHORIZATION, header.clone());
                }
                Ok::<_, BoxError>(reply)
            },
        );
        Ok(Self { signer: Client::new(service, "default") })
    }

    /// The header, or none when the user is known by a certificate.
    pub(crate) async fn header(&self) -> Result<Option<HeaderValue>, CredentialsError> {
        let reply = self.signer.send(Request::new(Body::empty())).await.map_err(CredentialsError::Token)?;
        Ok(reply.headers().get(AUTHORIZATION).cloned())
    }
}

/// TLS towards the gateway: the user's client certificate, and only `roots` as signers of the gateway's.
pub(crate) fn tls(config: &Config, roots: Vec<Vec<u8>>) -> Result<rustls::ClientConfig, CredentialsError> {
    let mut own = config.clone();
    own.root_cert = Some(roots);
    // What the kubeconfig says about the API server's certificate must not loosen what is asked of the gateway's.
    own.root_cert_file = None;
    own.accept_invalid_certs = false;
    own.rustls_client_config().map_err(CredentialsError::Prepare)
}

/// The certificates of a PEM text, at least one.
pub(crate) fn certificates(pem: &[u8], place: &str) -> Result<Vec<Vec<u8>>, CredentialsError> {
    let none = || CredentialsError::Certificates { place: place.to_owned() };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).map(|c| c.map(|der| der.to_vec())).collect();
    found.ok().filter(|all| !all.is_empty()).ok_or_else(none)
}

/// The roots the web trusts.
pub(crate) fn public_roots() -> Vec<Vec<u8>> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|der| der.to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Credentials, CredentialsError, certificates};
    use kube::Config;

    fn config() -> Config {
        Config::new("https://127.0.0.1:1".parse().expect("a URI"))
    }

    #[tokio::test]
    async fn the_header_is_the_one_the_api_server_would_get() {
        let mut with_token = config();
        with_token.auth_info.token = Some("abc".to_owned().into());
        let header = Credentials::new(&with_token).expect("usable").header().await.expect("made");
        assert_eq!(header.expect("a header").to_str().expect("ascii"), "Bearer abc");
        let none = Credentials::new(&config()).expect("usable").header().await.expect("made");
        assert!(none.is_none(), "a user with a certificate only sends no header");
    }

    #[test]
    fn impersonation_is_refused_rather_than_ignored() {
        let mut acting = config();
        acting.auth_info.impersonate = Some("alice".to_owned());
        assert!(matches!(Credentials::new(&acting), Err(CredentialsError::Impersonation(user)) if user == "alice"));
    }

    #[test]
    fn a_text_without_certificates_names_its_place() {
        let error = certificates(b"nothing", "ca.pem").expect_err("no certificates");
        assert_eq!(error.to_string(), "ca.pem holds no PEM certificates");
    }
}
