//! S3's errors by meaning. The code decides; where there is none (HEAD has no body) the status does.

use std::error::Error;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::super::digest::Difference;
use super::super::error::{StoreError, innermost};
use super::S3Store;

/// What was being done, for the message and for what "not found" means.
#[derive(Clone, Copy, Debug)]
pub(super) struct Act<'a> {
    pub(super) verb: &'static str,
    pub(super) key: &'a str,
}

impl S3Store {
    pub(super) fn failed<E>(&self, act: Act<'_>, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let endpoint = || self.options.shown_endpoint();
        let action = || format!("{} {}", act.verb, act.key);
        match error {
            SdkError::TimeoutError(_) => {
                StoreError::Unreachable { endpoint: endpoint(), detail: "no answer in time".to_owned() }
            }
            SdkError::DispatchFailure(_) => {
                StoreError::Unreachable { endpoint: endpoint(), detail: innermost(error).to_string() }
            }
            SdkError::ServiceError(service) => {
                let meta = service.err().meta();
                self.answered(act, meta.code(), meta.message(), service.raw().status().as_u16())
            }
            SdkError::ResponseError(response) => self.answered(act, None, None, response.raw().status().as_u16()),
            _ => StoreError::Other { action: action(), detail: innermost(error).to_string() },
        }
    }

    /// An answer of the store that is no success.
    pub(super) fn answered(&self, act: Act<'_>, code: Option<&str>, message: Option<&str>, status: u16) -> StoreError {
        let key = || act.key.to_owned();
        let endpoint = self.options.shown_endpoint();
        let action = format!("{} {}", act.verb, act.key);
        let shown = code.map_or_else(|| format!("HTTP {status}"), ToOwned::to_owned);
        match (code.unwrap_or_default(), status) {
            ("NoSuchBucket", _) => StoreError::NoSuchLocation { location: self.shown_location() },
            ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException", _)
            | ("", 301 | 307) => super::client::misconfigured(format!(
                "the bucket {} is not in the region {} ({shown})",
                self.options.bucket, self.options.region
            )),
            ("NoSuchKey" | "NoSuchUpload" | "NotFound", _) | ("", 404) => StoreError::NotFound { key: key() },
            ("PreconditionFailed" | "ConditionalRequestConflict", _) | ("", 412) => {
                StoreError::AlreadyExists { key: key() }
            }
            (
                "BadDigest"
                | "XAmzContentChecksumMismatch"
                | "XAmzContentSHA256Mismatch"
                | "IncompleteBody"
                | "InvalidDigest"
                | "InvalidPart"
                | "InvalidPartOrder"
                | "EntityTooSmall",
                _,
            ) => StoreError::Altered { key: key(), difference: Difference::RefusedByStore },
            (_, 401 | 403) | ("ExpiredToken" | "InvalidToken", _) => {
                StoreError::PermissionDenied { endpoint, action, code: shown }
            }
            ("SlowDown" | "RequestTimeout" | "OperationAborted", _) | (_, 429 | 500..) => {
                StoreError::Unavailable { endpoint, action, code: shown }
            }
            _ => StoreError::Other { action, detail: self.redacted(&shown, message) },
        }
    }

    /// A store may echo what it was sent.
    fn redacted(&self, code: &str, message: Option<&str>) -> String {
        let mut text = format!("{code}: {}", message.unwrap_or("the store says no more"));
        let options = &self.options;
        let token = options.session_token.as_deref().unwrap_or_default();
        for secret in [options.secret_access_key.as_str(), options.access_key_id.as_str(), token] {
            if !secret.is_empty() {
                text = text.replace(secret, "…");
            }
        }
        text.chars().filter(|c| !c.is_control()).take(300).collect()
    }
}
