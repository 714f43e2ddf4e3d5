//! How our kinds are watched: one unreadable object stops nothing, and a change of status wakes nobody.

use std::fmt::Debug;
use std::time::Duration;

use kube::core::DeserializeGuard;
use kube::runtime::utils::Backoff;
use kube::runtime::{Controller, Predicate, PredicateConfig, WatchStreamExt, predicates, reflector, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use asynctask_runtime::client::watch_config;

/// Objects fetched at a time when a watch begins.
pub(super) const PAGE: u32 = 100;

/// How each watch is made.
pub(super) fn config() -> watcher::Config {
    watch_config().page_size(PAGE)
}

/// The pause of a controller after an error of any of its watches: none. Each watch makes its own, and kube's, of up to a
/// minute, would hold up all the others.
pub(super) struct NoPause;

impl Iterator for NoPause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

impl Backoff for NoPause {
    fn reset(&mut self) {}
}

/// A controller of one of our kinds that is woken by new objects, changes of spec and changes of finalizers.
pub(super) fn controller<K>(api: Api<DeserializeGuard<K>>) -> Controller<DeserializeGuard<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = reflector::store();
    let objects = watcher(api, config())
        .default_backoff()
        .reflect(writer)
        .applied_objects()
        .predicate_filter(predicates::generation.combine(predicates::finalizers), PredicateConfig::default());
    Controller::for_stream(objects, reader).trigger_backoff(NoPause)
}
