//! What can go wrong with a store, by meaning: every backend maps its own errors onto these.
//!
//! Nothing secret is in here: keys and endpoints are shown, credentials and signed URLs never are. A backend's own
//! text is kept as [`StoreError::Other`]'s detail only after it was reduced to a code and a sentence.

use super::digest::Difference;
use asynctask_contract::wire::word;

/// A failed call to a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No object has this key.
    #[error("{key} is not in the store")]
    NotFound {
        /// The key asked for.
        key: String,
    },
    /// [`super::PutMode::Create`] found the key taken.
    #[error("{key} is in the store already")]
    AlreadyExists {
        /// The key asked for.
        key: String,
    },
    /// The bucket or folder the store was opened on is not there.
    #[error("{location} does not exist: create it, or correct its name in the OutputStore")]
    NoSuchLocation {
        /// Bucket or folder.
        location: String,
    },
    /// An option that cannot be right, found before or by asking the store.
    #[error("the OutputStore cannot be used: {detail}")]
    Misconfigured {
        /// Which option, and why; without its value when that may be secret.
        detail: String,
    },
    /// The store knows us and refuses, or does not know us.
    #[error("the store at {endpoint} refused to {action} ({code}): check the credentials or permissions it was given")]
    PermissionDenied {
        /// The store, without user, password or query.
        endpoint: String,
        /// What was tried: `read <key>`, `list <prefix>`, …
        action: String,
        /// The store's own word for it.
        code: String,
    },
    /// The bytes are not the ones announced; nothing was stored.
    #[error("{key} was refused, the content is not what was announced: {difference}")]
    Altered {
        /// The key written to.
        key: String,
        /// How it differs.
        difference: Difference,
    },
    /// Who sends the bytes broke off; nothing was stored.
    #[error("{key} was not stored, its sender broke off: {source}")]
    Interrupted {
        /// The key written to.
        key: String,
        /// The sender's error.
        source: std::io::Error,
    },
    /// The range begins behind the end.
    #[error("{key} has {size} bytes, the range asked for begins behind them")]
    RangeNotSatisfiable {
        /// The key read.
        key: String,
        /// Bytes of the object.
        size: u64,
    },
    /// A bounded read met an object that is larger.
    #[error("{key} has more than the {max} bytes that are read in one piece")]
    TooLarge {
        /// The key read.
        key: String,
        /// The bound.
        max: u64,
    },
    /// No answer: refused connection, unknown host, untrusted certificate, timeout.
    #[error("the store at {endpoint} cannot be reached ({detail}): check the endpoint, the network and the CA bundle")]
    Unreachable {
        /// The store, without user, password or query.
        endpoint: String,
        /// What the transport said.
        detail: String,
    },
    /// The store is there and asks for patience (throttling, 5xx).
    #[error("the store at {endpoint} is too busy or ailing to {action} ({code})")]
    Unavailable {
        /// The store, without user, password or query.
        endpoint: String,
        /// What was tried.
        action: String,
        /// The store's own word for it.
        code: String,
    },
    /// Anything else.
    #[error("could not {action}: {detail}")]
    Other {
        /// What was tried.
        action: String,
        /// A code or a sentence, without secrets.
        detail: String,
    },
}

/// Who has to do something before the same call can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryClass {
    /// Nobody: try again later, with back-off.
    Transient,
    /// An administrator: credentials, address, bucket or disk; try again slowly.
    Configuration,
    /// Nobody can: the call itself is answered for good.
    Final,
}

impl StoreError {
    /// A CamelCase word for conditions, Events and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "ObjectNotFound",
            Self::AlreadyExists { .. } => "ObjectExists",
            Self::NoSuchLocation { .. } => "LocationNotFound",
            Self::Misconfigured { .. } => "InvalidConfiguration",
            Self::PermissionDenied { .. } => "PermissionDenied",
            Self::Altered { .. } => word::CONTENT_ALTERED,
            Self::Interrupted { .. } => "UploadInterrupted",
            Self::RangeNotSatisfiable { .. } => "RangeNotSatisfiable",
            Self::TooLarge { .. } => "ObjectTooLarge",
            Self::Unreachable { .. } => "StoreUnreachable",
            Self::Unavailable { .. } => "StoreUnavailable",
            Self::Other { .. } => "StoreError",
        }
    }

    /// Whether trying again can help, and who must act first. The one place that decides it.
    #[must_use]
    pub fn retry_class(&self) -> RetryClass {
        match self {
            // An unreachable store is far more often down than misspelt.
            Self::Unreachable { .. } | Self::Unavailable { .. } | Self::Interrupted { .. } | Self::Other { .. } => {
                RetryClass::Transient
            }
            Self::NoSuchLocation { .. } | Self::Misconfigured { .. } | Self::PermissionDenied { .. } => {
                RetryClass::Configuration
            }
            Self::NotFound { .. }
            | Self::AlreadyExists { .. }
            | Self::Altered { .. }
            | Self::RangeNotSatisfiable { .. }
            | Self::TooLarge { .. } => RetryClass::Final,
        }
    }
}

/// The words of the error at the root, without the layers around it.
pub(super) fn innermost<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error)
}
