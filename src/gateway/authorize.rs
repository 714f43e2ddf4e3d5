//! What a person may do: the API server decides (SubjectAccessReview), so that RBAC is the one place rights are given.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use super::cache::Cache;
use super::identity::{Caller, Person};
use super::problem::Refusal;
use asynctask_api::names::GROUP;
use asynctask_storage::digest::Digest;

/// How long a yes is believed: a right taken away is gone after this. A no is asked anew each time, so a right given
/// is there at once.
const BELIEVED: Duration = Duration::from_secs(5);
const REMEMBERED: usize = 10_000;

/// Plural of the kind all rights hang on.
const RESOURCE: &str = "asynctasks";

/// A right somebody needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access<'a> {
    verb: &'static str,
    subresource: Option<&'static str>,
    namespace: &'a str,
    name: Option<&'a str>,
}

impl<'a> Access<'a> {
    /// On one task. Without the right the task looks as if it were not there.
    pub(crate) fn task(verb: &'static str, namespace: &'a str, name: &'a str) -> Self {
        Self { verb, subresource: None, namespace, name: Some(name) }
    }

    /// On something in a namespace that need not exist.
    pub(crate) fn namespace(verb: &'static str, namespace: &'a str) -> Self {
        Self { verb, subresource: None, namespace, name: None }
    }

    /// The same on a virtual subresource.
    pub(crate) fn of(self, subresource: &'static str) -> Self {
        Self { subresource: Some(subresource), ..self }
    }

    /// `asynctasks/outputs`, as RBAC rules spell it.
    fn resource(&self) -> String {
        self.subresource.map_or_else(|| RESOURCE.to_owned(), |sub| format!("{RESOURCE}/{sub}"))
    }

    fn what(&self) -> String {
        format!("{} {}/{}", self.resource(), self.namespace, self.name.unwrap_or("*"))
    }

    fn review(&self, person: &Person) -> SubjectAccessReviewSpec {
        let attributes = ResourceAttributes {
            group: Some(GROUP.to_owned()),
            resource: Some(RESOURCE.to_owned()),
            subresource: self.subresource.map(str::to_owned),
            namespace: Some(self.namespace.to_owned()),
            name: self.name.map(str::to_owned),
            verb: Some(self.verb.to_owned()),
            ..ResourceAttributes::default()
        };
        SubjectAccessReviewSpec {
            user: Some(person.user.clone()),
            uid: person.uid.clone(),
            groups: Some(person.groups.clone()),
            extra: (!person.extra.is_empty()).then(|| person.extra.clone()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        }
    }

    fn refusal(&self) -> Refusal {
        if self.name.is_some() {
            return Refusal::NotFound;
        }
        let (verb, resource, namespace) = (self.verb, self.resource(), self.namespace);
        Refusal::Forbidden(format!(
            "you may not {verb} {resource} in namespace {namespace}: ask an administrator for this right (verb {verb}, \
             resource {resource}, API group {GROUP})"
        ))
    }
}

/// Asks the API server and remembers its yes for a moment, never across users.
pub(crate) struct Authorizer {
    client: Client,
    allowed: Cache<Digest, ()>,
}

impl Authorizer {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, allowed: Cache::new(BELIEVED, REMEMBERED) }
    }

    /// Lets the call go on, or says no in the words that fit the route.
    pub(crate) async fn require(&self, caller: &Caller, access: Access<'_>) -> Result<(), Refusal> {
        caller.trail.asks(access.verb, access.what());
        if self.allows(access.review(&caller.person)).await? {
            return Ok(());
        }
        caller.trail.refused();
        Err(access.refusal())
    }

    /// Whether the caller has a right without which something is merely not shown.
    pub(crate) async fn has(&self, caller: &Caller, access: Access<'_>) -> Result<bool, Refusal> {
        self.allows(access.review(&caller.person)).await
    }

    async fn allows(&self, spec: SubjectAccessReviewSpec) -> Result<bool, Refusal> {
        // The digest is over all the API server looks at: the whole user and the whole question.
        let asked = serde_json::to_vec(&spec).expect("invariant: a review is plain JSON");
        let key = Digest::of(&asked);
        if self.allowed.get(&key).is_some() {
            return Ok(true);
        }
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let reviews = Api::<SubjectAccessReview>::all(self.client.clone());
        let reviewed = reviews.create(&PostParams::default(), &review).await;
        let reviewed = reviewed.map_err(|source| Refusal::Kube { act: "have a right reviewed", source })?;
        let allowed = reviewed.status.is_some_and(|status| status.allowed && status.denied != Some(true));
        if allowed {
            self.allowed.put(key, ());
        }
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(user: &str, groups: &[&str], access: Access<'_>) -> Vec<u8> {
        let groups = groups.iter().map(ToString::to_string).collect();
        let person = Person { user: user.to_owned(), groups, ..Person::default() };
        serde_json::to_vec(&access.review(&person)).expect("JSON")
    }

    #[test]
    fn no_two_users_or_questions_share_a_remembered_answer() {
        let get = Access::task("get", "a", "t");
        let all = [
            asked("alice", &[], get),
            asked("bob", &[], get),
            asked("alice", &["x"], get),
            asked("alice", &[], Access::task("get", "b", "t")),
            asked("alice", &[], Access::task("get", "a", "u")),
            asked("alice", &[], get.of("outputs")),
            asked("alice", &[], Access::namespace("get", "a")),
            asked("alice", &[], Access::namespace("list", "a")),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(!all[n + 1..].contains(one), "{n}");
        }
    }

    #[test]
    fn a_named_task_is_never_confirmed_by_a_refusal() {
        assert!(matches!(Access::task("get", "a", "t").of("outputs").refusal(), Refusal::NotFound));
        assert!(matches!(Access::namespace("list", "a").refusal(), Refusal::Forbidden(_)));
    }
}
