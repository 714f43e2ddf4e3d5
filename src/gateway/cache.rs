//! A small bounded map whose entries grow stale. Every answer of the gateway that is believed for a while sits in one
//! of these, so that "for how long" and "how many" are said where it is made.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Values by key, each believed for the same time. Clones of values are given out: keep them cheap.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    ttl: Duration,
    capacity: usize,
    entries: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    /// Believes values for `ttl` and holds at most `capacity` of them.
    pub(crate) fn new(ttl: Duration, capacity: usize) -> Self {
        Self { ttl, capacity, entries: Mutex::default() }
    }

    /// The value, while it is fresh.
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.get_at(key, Instant::now())
    }

    /// Remembers a value as of now.
    pub(crate) fn put(&self, key: K, value: V) {
        self.put_at(key, value, Instant::now());
    }

    fn get_at(&self, key: &K, now: Instant) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(key).filter(|(since, _)| now.duration_since(*since) < self.ttl).map(|(_, value)| value.clone())
    }

    fn put_at(&self, key: K, value: V, now: Instant) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.capacity && !entries.contains_key(&key) {
            entries.retain(|_, (since, _)| now.duration_since(*since) < self.ttl);
            // Full of fresh entries: forgetting all of them costs one look-up each, which is cheaper than an order.
            if entries.len() >= self.capacity {
                entries.clear();
            }
        }
        entries.insert(key, (now, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_believed_for_its_time_and_no_longer() {
        let (cache, now) = (Cache::new(Duration::from_secs(5), 10), Instant::now());
        cache.put_at("a", 1, now);
        assert_eq!(cache.get_at(&"a", now + Duration::from_millis(4999)), Some(1));
        assert_eq!(cache.get_at(&"a", now + Duration::from_secs(5)), None);
    }

    #[test]
    fn it_never_grows_beyond_its_capacity() {
        let (cache, now) = (Cache::new(Duration::from_secs(5), 3), Instant::now());
        for n in 0..100 {
            cache.put_at(n, n, now);
            assert!(cache.entries.lock().expect("not poisoned").len() <= 3);
        }
        assert_eq!(cache.get_at(&99, now), Some(99));
    }
}
