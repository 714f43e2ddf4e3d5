//! From an OutputStore and its Secret to the options of a backend.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use super::stores::OpenStoreError;
use asynctask_api::store::{AzureSpec, EncryptionMode, GcsSpec, OutputStoreSpec, S3Spec, Transfer};
use asynctask_storage::cloud::{AzureCredential, AzureOptions, GoogleOptions};
use asynctask_storage::s3::{Encryption, Keys, S3Options};

/// Region when the store names none.
const DEFAULT_REGION: &str = "us-east-1";

/// The Secret of a store.
pub(super) struct Credentials<'a> {
    pub(super) secret: &'a Secret,
    pub(super) namespace: &'a str,
}

impl Credentials<'_> {
    fn optional(&self, key: &'static str) -> Result<Option<String>, OpenStoreError> {
        let Some(bytes) = self.secret.data.as_ref().and_then(|data| data.get(key)) else { return Ok(None) };
        // A line break at the end is how editors leave files; no credential has one.
        let text = std::str::from_utf8(&bytes.0).map(|text| text.trim_end_matches(['\r', '\n']));
        match text {
            Ok(text) if !text.is_empty() => Ok(Some(text.to_owned())),
            _ => Err(self.missing(key)),
        }
    }

    fn required(&self, key: &'static str) -> Result<String, OpenStoreError> {
        self.optional(key)?.ok_or_else(|| self.missing(key))
    }

    fn missing(&self, key: &'static str) -> OpenStoreError {
        OpenStoreError::KeyMissing { secret: self.secret.name_any(), namespace: self.namespace.to_owned(), key }
    }
}

pub(super) fn s3_options(
    store: &OutputStoreSpec,
    spec: &S3Spec,
    credentials: Option<&Credentials<'_>>,
) -> Result<S3Options, OpenStoreError> {
    Ok(S3Options {
        endpoint: spec.endpoint.clone(),
        public_endpoint: store.signed_urls.as_ref().and_then(|urls| urls.public_endpoint.clone()),
        region: spec.region.clone().unwrap_or_else(|| DEFAULT_REGION.to_owned()),
        bucket: spec.bucket.clone(),
        path_style: spec.path_style,
        keys: credentials.map(keys).transpose()?,
        ca_bundle: spec.ca_bundle.clone(),
        encryption: spec.encryption.as_ref().map(|encryption| match encryption.mode {
            EncryptionMode::S3 => Encryption::Managed,
            EncryptionMode::Kms => Encryption::Kms(encryption.kms_key_id.clone()),
        }),
        signs: store.transfer != Some(Transfer::Proxied),
    })
}

fn keys(credentials: &Credentials<'_>) -> Result<Keys, OpenStoreError> {
    Ok(Keys {
        access_key_id: credentials.required("accessKeyId")?,
        secret_access_key: credentials.required("secretAccessKey")?,
        session_token: credentials.optional("sessionToken")?,
    })
}

pub(super) fn google_options(
    spec: &GcsSpec,
    credentials: Option<&Credentials<'_>>,
) -> Result<GoogleOptions, OpenStoreError> {
    Ok(GoogleOptions {
        bucket: spec.bucket.clone(),
        endpoint: spec.endpoint.clone(),
        service_account_key: credentials.map(|credentials| credentials.required("serviceAccountKey")).transpose()?,
        ca_bundle: spec.ca_bundle.clone(),
    })
}

pub(super) fn azure_options(
    spec: &AzureSpec,
    credentials: Option<&Credentials<'_>>,
) -> Result<AzureOptions, OpenStoreError> {
    let credential = |credentials: &Credentials<'_>| {
        Ok::<_, OpenStoreError>(match credentials.optional("sasToken")? {
            Some(token) => AzureCredential::SasToken(token),
            None => AzureCredential::AccountKey(credentials.required("accountKey")?),
        })
    };
    Ok(AzureOptions {
        account: spec.account.clone(),
        container: spec.container.clone(),
        endpoint: spec.endpoint.clone(),
        credential: credentials.map(credential).transpose()?,
        ca_bundle: spec.ca_bundle.clone(),
    })
}
