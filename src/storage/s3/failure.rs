//! S3's errors by meaning. The code decides; where there is none (HEAD has no body) the status does.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::super::connect::misconfigured;
use super::super::digest::Difference;
use super::super::error::{StoreError, innermost};
use super::{Keys, S3Store};

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
        if let Some(missing) = credentials_error(error) {
            return unsigned(missing, action());
        }
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
            | ("", 301 | 307) => misconfigured(format!(
                "the bucket {} is not in the region {} ({shown})",
                self.options.bucket, self.options.region
            )),
            ("NoSuchKey" | "NoSuchUpload" | "NotFound", _) | ("", 404) => StoreError::NotFound { key: key() },
            ("PreconditionFailed", _) | ("", 412) => StoreError::AlreadyExists { key: key() },
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
            // A conflict is another write of the same key under way: whether it will succeed nobody knows yet.
            ("SlowDown" | "RequestTimeout" | "OperationAborted" | "ConditionalRequestConflict", _)
            | (_, 429 | 500..) => StoreError::Unavailable { endpoint, action, code: shown },
            _ => StoreError::Other { action, detail: self.redacted(&shown, message) },
        }
    }

    /// A store may echo what it was sent.
    fn redacted(&self, code: &str, message: Option<&str>) -> String {
        let mut text = format!("{code}: {}", message.unwrap_or("the store says no more"));
        for secret in self.options.keys.iter().flat_map(Keys::secrets) {
            text = text.replace(secret, "…");
        }
        text.chars().filter(|c| !c.is_control()).take(300).collect()
    }
}

/// There was nothing to sign a request with: it was not sent.
fn unsigned(error: &CredentialsError, action: String) -> StoreError {
    let said: String = innermost(error).to_string().chars().filter(|c| !c.is_control()).take(300).collect();
    match error {
        CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
            misconfigured(format!("there is no Secret with keys, and the pod has no identity to get some with: {said}"))
        }
        _ => StoreError::Unavailable {
            endpoint: "the service that gives this pod its keys".to_owned(),
            action,
            code: said,
        },
    }
}

/// Why there was nothing to sign a request with.
fn credentials_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CredentialsError> {
    let mut next = Some(error);
    while let Some(error) = next {
        match error.downcast_ref() {
            None => next = error.source(),
            found => return found,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::S3Options;
    use super::*;

    fn store() -> S3Store {
        S3Store::new(S3Options {
            endpoint: Some("http://store.example".into()),
            public_endpoint: None,
            region: "us-east-1".into(),
            bucket: "tasks".into(),
            path_style: true,
            keys: Some(Keys { session_token: Some("CANARY-TOKEN".into()), ..Keys::new("CANARY-ID", "CANARY-SECRET") }),
            ca_bundle: None,
            encryption: None,
            signs: true,
        })
        .expect("valid options")
    }

    const ACT: Act<'static> = Act { verb: "write", key: "p/object" };

    #[test]
    fn answers_are_told_apart_by_code_and_without_one_by_status() {
        let table: [(Option<&str>, u16, &str); 21] = [
            (Some("NoSuchKey"), 404, "ObjectNotFound"),
            (None, 404, "ObjectNotFound"),
            (Some("NoSuchUpload"), 404, "ObjectNotFound"),
            (Some("NoSuchBucket"), 404, "LocationNotFound"),
            (Some("PreconditionFailed"), 412, "ObjectExists"),
            (None, 412, "ObjectExists"),
            (Some("ConditionalRequestConflict"), 409, "StoreUnavailable"),
            (Some("AccessDenied"), 403, "PermissionDenied"),
            (Some("SignatureDoesNotMatch"), 403, "PermissionDenied"),
            (Some("ExpiredToken"), 400, "PermissionDenied"),
            (None, 403, "PermissionDenied"),
            (None, 401, "PermissionDenied"),
            (Some("BadDigest"), 400, "ContentAltered"),
            (Some("InvalidPart"), 400, "ContentAltered"),
            (Some("AuthorizationHeaderMalformed"), 400, "InvalidConfiguration"),
            (None, 301, "InvalidConfiguration"),
            (Some("SlowDown"), 503, "StoreUnavailable"),
            (Some("InternalError"), 500, "StoreUnavailable"),
            (None, 502, "StoreUnavailable"),
            (None, 429, "StoreUnavailable"),
            (Some("MethodNotAllowed"), 405, "StoreError"),
        ];
        for (code, status, reason) in table {
            let error = store().answered(ACT, code, None, status);
            assert_eq!(error.reason(), reason, "{code:?} {status}: {error}");
        }
    }

    #[test]
    fn a_store_that_echoes_secrets_is_not_repeated() {
        let echo = "key CANARY-ID, secret CANARY-SECRET, token CANARY-TOKEN\u{1b}[2J";
        let error = store().answered(ACT, Some("Odd"), Some(echo), 400);
        assert_eq!(error.to_string(), "could not write p/object: Odd: key …, secret …, token …[2J");
    }
}
