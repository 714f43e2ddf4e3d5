//! Makes the TaskRevision of a definition, or finds the one that is there.

use kube::api::{ListParams, PostParams};
use kube::core::DeserializeGuard;
use kube::{Api, Client, ResourceExt};

use asynctask_api::names::MANAGER_OPERATOR;
use asynctask_api::task::RevisionRef;
use asynctask_api::{TaskDefinition, TaskRevision};
use asynctask_plan::revision;
use asynctask_runtime::client::{explain, is_status};

/// Why there is no revision.
#[derive(Debug, thiserror::Error)]
pub(super) enum FreezeError {
    /// They could not be listed.
    #[error("the TaskRevisions of {definition} cannot be listed: {}", explain(.source))]
    List {
        /// The definition.
        definition: String,
        /// What the client said.
        source: kube::Error,
    },
    /// It could not be created.
    #[error("TaskRevision {name} cannot be created: {}", explain(.source))]
    Create {
        /// The revision.
        name: String,
        /// What the client said.
        source: kube::Error,
    },
    /// One of another definition has the name: one deleted a moment ago, whose revisions are on their way out.
    #[error("TaskRevision {name} belongs to a definition that was deleted: it goes soon, and this one takes its place")]
    OfAnother {
        /// The revision.
        name: String,
    },
    /// Two contents begin with the same ten digits of hash.
    #[error("TaskRevision {name} holds another content: change the definition in any way to get another name")]
    OtherContent {
        /// The revision.
        name: String,
    },
}

impl FreezeError {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::List { .. } => "ListRevisions",
            Self::Create { .. } => "CreateRevision",
            Self::OfAnother { .. } => "RevisionOfAnother",
            Self::OtherContent { .. } => "RevisionCollision",
        }
    }
}

/// The revision of the definition as it is now.
pub(super) async fn freeze(client: &Client, definition: &TaskDefinition) -> Result<RevisionRef, FreezeError> {
    let name = definition.name_any();
    let revisions = Api::<TaskRevision>::namespaced(client.clone(), &definition.namespace().unwrap_or_default());
    let of_this = ListParams::default().fields(&format!("spec.definition={name}"));
    let guarded =
        Api::<DeserializeGuard<TaskRevision>>::namespaced(client.clone(), &definition.namespace().unwrap_or_default());
    let listed =
        guarded.list(&of_this).await.map_err(|source| FreezeError::List { definition: name.clone(), source })?;
    // One that cannot be read is no revision that new runs could have.
    let existing: Vec<TaskRevision> = listed.items.into_iter().filter_map(|revision| revision.0.ok()).collect();
    let wanted = revision::build(definition, next_number(&existing));
    let name = wanted.name_any();
    if let Some(found) = existing.into_iter().find(|revision| revision.name_any() == name) {
        return adopt(definition, &wanted, &found);
    }
    let params = PostParams { field_manager: Some(MANAGER_OPERATOR.to_owned()), ..PostParams::default() };
    match revisions.create(&params, &wanted).await {
        Ok(made) => {
            let (uid, number) = (definition.uid(), made.spec.number);
            tracing::info!(uid, revision = name, number, "definition frozen");
            Ok(reference(&made))
        }
        // Another operator was faster, or the listing was older than the object.
        Err(error) if is_status(&error, 409) => match revisions.get(&name).await {
            Ok(found) => adopt(definition, &wanted, &found),
            Err(source) => Err(FreezeError::Create { name, source }),
        },
        Err(source) => Err(FreezeError::Create { name, source }),
    }
}

fn next_number(existing: &[TaskRevision]) -> i64 {
    existing.iter().map(|revision| revision.spec.number).max().unwrap_or(0) + 1
}

fn adopt(definition: &TaskDefinition, wanted: &TaskRevision, found: &TaskRevision) -> Result<RevisionRef, FreezeError> {
    let name = found.name_any();
    let uid = definition.uid();
    let owned = found.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref());
    if found.spec.hash != wanted.spec.hash || found.spec.definition != wanted.spec.definition {
        return Err(FreezeError::OtherContent { name });
    }
    if !owned || found.metadata.deletion_timestamp.is_some() {
        return Err(FreezeError::OfAnother { name });
    }
    Ok(reference(found))
}

fn reference(revision: &TaskRevision) -> RevisionRef {
    RevisionRef { name: revision.name_any(), uid: revision.uid().unwrap_or_default(), number: revision.spec.number }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{FreezeError, adopt, next_number};
    use asynctask_api::TaskDefinition;
    use asynctask_plan::revision::build;

    fn definition(uid: &str, title: &str) -> TaskDefinition {
        let spec = json!({"title": title, "steps": []});
        let mut definition = TaskDefinition::new("hello", serde_json::from_value(spec).expect("spec"));
        definition.metadata.uid = Some(uid.to_owned());
        definition
    }

    #[test]
    fn numbers_go_on_after_the_highest() {
        assert_eq!(next_number(&[]), 1);
        let hello = definition("u", "Hello");
        assert_eq!(next_number(&[build(&hello, 7), build(&hello, 3)]), 8);
    }

    #[test]
    fn only_a_revision_of_the_same_content_and_owner_is_taken_for_ours() {
        let hello = definition("u", "Hello");
        let wanted = build(&hello, 2);
        let found = adopt(&hello, &wanted, &build(&hello, 1)).expect("the same");
        assert_eq!(found.number, 1, "a content that was there before keeps its number");

        let predecessor = build(&definition("before", "Hello"), 1);
        assert!(matches!(adopt(&hello, &wanted, &predecessor), Err(FreezeError::OfAnother { .. })));
        let collision = build(&definition("u", "Other"), 1);
        assert!(matches!(adopt(&hello, &wanted, &collision), Err(FreezeError::OtherContent { .. })));
    }
}
