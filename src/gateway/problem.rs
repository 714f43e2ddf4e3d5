//! Every answer that is not what was asked for, in one enum, told as RFC 9457 has it.
//!
//! A detail says what happened, to what, and what to do next. It never holds a URL, a token, a key or an address of
//! the store: what an administrator needs beyond it is logged here, and only here.

use std::time::Duration;

use axum::Json;
use axum::http::header::{CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use asynctask_contract::people::Problem;
use asynctask_contract::wire::CANCELED;
use asynctask_runtime::client::explain;
use asynctask_runtime::stores::OpenStoreError;
use asynctask_storage::records::RecordError;
use asynctask_storage::{RetryClass, StoreError};

/// Why a call was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// No credentials, or none that are good here.
    #[error("no valid credentials: send a bearer token of this cluster (agents: the token of their own pod)")]
    Unauthenticated,
    /// The trusted proxy named nobody, or somebody it may not name.
    #[error("{0}")]
    Misnamed(String),
    /// Known, and not allowed; only where this tells nothing about what exists.
    #[error("{0}")]
    Forbidden(String),
    /// Unknown or not allowed: the same words for both.
    #[error(
        "there is no such thing here, or you may not see it: check namespace and name, and ask for the right if it \
         should be there (kubectl auth can-i)"
    )]
    NotFound,
    /// The caller sees what it would be in, and it is not there.
    #[error("{0}")]
    NotThere(String),
    /// The request is not one we understand.
    #[error("{0}")]
    BadRequest(String),
    /// It contradicts what is there.
    #[error("{message}")]
    Conflict {
        /// For programs.
        word: &'static str,
        /// For people.
        message: String,
    },
    /// Understood, and wrong in content.
    #[error("{message}")]
    Invalid {
        /// For programs.
        word: &'static str,
        /// For people.
        message: String,
        /// Each violation, when there are several.
        violations: Vec<String>,
    },
    /// This attempt is over or was superseded; asking again cannot help.
    #[error("{0}")]
    Superseded(String),
    /// The run is to end, or to be held, before this may be begun. The agent reads the word.
    #[error("{0}")]
    Canceled(String),
    /// In a moment it will be possible.
    #[error("{0}")]
    NotYet(String),
    /// Too many calls of one person.
    #[error(
        "you have asked more than {per_second} times a second for a while: go on in {} s. A program that waits for a run \
         asks less often, or watches it",
        .wait.as_secs()
    )]
    TooOften {
        /// How many are taken in the long run.
        per_second: u32,
        /// Until the next one is taken.
        wait: Duration,
    },
    /// A body above its limit.
    #[error("the body is larger than the {max} bytes taken here")]
    BodyTooLarge {
        /// Bytes.
        max: usize,
    },
    /// A body that is no JSON.
    #[error("the body must be JSON with the header `Content-Type: application/json`")]
    NotJson,
    /// The file is stored already, and files are never replaced.
    #[error("this file is stored already and is never replaced: go on with the next call")]
    Stored,
    /// It was there, the caller may know, and it will not come back.
    #[error("{0}")]
    Gone(String),
    /// The list went on for too long.
    #[error("this list has grown too old to go on with it: list again from the start")]
    Expired,
    /// Too much of this is going on at once: unknown tokens that wait for their review, or bodies in memory.
    #[error("too many callers are at this at once: try again in a second")]
    Crowded,
    /// A body that did not arrive in time.
    #[error("the body did not arrive within {} s: send it again", .0.as_secs())]
    BodySlow(Duration),
    /// The handler did not answer in time.
    #[error("this took too long and was given up; nothing is known about its outcome: try again")]
    Slow,
    /// The API server did not do what was asked.
    #[error("could not {act}: {}", explain(.source))]
    Kube {
        /// What was tried.
        act: &'static str,
        /// What the client said.
        source: kube::Error,
    },
    /// A call to the store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store cannot be opened.
    #[error(transparent)]
    OpenStore(#[from] OpenStoreError),
    /// A record in the store is not one of ours.
    #[error("a record in the store cannot be used: {0}")]
    Record(#[from] RecordError),
    /// A defect of ours.
    #[error("{0}")]
    Defect(String),
}

/// A refusal reduced to what the caller is told.
struct Told {
    status: StatusCode,
    word: &'static str,
    detail: String,
}

fn told(status: StatusCode, word: &'static str, detail: impl Into<String>) -> Told {
    Told { status, word, detail: detail.into() }
}

impl Refusal {
    /// A 422 with one sentence.
    pub(crate) fn invalid(word: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { word, message: message.into(), violations: Vec::new() }
    }

    /// What the caller may know of it.
    pub(crate) fn sentence(&self) -> String {
        self.told().detail
    }

    fn told(&self) -> Told {
        let said = self.to_string();
        match self {
            Self::Unauthenticated | Self::Misnamed(_) => told(StatusCode::UNAUTHORIZED, "Unauthorized", said),
            Self::Forbidden(_) => told(StatusCode::FORBIDDEN, "Forbidden", said),
            Self::NotFound | Self::NotThere(_) => told(StatusCode::NOT_FOUND, "NotFound", said),
            Self::BadRequest(_) => told(StatusCode::BAD_REQUEST, "BadRequest", said),
            Self::Conflict { word, .. } => told(StatusCode::CONFLICT, word, said),
            Self::Invalid { word, .. } => told(StatusCode::UNPROCESSABLE_ENTITY, word, said),
            Self::Superseded(_) => told(StatusCode::CONFLICT, "Superseded", said),
            Self::Canceled(_) => told(StatusCode::CONFLICT, CANCELED, said),
            Self::NotYet(_) => told(StatusCode::SERVICE_UNAVAILABLE, "NotYet", said),
            Self::TooOften { .. } => told(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", said),
            Self::BodyTooLarge { .. } => told(StatusCode::PAYLOAD_TOO_LARGE, "BodyTooLarge", said),
            Self::BodySlow(_) => told(StatusCode::REQUEST_TIMEOUT, "BodySlow", said),
            Self::NotJson => told(StatusCode::UNSUPPORTED_MEDIA_TYPE, "NotJson", said),
            Self::Stored => told(StatusCode::PRECONDITION_FAILED, "AlreadyStored", said),
            Self::Gone(_) => told(StatusCode::GONE, "OutputGone", said),
            Self::Expired => told(StatusCode::GONE, "Expired", said),
            Self::Crowded => told(StatusCode::SERVICE_UNAVAILABLE, "Crowded", said),
            Self::Slow => told(StatusCode::GATEWAY_TIMEOUT, "Timeout", said),
            Self::Kube { source, .. } => kube(source),
            Self::Store(error) => store(error),
            Self::OpenStore(error) => open_store(error),
            Self::Record(_) => told(
                StatusCode::INTERNAL_SERVER_ERROR,
                "RecordUnusable",
                "what the store holds about this is damaged or of a newer release: an administrator finds the cause in \
                 the gateway's log",
            ),
            Self::Defect(_) => told(
                StatusCode::INTERNAL_SERVER_ERROR,
                "InternalError",
                "the gateway failed at this call: an administrator finds the cause in its log",
            ),
        }
    }
}

fn kube(error: &kube::Error) -> Told {
    match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => told(
            StatusCode::INTERNAL_SERVER_ERROR,
            "GatewayNotAllowed",
            "the gateway's own account lacks a right it needs: an administrator finds it in the gateway's log and \
             grants it by installing the chart of the same version",
        ),
        kube::Error::Api(status) if status.code == 404 => {
            told(StatusCode::NOT_FOUND, "NotFound", Refusal::NotFound.to_string())
        }
        kube::Error::SerdeError(_) => told(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Unreadable",
            "this object cannot be read by this release: kubectl shows it, and its Events say why. Delete it, or upgrade",
        ),
        _ => told(
            StatusCode::SERVICE_UNAVAILABLE,
            "ApiServerUnavailable",
            "the cluster's API server gave no answer: try again in a moment",
        ),
    }
}

fn store(error: &StoreError) -> Told {
    match error {
        StoreError::Altered { difference, .. } => told(
            StatusCode::UNPROCESSABLE_ENTITY,
            error.reason(),
            format!("the bytes are not the ones announced ({difference}); nothing was stored: send the file again"),
        ),
        StoreError::AlreadyExists { .. } => {
            told(StatusCode::PRECONDITION_FAILED, "AlreadyStored", Refusal::Stored.to_string())
        }
        StoreError::Interrupted { .. } => told(
            StatusCode::BAD_REQUEST,
            error.reason(),
            "the body broke off before its end; nothing was stored: send it again",
        ),
        StoreError::NotFound { .. } => told(
            StatusCode::GONE,
            error.reason(),
            "the bytes are no longer in the store: they were removed behind the operator's back",
        ),
        StoreError::RangeNotSatisfiable { size, .. } => told(
            StatusCode::RANGE_NOT_SATISFIABLE,
            error.reason(),
            format!("the range begins behind the end of the file, which has {size} bytes"),
        ),
        StoreError::NoSuchLocation { .. }
        | StoreError::Misconfigured { .. }
        | StoreError::PermissionDenied { .. }
        | StoreError::TooLarge { .. }
        | StoreError::Unreachable { .. }
        | StoreError::Unavailable { .. }
        | StoreError::Other { .. } => unavailable(error.retry_class(), error.reason()),
    }
}

fn open_store(error: &OpenStoreError) -> Told {
    unavailable(error.retry_class(), error.reason())
}

fn unavailable(class: RetryClass, word: &'static str) -> Told {
    let detail = match class {
        RetryClass::Transient => "the store gives no answer at the moment: try again in a minute",
        RetryClass::Configuration => {
            "the store cannot be used: an administrator finds the reason in the conditions of the OutputStore \
             (kubectl get outputstores)"
        }
        RetryClass::Final => {
            "the store this belongs to is no longer there: an administrator finds the reason in the gateway's log"
        }
    };
    told(StatusCode::SERVICE_UNAVAILABLE, word, detail)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Told { status, word, detail } = self.told();
        // An attempt that came before the operator had written it down is no event.
        if status.is_server_error() && !matches!(self, Self::NotYet(_)) {
            tracing::warn!(reason = word, status = status.as_u16(), cause = %self, "call failed");
        }
        let range = match &self {
            Self::Store(StoreError::RangeNotSatisfiable { size, .. }) => Some(*size),
            _ => None,
        };
        let wait = match &self {
            Self::TooOften { wait, .. } => Some(wait.as_secs()),
            _ => (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
        };
        let violations = match self {
            Self::Invalid { violations, .. } => violations,
            _ => Vec::new(),
        };
        let problem = Problem {
            kind: "about:blank".to_owned(),
            title: word.to_owned(),
            status: status.as_u16(),
            detail,
            violations,
        };
        let mut response = (status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"asynctask\""));
        }
        if let Some(seconds) = wait {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(size) = range {
            let value =
                HeaderValue::from_str(&format!("bytes */{size}")).expect("invariant: digits are a header value");
            headers.insert(CONTENT_RANGE, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;
    use kube::core::Status;

    async fn body(refusal: Refusal) -> (StatusCode, String) {
        let response = refusal.into_response();
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 16).await.expect("in memory");
        (status, String::from_utf8(bytes.to_vec()).expect("JSON"))
    }

    #[tokio::test]
    async fn unknown_and_forbidden_have_the_same_body() {
        let gone = kube::Error::Api(Box::new(Status::failure("asynctasks \"x\" not found", "NotFound").with_code(404)));
        let unknown = body(Refusal::Kube { act: "read the task", source: gone }).await;
        assert_eq!(unknown, body(Refusal::NotFound).await);
    }

    #[tokio::test]
    async fn a_failing_store_keeps_its_address_and_keys_to_itself() {
        for error in [
            StoreError::Unreachable { endpoint: "https://inner.example".into(), detail: "refused".into() },
            StoreError::PermissionDenied {
                endpoint: "https://inner.example".into(),
                action: "read p/ns/key".into(),
                code: "SignatureDoesNotMatch".into(),
            },
            StoreError::NotFound { key: "p/ns/key".into() },
        ] {
            let (_, text) = body(error.into()).await;
            assert!(!text.contains("inner.example") && !text.contains("p/ns/key"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_missing_credential_says_which_scheme_is_wanted() {
        let response = Refusal::Unauthenticated.into_response();
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer realm=\"asynctask\"");
    }

    #[tokio::test]
    async fn every_violation_reaches_the_caller() {
        let violations = vec!["/a: one".to_owned(), "/b: two".to_owned()];
        let refusal = Refusal::Invalid { word: "InvalidParameters", message: "wrong".into(), violations };
        let (status, text) = body(refusal).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(text.contains("/a: one") && text.contains("/b: two"), "{text}");
    }
}
