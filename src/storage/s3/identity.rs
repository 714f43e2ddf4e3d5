//! Whom a pod is taken for where the store has no keys of its own: the SDK's default chain. It finds a web identity (IAM
//! roles for service accounts: a token of the pod's that the security token service takes), EKS Pod Identity and what else
//! hands out credentials at an address in the environment, or the node's role; it renews them before they end.

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_s3::config::{Region, SharedHttpClient};
use tokio::sync::OnceCell;

/// Credentials of the pod's identity.
#[derive(Debug)]
pub(super) struct PodIdentity {
    http: SharedHttpClient,
    region: Region,
    chain: OnceCell<DefaultCredentialsChain>,
}

impl PodIdentity {
    /// `region` is that of the security token service, unless the environment names another.
    pub(super) fn new(http: SharedHttpClient, region: Region) -> Self {
        Self { http, region, chain: OnceCell::new() }
    }

    async fn chain(&self) -> &DefaultCredentialsChain {
        let make = || async {
            let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new());
            let config = ProviderConfig::without_region().with_http_client(self.http.clone());
            let chain = DefaultCredentialsChain::builder().configure(config);
            chain.region(region.or_else(self.region.clone())).build().await
        };
        self.chain.get_or_init(make).await
    }
}

impl ProvideCredentials for PodIdentity {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async { self.chain().await.provide_credentials().await })
    }
}
