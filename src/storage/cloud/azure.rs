//! Azure Blob Storage: what names a container, and who we are there.

use std::fmt;
use std::sync::Arc;

use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

use super::super::connect::{check_endpoint, misconfigured};
use super::super::error::StoreError;
use super::{CloudStore, client_options, retries};

/// Where a container is and who we are there.
#[derive(Clone)]
pub struct AzureOptions {
    /// The storage account.
    pub account: String,
    /// The container; it must exist.
    pub container: String,
    /// `http(s)://host[:port][/path]`; absent: Azure's own for the account.
    pub endpoint: Option<String>,
    /// Who we are; absent: the identity of the pod or its node.
    pub credential: Option<AzureCredential>,
    /// PEM certificates to trust beside the public roots.
    pub ca_bundle: Option<String>,
}

/// What lets us in.
#[derive(Clone)]
pub enum AzureCredential {
    /// A key of the account, in base64.
    AccountKey(String),
    /// A shared access signature for the container: `sv=…&sig=…`.
    SasToken(String),
}

impl fmt::Debug for AzureCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AccountKey(_) => "AccountKey",
            Self::SasToken(_) => "SasToken",
        })
    }
}

impl fmt::Debug for AzureOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, container, endpoint, credential, ca_bundle } = self;
        f.debug_struct("AzureOptions")
            .field("account", account)
            .field("container", container)
            .field("endpoint", endpoint)
            .field("credential", credential)
            .field("ca_bundle", &ca_bundle.is_some())
            .finish()
    }
}

/// Azure's webhook for workload identity puts these into the pod's environment.
const WORKLOAD_IDENTITY: [(&str, AzureConfigKey); 4] = [
    ("AZURE_CLIENT_ID", AzureConfigKey::ClientId),
    ("AZURE_TENANT_ID", AzureConfigKey::AuthorityId),
    ("AZURE_FEDERATED_TOKEN_FILE", AzureConfigKey::FederatedTokenFile),
    ("AZURE_AUTHORITY_HOST", AzureConfigKey::AuthorityHost),
];

impl CloudStore {
    /// Checks the options; does not ask the service yet.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] says which option.
    pub fn azure(options: &AzureOptions) -> Result<Self, StoreError> {
        let AzureOptions { account, container, endpoint, credential, ca_bundle } = options;
        if let Some(endpoint) = endpoint {
            check_endpoint(without_path(endpoint))?;
        }
        let client = client_options(ca_bundle.as_deref(), endpoint.as_deref())?;
        let mut builder = MicrosoftAzureBuilder::new()
            .with_account(account)
            .with_container_name(container)
            .with_retry(retries())
            .with_client_options(client);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        let builder = match credential {
            Some(AzureCredential::AccountKey(key)) => builder.with_access_key(key),
            Some(AzureCredential::SasToken(token)) => {
                builder.with_config(AzureConfigKey::SasKey, token.trim_start_matches('?'))
            }
            None => WORKLOAD_IDENTITY.into_iter().fold(builder, |builder, (name, key)| match std::env::var(name) {
                Ok(value) => builder.with_config(key, value),
                Err(_) => builder,
            }),
        };
        // The crate's own words may repeat a part of the secret.
        let wrong = match credential {
            Some(AzureCredential::AccountKey(_)) => "accountKey is not a key in base64: copy it again from the account",
            Some(AzureCredential::SasToken(_)) => {
                "sasToken is not a query string of the form sv=…&sig=…: copy it again"
            }
            None => "no identity of the pods can be used: name a credentialsSecret, or set up workload identity",
        };
        let service = builder.build().map_err(|_| misconfigured(wrong.to_owned()))?;
        let endpoint = endpoint.clone().unwrap_or_else(|| format!("Azure Blob Storage of {account}"));
        Ok(Self { service: Arc::new(service), location: format!("container {container} at {endpoint}"), endpoint })
    }
}

/// The emulator and Azure Stack have the account as one part of a path; the rest is an address and nothing else.
fn without_path(endpoint: &str) -> &str {
    let address = endpoint.split_once("://").map_or("", |(_, address)| address);
    match address.split_once('/') {
        Some((_, path)) if path.bytes().all(|b| b.is_ascii_alphanumeric()) => &endpoint[..endpoint.len() - path.len()],
        _ => endpoint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> AzureOptions {
        AzureOptions {
            account: "courses".to_owned(),
            container: "outputs".to_owned(),
            endpoint: None,
            credential: Some(AzureCredential::AccountKey("CANARY!".to_owned())),
            ca_bundle: None,
        }
    }

    #[test]
    fn an_endpoint_is_an_address_and_the_account_and_nothing_else() {
        let at = |endpoint: &str| {
            let credential = Some(AzureCredential::AccountKey("Q0FOQVJZ".to_owned()));
            CloudStore::azure(&AzureOptions { endpoint: Some(endpoint.to_owned()), credential, ..options() })
        };
        for good in ["https://courses.blob.core.windows.net", "http://10.0.0.1:10000/courses", "https://h/"] {
            assert!(at(good).is_ok(), "{good}");
        }
        for bad in ["courses", "https://u:CANARY@h", "https://h/a/b", "https://h/?sig=CANARY", "https://h?sig=CANARY"] {
            let error = at(bad).expect_err(bad);
            assert_eq!(error.reason(), "InvalidConfiguration", "{bad}");
            assert!(!error.to_string().contains("CANARY"), "{error}");
        }
    }

    #[test]
    fn a_key_that_is_none_is_refused_without_being_repeated() {
        let options = options();
        let error = CloudStore::azure(&options).expect_err("no key");
        assert_eq!(error.reason(), "InvalidConfiguration");
        assert!(error.to_string().contains("accountKey") && !error.to_string().contains("CANARY"), "{error}");
        assert!(!format!("{options:?}").contains("CANARY"));
    }
}
