//! From options to a client: addresses and certificates are checked here, where they can be named in a sentence.

use std::fmt;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

use super::super::error::StoreError;

/// A store in the same network answers a SYN at once; a dead address should be known soon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the request's first byte to the answer's: must leave time to send a part of 16 MiB on a slow link.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Of each call, the first included. Slower retries are the caller's, by [`StoreError::retry_class`].
const ATTEMPTS: u32 = 3;
/// Before the second attempt at most; doubled before the third.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Where an S3 store is and how to sign for it.
#[derive(Clone)]
pub struct S3Options {
    /// `http(s)://host[:port]` as seen from the cluster; absent: AWS in [`Self::region`].
    pub endpoint: Option<String>,
    /// The same store as people reach it; absent: the same endpoint.
    pub public_endpoint: Option<String>,
    /// Region of the bucket; other S3 servers take any word.
    pub region: String,
    /// The bucket; it must exist.
    pub bucket: String,
    /// `host/bucket/key` instead of `bucket.host/key`.
    pub path_style: bool,
    /// Access key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
    /// For temporary credentials.
    pub session_token: Option<String>,
    /// PEM certificates to trust beside the public roots.
    pub ca_bundle: Option<String>,
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            endpoint,
            public_endpoint,
            region,
            bucket,
            path_style,
            access_key_id: _,
            secret_access_key: _,
            session_token: _,
            ca_bundle,
        } = self;
        f.debug_struct("S3Options")
            .field("endpoint", endpoint)
            .field("public_endpoint", public_endpoint)
            .field("region", region)
            .field("bucket", bucket)
            .field("path_style", path_style)
            .field("ca_bundle", &ca_bundle.is_some())
            .finish_non_exhaustive()
    }
}

impl S3Options {
    /// Endpoint for messages.
    pub(super) fn shown_endpoint(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => format!("AWS S3 in {}", self.region),
        }
    }

    /// The client for our own calls and pods, and the one for people (the same without a public endpoint).
    pub(super) fn clients(&self) -> Result<(Client, Client), StoreError> {
        for endpoint in [&self.endpoint, &self.public_endpoint].into_iter().flatten() {
            check_endpoint(endpoint)?;
        }
        for (value, what) in [
            (&self.bucket, "bucket"),
            (&self.region, "region"),
            (&self.access_key_id, "access key id"),
            (&self.secret_access_key, "secret access key"),
        ] {
            if value.is_empty() || value.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(misconfigured(format!("the {what} is empty or contains white space")));
            }
        }
        let internal = self.configure()?;
        let public = match &self.public_endpoint {
            None => internal.clone(),
            Some(endpoint) => internal.to_builder().endpoint_url(endpoint).build(),
        };
        Ok((Client::from_conf(internal), Client::from_conf(public)))
    }

    fn configure(&self) -> Result<aws_sdk_s3::Config, StoreError> {
        let tls = TlsContext::builder()
            .with_trust_store(self.trust_store()?)
            .build()
            .map_err(|error| misconfigured(format!("the TLS settings cannot be used: {error}")))?;
        let http =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(tls);
        let credentials = Credentials::new(
            &self.access_key_id,
            &self.secret_access_key,
            self.session_token.clone(),
            None,
            "OutputStore",
        );
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(ANSWER_TIMEOUT).build();
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.region.clone()))
            .credentials_provider(credentials)
            .force_path_style(self.path_style)
            .http_client(http.build_https())
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS).with_initial_backoff(FIRST_PAUSE))
            // Other S3 servers know few of the newer checksums; we send SHA-256 ourselves wherever bytes go.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        config.set_endpoint_url(self.endpoint.clone());
        Ok(config.build())
    }

    /// The public roots come with the binary: an image without a CA store works, and every node trusts the same.
    fn trust_store(&self) -> Result<TrustStore, StoreError> {
        let mut store = TrustStore::empty();
        for root in TLS_SERVER_ROOT_CERTS {
            store.add_pem_certificate(to_pem(root));
        }
        if let Some(bundle) = &self.ca_bundle {
            for certificate in parse_bundle(bundle)? {
                store.add_pem_certificate(to_pem(&certificate));
            }
        }
        Ok(store)
    }
}

pub(super) fn misconfigured(detail: String) -> StoreError {
    StoreError::Misconfigured { detail }
}

/// The HTTP client would panic on a bad certificate, long after it was given.
fn parse_bundle(bundle: &str) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let mut roots = RootCertStore::empty();
    let mut certificates = Vec::new();
    for (number, found) in CertificateDer::pem_slice_iter(bundle.as_bytes()).enumerate() {
        let unusable = |why: String| misconfigured(format!("certificate {} of the CA bundle: {why}", number + 1));
        let certificate = found.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate.clone()).map_err(|error| unusable(error.to_string()))?;
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err(misconfigured("the CA bundle holds no PEM certificate".to_owned()));
    }
    Ok(certificates)
}

fn to_pem(certificate: &CertificateDer<'_>) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(certificate))
}

/// Endpoints are shown in messages, so they may hold nothing but an address.
fn check_endpoint(endpoint: &str) -> Result<(), StoreError> {
    let address = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    let plain = |address: &str| {
        let address = address.strip_suffix('/').unwrap_or(address);
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (address, None),
        };
        let host_ok = !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'[' | b']' | b':' | b'_'));
        host_ok && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
    };
    match address {
        Some(address) if plain(address) => Ok(()),
        _ => Err(misconfigured("the endpoint must be http(s)://host[:port], without user, path or query".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> S3Options {
        S3Options {
            endpoint: Some("http://127.0.0.1:1".into()),
            public_endpoint: None,
            region: "us-east-1".into(),
            bucket: "tasks".into(),
            path_style: true,
            access_key_id: "CANARY-ID".into(),
            secret_access_key: "CANARY-SECRET".into(),
            session_token: Some("CANARY-TOKEN".into()),
            ca_bundle: None,
        }
    }

    #[test]
    fn debug_shows_no_credential() {
        let shown = format!("{:?}", options());
        assert!(!shown.contains("CANARY"), "{shown}");
        assert!(shown.contains("http://127.0.0.1:1"), "{shown}");
    }

    #[test]
    fn endpoints_are_addresses_and_nothing_else() {
        for good in
            ["http://h", "https://s3.example.org", "http://10.0.0.1:8333/", "http://[::1]:9000", "http://[fd00::1]"]
        {
            assert!(check_endpoint(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "h:1",
            "ftp://h",
            "https://",
            "https://u:p@h",
            "http://h/x",
            "http://h?x=1",
            "http://h:0",
            "http://h:x",
        ] {
            let error = check_endpoint(bad).expect_err(bad);
            assert_eq!(error.reason(), "InvalidConfiguration");
            assert!(bad.len() < 5 || !error.to_string().contains(bad), "a refused endpoint may hold a password");
        }
    }

    #[test]
    fn a_broken_ca_bundle_is_named_instead_of_panicking() {
        let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (bundle, words) in [("", "no PEM certificate"), ("junk", "no PEM certificate"), (hollow, "certificate 1")] {
            let error = S3Options { ca_bundle: Some(bundle.into()), ..options() }.clients().expect_err(bundle);
            assert!(error.to_string().contains(words), "{error}");
        }
        let good = to_pem(&TLS_SERVER_ROOT_CERTS[0]);
        assert!(S3Options { ca_bundle: Some(good), ..options() }.clients().is_ok());
    }

    #[test]
    fn a_key_with_a_line_break_is_refused_before_it_is_sent() {
        let error = S3Options { secret_access_key: "CANARY\n".into(), ..options() }.clients().expect_err("newline");
        assert!(error.to_string().contains("secret access key"), "{error}");
        assert!(!error.to_string().contains("CANARY"), "{error}");
    }
}
