//! From options to a client: addresses and certificates are checked here, where they can be named in a sentence.

use std::fmt;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::types::ServerSideEncryption;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};

use super::super::connect::{
    ANSWER_TIMEOUT, ATTEMPTS, CONNECT_TIMEOUT, FIRST_PAUSE, check_endpoint, misconfigured, trusted,
};
use super::super::error::StoreError;
use super::identity::PodIdentity;

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
    /// Who we are; absent: whom the pod is taken for, see [`super::identity`].
    pub keys: Option<Keys>,
    /// PEM certificates to trust beside the public roots.
    pub ca_bundle: Option<String>,
    /// What the service encrypts objects with; absent: as the bucket says.
    pub encryption: Option<Encryption>,
    /// Whether others may be let in by signed requests; otherwise the gateway passes the bytes on.
    pub signs: bool,
}

/// An access key and its secret.
#[derive(Clone)]
pub struct Keys {
    /// Access key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
    /// For temporary credentials.
    pub session_token: Option<String>,
}

impl Keys {
    /// Keys that are not temporary.
    #[must_use]
    pub fn new(access_key_id: impl Into<String>, secret_access_key: impl Into<String>) -> Self {
        let (access_key_id, secret_access_key) = (access_key_id.into(), secret_access_key.into());
        Self { access_key_id, secret_access_key, session_token: None }
    }

    /// All that nobody is to read.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        let token = self.session_token.as_deref().unwrap_or_default();
        [&*self.access_key_id, &*self.secret_access_key, token].into_iter().filter(|secret| !secret.is_empty())
    }

    fn check(&self) -> Result<(), StoreError> {
        check("access key id", &self.access_key_id)?;
        check("secret access key", &self.secret_access_key)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

fn check(what: &str, value: &str) -> Result<(), StoreError> {
    if value.is_empty() || value.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(misconfigured(format!("the {what} is empty or contains white space")));
    }
    Ok(())
}

/// Encryption by the service, asked for with each object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// SSE-S3: with keys of the service.
    Managed,
    /// SSE-KMS: with this key of its key management; absent: the account's default key.
    Kms(Option<String>),
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, public_endpoint, region, bucket, path_style, keys, ca_bundle, encryption, signs } = self;
        f.debug_struct("S3Options")
            .field("endpoint", endpoint)
            .field("public_endpoint", public_endpoint)
            .field("region", region)
            .field("bucket", bucket)
            .field("path_style", path_style)
            .field("keys", keys)
            .field("ca_bundle", &ca_bundle.is_some())
            .field("encryption", encryption)
            .field("signs", signs)
            .finish()
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

    /// The header that asks for encryption.
    pub(super) fn sse(&self) -> Option<ServerSideEncryption> {
        self.encryption.as_ref().map(|encryption| match encryption {
            Encryption::Managed => ServerSideEncryption::Aes256,
            Encryption::Kms(_) => ServerSideEncryption::AwsKms,
        })
    }

    /// The header that names the key.
    pub(super) fn kms_key(&self) -> Option<String> {
        match &self.encryption {
            Some(Encryption::Kms(key)) => key.clone(),
            _ => None,
        }
    }

    /// The client for our own calls and pods, and the one for people (the same without a public endpoint).
    pub(super) fn clients(&self) -> Result<(Client, Client), StoreError> {
        for endpoint in [&self.endpoint, &self.public_endpoint].into_iter().flatten() {
            check_endpoint(endpoint)?;
        }
        check("bucket", &self.bucket)?;
        check("region", &self.region)?;
        self.keys.as_ref().map_or(Ok(()), Keys::check)?;
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
        let (http, region) = (http.build_https(), Region::new(self.region.clone()));
        let credentials = match &self.keys {
            Some(Keys { access_key_id, secret_access_key, session_token }) => {
                let token = session_token.clone();
                let keys = Credentials::new(access_key_id, secret_access_key, token, None, "OutputStore");
                SharedCredentialsProvider::new(keys)
            }
            None => SharedCredentialsProvider::new(PodIdentity::new(http.clone(), region.clone())),
        };
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(ANSWER_TIMEOUT).build();
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region)
            .credentials_provider(credentials)
            .force_path_style(self.path_style)
            .http_client(http)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS).with_initial_backoff(FIRST_PAUSE))
            // Other S3 servers know few of the newer checksums; we send SHA-256 ourselves wherever bytes go.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        config.set_endpoint_url(self.endpoint.clone());
        Ok(config.build())
    }

    fn trust_store(&self) -> Result<TrustStore, StoreError> {
        let mut store = TrustStore::empty();
        for certificate in trusted(self.ca_bundle.as_deref())? {
            store.add_pem_certificate(certificate);
        }
        Ok(store)
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
            keys: Some(Keys { session_token: Some("CANARY-TOKEN".into()), ..Keys::new("CANARY-ID", "CANARY-SECRET") }),
            ca_bundle: None,
            encryption: None,
            signs: true,
        }
    }

    #[test]
    fn debug_shows_no_credential() {
        let shown = format!("{:?}", options());
        assert!(!shown.contains("CANARY"), "{shown}");
        assert!(shown.contains("http://127.0.0.1:1"), "{shown}");
    }

    #[test]
    fn a_broken_ca_bundle_is_named_instead_of_panicking() {
        let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (bundle, words) in [("", "no PEM certificate"), ("junk", "no PEM certificate"), (hollow, "certificate 1")] {
            let error = S3Options { ca_bundle: Some(bundle.into()), ..options() }.clients().expect_err(bundle);
            assert!(error.to_string().contains(words), "{error}");
        }
        let good = trusted(None).expect("the public roots").swap_remove(0);
        assert!(S3Options { ca_bundle: Some(good), ..options() }.clients().is_ok());
    }

    #[test]
    fn a_key_with_a_line_break_is_refused_before_it_is_sent() {
        let error =
            S3Options { keys: Some(Keys::new("CANARY-ID", "CANARY\n")), ..options() }.clients().expect_err("newline");
        assert!(error.to_string().contains("secret access key"), "{error}");
        assert!(!error.to_string().contains("CANARY"), "{error}");
    }
}
