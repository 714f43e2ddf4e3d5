//! Google Cloud Storage: what names a bucket, and who we are there.

use std::fmt;
use std::sync::Arc;

use object_store::gcp::GoogleCloudStorageBuilder;

use super::super::connect::{check_endpoint, misconfigured};
use super::super::error::StoreError;
use super::{CloudStore, client_options, retries};

/// Where a bucket is and who we are there.
#[derive(Clone)]
pub struct GoogleOptions {
    /// The bucket; it must exist.
    pub bucket: String,
    /// `http(s)://host[:port]`; absent: Google's own.
    pub endpoint: Option<String>,
    /// JSON key of a service account; absent: the identity of the pod or its node.
    pub service_account_key: Option<String>,
    /// PEM certificates to trust beside the public roots.
    pub ca_bundle: Option<String>,
}

impl fmt::Debug for GoogleOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, endpoint, service_account_key, ca_bundle } = self;
        f.debug_struct("GoogleOptions")
            .field("bucket", bucket)
            .field("endpoint", endpoint)
            .field("service_account_key", &service_account_key.is_some())
            .field("ca_bundle", &ca_bundle.is_some())
            .finish()
    }
}

impl CloudStore {
    /// Checks the options; does not ask the service yet.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] says which option.
    pub fn google(options: &GoogleOptions) -> Result<Self, StoreError> {
        let GoogleOptions { bucket, endpoint, service_account_key, ca_bundle } = options;
        if let Some(endpoint) = endpoint {
            check_endpoint(endpoint)?;
        }
        let client = client_options(ca_bundle.as_deref(), endpoint.as_deref())?;
        let mut builder =
            GoogleCloudStorageBuilder::new().with_bucket_name(bucket).with_retry(retries()).with_client_options(client);
        if let Some(endpoint) = endpoint {
            builder = builder.with_base_url(endpoint.trim_end_matches('/'));
        }
        if let Some(key) = service_account_key {
            builder = builder.with_service_account_key(key);
        }
        // The crate's own words may repeat a part of the key.
        let service = builder
            .build()
            .map_err(|_| misconfigured("serviceAccountKey is not the JSON key of a service account".to_owned()))?;
        let endpoint = endpoint.clone().unwrap_or_else(|| "Google Cloud Storage".to_owned());
        Ok(Self { service: Arc::new(service), location: format!("bucket {bucket} at {endpoint}"), endpoint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_none_is_refused_without_being_repeated() {
        let options = |key: &str| GoogleOptions {
            bucket: "outputs".to_owned(),
            endpoint: None,
            service_account_key: Some(key.to_owned()),
            ca_bundle: None,
        };
        for key in ["CANARY", r#"{"private_key": "CANARY"}"#] {
            let error = CloudStore::google(&options(key)).expect_err("no key");
            assert_eq!(error.reason(), "InvalidConfiguration");
            assert!(
                error.to_string().contains("serviceAccountKey") && !error.to_string().contains("CANARY"),
                "{error}"
            );
            assert!(!format!("{:?}", options(key)).contains("CANARY"));
        }
    }
}
