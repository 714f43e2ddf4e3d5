//! What the API server says, in sentences.

use kube::core::Status;
use kube::runtime::watcher;

/// A request to the API server that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act}: {}", why(.source))]
pub(crate) struct ClusterError {
    act: String,
    /// What the client got.
    pub(crate) source: kube::Error,
}

impl ClusterError {
    /// `act` completes "cannot …".
    pub(crate) fn new(act: impl Into<String>, source: kube::Error) -> Self {
        Self { act: act.into(), source }
    }

    /// For `map_err`.
    pub(crate) fn on(act: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::new(act, source)
    }

    /// The server's own answer, when it gave one.
    pub(crate) fn status(&self) -> Option<&Status> {
        status(&self.source)
    }
}

/// The server's own answer, when it gave one.
pub(crate) fn status(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

/// What made a watch fail; `None` when it only has to begin anew.
pub(crate) fn watch_failure(error: watcher::Error) -> Option<kube::Error> {
    match error {
        watcher::Error::InitialListFailed(e) | watcher::Error::WatchStartFailed(e) | watcher::Error::WatchFailed(e) => {
            Some(e)
        }
        watcher::Error::WatchError(status) => Some(kube::Error::Api(status)),
        watcher::Error::NoResourceVersion => None,
    }
}

/// Whether trying again may help: the server did not answer, or was busy.
pub(crate) fn is_transient(error: &kube::Error) -> bool {
    status(error).is_none_or(|s| s.code == 410 || s.code == 429 || s.code >= 500)
}

/// The reason without the wrapping of libraries, and what to do where we know it.
pub(crate) fn why(error: &kube::Error) -> String {
    let Some(status) = status(error) else {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            let inner_text = inner.to_string();
            if !text.contains(&inner_text) {
                text = format!("{text}: {inner_text}");
            }
            source = inner.source();
        }
        return format!("{text}. Is the cluster reachable? `kubectl version` tells");
    };
    // A 404 without a name is about the kind itself.
    if status.code == 404 && status.details.as_ref().is_none_or(|d| d.name.is_empty()) {
        return "this cluster does not know the kind: is the AsyncTask operator installed in it?".to_owned();
    }
    if status.code == 401 {
        return "the cluster does not accept the credentials of the kubeconfig: sign in again".to_owned();
    }
    status.message.clone()
}

#[cfg(test)]
mod tests {
    use super::{ClusterError, is_transient};
    use kube::core::Status;

    fn api(message: &str, code: u16) -> kube::Error {
        kube::Error::Api(Status::failure(message, "").with_code(code).boxed())
    }

    #[test]
    fn a_missing_kind_is_told_from_a_missing_object() {
        let kind = ClusterError::new("list AsyncTasks", api("the server could not find the requested resource", 404));
        assert!(kind.to_string().ends_with("is the AsyncTask operator installed in it?"), "{kind}");
        let mut status = Status::failure("asynctasks.asynctask.dev \"x\" not found", "NotFound").with_code(404);
        status.details = serde_json::from_value(serde_json::json!({ "name": "x" })).expect("details");
        let object = ClusterError::new("read AsyncTask \"x\"", kube::Error::Api(status.boxed()));
        assert_eq!(object.to_string(), "cannot read AsyncTask \"x\": asynctasks.asynctask.dev \"x\" not found");
    }

    #[test]
    fn only_silence_and_a_busy_server_are_worth_another_try() {
        for (code, again) in [(401, false), (403, false), (404, false), (410, true), (429, true), (500, true)] {
            assert_eq!(is_transient(&api("x", code)), again, "{code}");
        }
    }
}
