//! The services' errors by meaning. An error's own words may hold a URL with a token, or what the service echoes: only a
//! code word, a status, or the transport's complaint goes on.

use std::error::Error;

use object_store::Error as CrateError;
use object_store::client::HttpError;

use super::super::error::{StoreError, innermost};
use super::CloudStore;

impl CloudStore {
    pub(super) fn failed(&self, act: &str, key: &str, error: &CrateError) -> StoreError {
        let answer = Answer::of(error);
        let (endpoint, action) = (self.endpoint.clone(), format!("{act} {key}"));
        let code = answer.shown();
        if matches!(answer.code.as_deref(), Some("NoSuchBucket" | "ContainerNotFound" | "ContainerBeingDeleted")) {
            return StoreError::NoSuchLocation { location: self.location.clone() };
        }
        match (error, answer.status) {
            (CrateError::NotFound { .. }, _) => StoreError::NotFound { key: key.to_owned() },
            (CrateError::AlreadyExists { .. } | CrateError::Precondition { .. }, _) => {
                StoreError::AlreadyExists { key: key.to_owned() }
            }
            (CrateError::PermissionDenied { .. } | CrateError::Unauthenticated { .. }, _) | (_, Some(401 | 403)) => {
                StoreError::PermissionDenied { endpoint, action, code }
            }
            // What Google's token service says of a key that was revoked.
            (_, Some(400)) if answer.code.as_deref() == Some("invalid_grant") => {
                StoreError::PermissionDenied { endpoint, action, code }
            }
            (_, Some(429 | 500..)) => StoreError::Unavailable { endpoint, action, code },
            (_, Some(_)) => StoreError::Other { action, detail: code },
            (_, None) => StoreError::Unreachable { endpoint, detail: transport(error) },
        }
    }
}

/// What the transport complains of, without an address.
pub(super) fn transport(error: &CrateError) -> String {
    let http = chain(error).find_map(|cause| cause.downcast_ref::<HttpError>());
    http.map_or_else(|| "no usable answer".to_owned(), |http| innermost(http).to_string())
}

/// What a service said.
struct Answer {
    status: Option<u16>,
    code: Option<String>,
}

impl Answer {
    /// The crate keeps the type of a refused request to itself, so its words are read; the suite on real servers notices
    /// when they change.
    fn of(error: &CrateError) -> Self {
        let refused = chain(error).find_map(|cause| {
            let said = cause.to_string();
            let (status, body) = said.strip_prefix("Server returned non-2xx status code: ")?.split_at_checked(3)?;
            Some((status.parse().ok()?, code_word(body)))
        });
        let (status, code) = refused.map_or((None, None), |(status, code)| (Some(status), code));
        Self { status, code }
    }

    fn shown(&self) -> String {
        match (&self.code, self.status) {
            (Some(code), _) => code.clone(),
            (None, Some(status)) => format!("HTTP {status}"),
            (None, None) => "no answer".to_owned(),
        }
    }
}

/// The code of an error document: `<Code>NoSuchKey</Code>`, or `"error": "invalid_grant"`.
fn code_word(body: &str) -> Option<String> {
    let (_, rest) = body.split_once("<Code>").or_else(|| body.split_once("\"error\""))?;
    let rest = rest.trim_start_matches([' ', ':', '"']);
    let word: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect();
    (!word.is_empty()).then_some(word)
}

fn chain(error: &CrateError) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use super::code_word;

    #[test]
    fn only_a_code_word_is_taken_from_what_a_service_says() {
        for (body, word) in [
            (
                "<?xml version='1.0'?><Error><Code>NoSuchBucket</Code><Message>CANARY</Message></Error>",
                Some("NoSuchBucket"),
            ),
            (r#"{"error": "invalid_grant", "error_description": "CANARY"}"#, Some("invalid_grant")),
            ("<Error><Code><b>CANARY</b></Code></Error>", None),
            ("a page of some proxy", None),
        ] {
            assert_eq!(code_word(body).as_deref(), word, "{body}");
        }
    }
}
