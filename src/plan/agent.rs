//! What a pod has to be told about the agent.

use serde::{Deserialize, Serialize};

/// How the agent's binary gets into a container of the author's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Injection {
    /// A read-only volume made of the agent's image. Costs nothing, needs a container runtime that can execute from
    /// one.
    ImageVolume,
    /// An init container that copies the binary into an emptyDir. Works everywhere.
    InitContainer,
}

impl Injection {
    /// The word itself.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ImageVolume => "ImageVolume",
            Self::InitContainer => "InitContainer",
        }
    }
}

/// Where agents find the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayAccess {
    /// Base URL, without a slash at its end.
    pub url: String,
    /// PEM certificates that sign the gateway's: during a rotation the old one and the new one.
    pub ca_pem: String,
}

/// The agent, its way into the pod, and the gateway it reports to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Image that holds the binary.
    pub image: String,
    /// Names of Secrets for it, in the namespace of the pod.
    pub pull_secrets: Vec<String>,
    /// How it gets in.
    pub injection: Injection,
    /// Whom it calls.
    pub gateway: GatewayAccess,
}
