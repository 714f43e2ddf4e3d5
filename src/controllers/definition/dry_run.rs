//! Whether the API server would take a step's Job and Pod: asked by server-side dry-runs, answered in its own words.
//! The Job alone is no proof: it passes with privileged containers and service accounts that do not exist.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Client};
use serde_json::Value;

use asynctask_api::names::MANAGER_OPERATOR;
use asynctask_plan::job;
use asynctask_runtime::client::explain;

/// What came of a dry-run.
#[derive(Debug, thiserror::Error)]
pub(super) enum DryRunError {
    /// The API server would not take it: the author has to act.
    #[error("the API server refuses the {kind}: {words}")]
    Refused {
        /// Job or Pod.
        kind: &'static str,
        /// The API server's own message.
        words: String,
    },
    /// It could not be asked.
    #[error("the {kind} of a step cannot be dry-run: {}", explain(.source))]
    Ask {
        /// Job or Pod.
        kind: &'static str,
        /// What the client said.
        source: kube::Error,
    },
}

/// Dry-runs a Job and its Pod.
///
/// # Errors
/// The first refusal, or that it could not be asked.
pub(super) async fn prove(client: &Client, namespace: &str, job: Value) -> Result<(), DryRunError> {
    let pod = job::pod_of(&job);
    create(client, namespace, "Job", ApiResource::erase::<Job>(&()), job).await?;
    create(client, namespace, "Pod", ApiResource::erase::<Pod>(&()), pod).await
}

/// As JSON, not through our types: fields of a newer Kubernetes are proven too.
async fn create(
    client: &Client,
    namespace: &str,
    kind: &'static str,
    resource: ApiResource,
    object: Value,
) -> Result<(), DryRunError> {
    let object: DynamicObject = serde_json::from_value(object).expect("invariant: a built Job and its Pod are objects");
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
    let params = PostParams { dry_run: true, field_manager: Some(MANAGER_OPERATOR.to_owned()) };
    match api.create(&params, &object).await {
        Ok(_) => Ok(()),
        Err(source) => match judge(&source) {
            Judgement::Passed => Ok(()),
            Judgement::Refused(words) => Err(DryRunError::Refused { kind, words }),
            Judgement::Unasked => Err(DryRunError::Ask { kind, source }),
        },
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// Nothing is wrong with the template.
    Passed,
    /// Something is.
    Refused(String),
    /// Nothing can be said.
    Unasked,
}

fn judge(error: &kube::Error) -> Judgement {
    let kube::Error::Api(status) = error else { return Judgement::Unasked };
    match status.code {
        // Quota is what the API server looks at last, and being at it now says nothing of later.
        403 if status.message.contains("exceeded quota:") => Judgement::Passed,
        // Our own rights are no fault of the author's.
        403 if status.message.contains("cannot create resource") => Judgement::Unasked,
        // A name that is taken was looked at after everything else.
        409 => Judgement::Passed,
        400 | 403 | 413 | 422 => Judgement::Refused(status.message.clone()),
        _ => Judgement::Unasked,
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::{Judgement, judge};

    fn judged(code: u16, message: &str) -> Judgement {
        judge(&kube::Error::Api(Status::failure(message, "").with_code(code).boxed()))
    }

    #[test]
    fn only_the_authors_faults_are_refusals() {
        let invalid = "Pod \"x\" is invalid: spec.containers[0].image: Required value";
        assert_eq!(judged(422, invalid), Judgement::Refused(invalid.to_owned()));
        let privileged = "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\"";
        assert_eq!(judged(403, privileged), Judgement::Refused(privileged.to_owned()));
        let account = "pods \"x\" is forbidden: error looking up service account a/b: serviceaccount \"b\" not found";
        assert_eq!(judged(403, account), Judgement::Refused(account.to_owned()));
        let limits = "pods \"x\" is forbidden: failed quota: q: must specify limits.cpu for: task";
        assert_eq!(judged(403, limits), Judgement::Refused(limits.to_owned()));

        assert_eq!(judged(403, "pods \"x\" is forbidden: exceeded quota: q, requested: pods=1"), Judgement::Passed);
        assert_eq!(judged(409, "jobs.batch \"x\" already exists"), Judgement::Passed);
        let rights = "pods is forbidden: User \"u\" cannot create resource \"pods\" in API group \"\"";
        assert_eq!(judged(403, rights), Judgement::Unasked);
        for code in [404, 429, 500, 503] {
            assert_eq!(judged(code, "later"), Judgement::Unasked, "{code}");
        }
    }
}
