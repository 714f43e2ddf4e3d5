//! How our kinds are watched: one unreadable object stops nothing, and a change of status wakes nobody.

use std::fmt::Debug;

use kube::core::DeserializeGuard;
use kube::runtime::{Controller, Predicate, PredicateConfig, WatchStreamExt, predicates, reflector, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

/// Objects fetched at a time when a watch begins.
pub(super) const PAGE: u32 = 100;

/// A controller of one of our kinds that is woken by new objects, changes of spec and changes of finalizers.
pub(super) fn controller<K>(api: Api<DeserializeGuard<K>>) -> Controller<DeserializeGuard<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = reflector::store();
    let objects = watcher(api, watcher::Config::default().page_size(PAGE))
        .modify(|object| object.managed_fields_mut().clear())
        .default_backoff()
        .reflect(writer)
        .applied_objects()
        .predicate_filter(predicates::generation.combine(predicates::finalizers), PredicateConfig::default());
    Controller::for_stream(objects, reader)
}
