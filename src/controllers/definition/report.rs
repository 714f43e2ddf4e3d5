//! Says what was found: status if it is news, an Event if Ready flipped.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use crate::pace::{Next, Reason};
use asynctask_api::TaskDefinition;
use asynctask_api::condition::{Claim, IMAGES_PINNED, READY, cut};
use asynctask_api::definition::TaskDefinitionStatus;
use asynctask_api::names::MANAGER_OPERATOR;
use asynctask_api::task::RevisionRef;
use asynctask_plan::revision::{by_tag_sentence, unpinned_images};
use asynctask_runtime::client::explain;

/// What was found about a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    ready: Claim,
    /// The revision that new runs are pinned to.
    pub(super) revision: Option<RevisionRef>,
}

impl Finding {
    /// It cannot be run.
    pub(super) fn refused(reason: &'static str, message: String) -> Self {
        Self { ready: Claim::new(READY, Some(false), reason, message), revision: None }
    }

    /// New runs are pinned to this revision.
    pub(super) fn frozen(revision: RevisionRef) -> Self {
        let message = format!("new runs are pinned to revision {} ({})", revision.number, revision.name);
        Self { ready: Claim::new(READY, Some(true), "Validated", message), revision: Some(revision) }
    }
}

/// The status cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the status of TaskDefinition {name} in namespace {namespace} cannot be written: {}", explain(.source))]
pub(super) struct ReportError {
    name: String,
    namespace: String,
    source: kube::Error,
}

impl Reason for ReportError {
    fn reason(&self) -> &'static str {
        "WriteStatus"
    }
}

/// Writes status and Events.
pub(super) struct Reporter {
    pub(super) client: Client,
    pub(super) events: Recorder,
}

impl Reporter {
    /// Says what was found and which revisions drain, if that is news.
    pub(super) async fn report(
        &self,
        definition: &TaskDefinition,
        finding: Finding,
        draining: Option<String>,
    ) -> Result<(), ReportError> {
        let before = definition.status.clone().unwrap_or_default();
        let ready = finding.ready.clone();
        let status = TaskDefinitionStatus { draining, ..status(definition, finding, &before, Timestamp::now()) };
        if status == before {
            return Ok(());
        }
        self.write(definition.meta(), &status).await?;
        if find(&before.conditions, READY).map(said) != find(&status.conditions, READY).map(said) {
            self.tell(definition, &ready).await;
        }
        Ok(())
    }

    /// Says that the object cannot even be read. It woke us by a change, and no news can be told from old here.
    pub(super) async fn unreadable(&self, of: &ObjectMeta, why: String) -> Result<Next, ReportError> {
        let ready = Claim::new(READY, Some(false), "Unreadable", why);
        let conditions = vec![ready.on(&[], of.generation, Timestamp::now())];
        let status =
            TaskDefinitionStatus { observed_generation: of.generation, revision: None, draining: None, conditions };
        self.write(of, &status).await.map(|()| Next::Rest)
    }

    async fn write(&self, of: &ObjectMeta, status: &TaskDefinitionStatus) -> Result<(), ReportError> {
        let (name, namespace) = (of.name.clone().unwrap_or_default(), of.namespace.clone().unwrap_or_default());
        let patch = json!({
            "apiVersion": TaskDefinition::api_version(&()), "kind": TaskDefinition::kind(&()),
            // Not a namesake that took its place.
            "metadata": {"uid": of.uid}, "status": status,
        });
        // Guarded, because the answer of one that cannot be read cannot be read either.
        let api = Api::<DeserializeGuard<TaskDefinition>>::namespaced(self.client.clone(), &namespace);
        let params = PatchParams::apply(MANAGER_OPERATOR).force();
        let written = api.patch_status(&name, &params, &Patch::Apply(&patch)).await;
        written.map(drop).map_err(|source| ReportError { name, namespace, source })
    }

    async fn tell(&self, definition: &TaskDefinition, ready: &Claim) {
        let ok = ready.holds == Some(true);
        let (uid, namespace, name) = (definition.uid(), definition.namespace(), definition.name_any());
        tracing::info!(uid, namespace, definition = name, ready = ok, reason = ready.reason, "definition examined");
        let event = Event {
            type_: if ok { EventType::Normal } else { EventType::Warning },
            reason: ready.reason.clone(),
            note: Some(cut(&ready.message, 1024)),
            action: "Validate".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.events.publish(&event, &definition.object_ref(&())).await {
            tracing::warn!(uid, error = explain(&error), "the Event cannot be written");
        }
    }
}

/// A refused definition keeps naming its last revision: runs that are pinned to it go on.
fn status(
    definition: &TaskDefinition,
    finding: Finding,
    before: &TaskDefinitionStatus,
    now: Timestamp,
) -> TaskDefinitionStatus {
    let generation = definition.meta().generation;
    let claims = [finding.ready, pinned(&unpinned_images(&definition.spec))];
    TaskDefinitionStatus {
        draining: None,
        observed_generation: generation,
        revision: finding.revision.or_else(|| before.revision.clone()),
        conditions: claims.iter().map(|claim| claim.on(&before.conditions, generation, now)).collect(),
    }
}

fn pinned(by_tag: &[String]) -> Claim {
    if by_tag.is_empty() {
        return Claim::new(IMAGES_PINNED, Some(true), "Digests", "every image is named by its digest");
    }
    Claim::new(IMAGES_PINNED, Some(false), "Tags", by_tag_sentence(by_tag))
}

fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

fn said(condition: &Condition) -> (&str, &str) {
    (&condition.status, &condition.reason)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::{Finding, status};
    use asynctask_api::TaskDefinition;
    use asynctask_api::definition::TaskDefinitionStatus;
    use asynctask_api::task::RevisionRef;

    fn definition(image: &str) -> TaskDefinition {
        let template = json!({"spec": {"containers": [{"name": "task", "image": image, "command": ["x"]}]}});
        let spec = json!({"title": "T", "steps": [{"name": "s", "template": template}]});
        let mut definition = TaskDefinition::new("hello", serde_json::from_value(spec).expect("spec"));
        definition.metadata.generation = Some(2);
        definition
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn frozen() -> Finding {
        Finding::frozen(RevisionRef { name: "hello-1".to_owned(), uid: "r".to_owned(), number: 1 })
    }

    #[test]
    fn the_same_finding_is_no_news() {
        let definition = definition("a@sha256:1");
        let first = status(&definition, frozen(), &TaskDefinitionStatus::default(), at(1));
        assert_eq!(status(&definition, frozen(), &first, at(9)), first);
        let words: Vec<_> = first.conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str())).collect();
        assert_eq!(words, [("Ready", "True"), ("ImagesPinned", "True")]);
        assert_eq!(first.observed_generation, Some(2));
    }

    #[test]
    fn a_refusal_keeps_the_revision_that_runs_are_pinned_to() {
        let first = status(&definition("a:1"), frozen(), &TaskDefinitionStatus::default(), at(1));
        let refused = Finding::refused("InvalidTemplate", "the API server refuses the Pod".to_owned());
        let after = status(&definition("a:1"), refused, &first, at(9));
        assert_eq!(after.revision, first.revision);
        assert_eq!((after.conditions[0].status.as_str(), after.conditions[0].last_transition_time.0), ("False", at(9)));
        let pinned = &after.conditions[1];
        assert_eq!((pinned.status.as_str(), pinned.last_transition_time.0), ("False", at(1)), "{pinned:?}");
        assert!(pinned.message.contains("a:1"), "{}", pinned.message);
    }
}
