//! A small bounded map whose entries grow stale. Every answer of the gateway that is believed for a while sits in one
//! of these, so that "for how long" and "how many" are said where it is made.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Values by key, each believed for the same time. Clones of values are given out: keep them cheap.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    ttl: Duration,
    capacity: usize,
    kept: Mutex<Kept<K, V>>,
}

#[derive(Debug)]
struct Kept<K, V> {
    entries: HashMap<K, (Instant, V)>,
    /// When stale entries were dropped last.
    swept: Option<Instant>,
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    /// Believes values for `ttl` and holds at most `capacity` of them.
    pub(crate) fn new(ttl: Duration, capacity: usize) -> Self {
        Self { ttl, capacity, kept: Mutex::new(Kept { entries: HashMap::new(), swept: None }) }
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
        let kept = self.lock();
        kept.entries.get(key).filter(|(since, _)| now.duration_since(*since) < self.ttl).map(|(_, value)| value.clone())
    }

    fn put_at(&self, key: K, value: V, now: Instant) {
        let mut kept = self.lock();
        let swept = *kept.swept.get_or_insert(now);
        // Each pod that calls is a key, and calls no more once it has ended: what is stale goes, or memory would tell how
        // many pods there have been. Once in the time of an entry costs each entry two looks at most.
        if now.duration_since(swept) >= self.ttl {
            kept.sweep(self.ttl, now);
        }
        if kept.entries.len() >= self.capacity && !kept.entries.contains_key(&key) {
            kept.sweep(self.ttl, now);
            // Full of fresh entries: forgetting all of them costs one look-up each, which is cheaper than an order.
            if kept.entries.len() >= self.capacity {
                kept.entries.clear();
            }
        }
        kept.entries.insert(key, (now, value));
    }

    fn lock(&self) -> MutexGuard<'_, Kept<K, V>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash, V> Kept<K, V> {
    /// Drops what is stale, and the room it took.
    fn sweep(&mut self, ttl: Duration, now: Instant) {
        self.entries.retain(|_, (since, _)| now.duration_since(*since) < ttl);
        self.entries.shrink_to(2 * self.entries.len());
        self.swept = Some(now);
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
            assert!(cache.lock().entries.len() <= 3);
        }
        assert_eq!(cache.get_at(&99, now), Some(99));
    }

    #[test]
    fn what_nobody_asks_for_any_more_is_dropped() {
        let (cache, now) = (Cache::new(Duration::from_secs(5), 10_000), Instant::now());
        for pod in 0..5_000 {
            cache.put_at(pod, pod, now);
        }
        cache.put_at(5_000, 5_000, now + Duration::from_secs(4));
        cache.put_at(5_001, 5_001, now + Duration::from_secs(5));
        let kept = cache.lock();
        assert_eq!(kept.entries.len(), 2, "the stale ones are gone, the fresh ones are not");
        assert!(kept.entries.capacity() < 100, "their room is gone too: {}", kept.entries.capacity());
    }
}
