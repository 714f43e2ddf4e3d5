//! Growing delays per object. kube's controller has none: an event of any kind would start the next attempt at once,
//! so a permanent failure turns into a hot loop as soon as somebody touches the object.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// When each object may be tried again. Keyed by UID: an object made anew under the old name starts afresh.
#[derive(Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    entries: Mutex<HashMap<String, Entry>>,
}

#[derive(Debug)]
struct Entry {
    failures: u32,
    not_before: Instant,
}

impl Backoff {
    /// Doubles from `initial` up to `max`.
    #[must_use]
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, entries: Mutex::default() }
    }

    /// Counts a failure and says how long to wait. The wait is spread by up to a quarter, by UID, so that objects
    /// that failed together do not return together.
    pub fn failed(&self, uid: &str, now: Instant) -> Duration {
        let mut entries = self.lock();
        // Objects deleted meanwhile never succeed; without this they would stay for ever.
        let forgotten = self.max * 2;
        entries.retain(|_, entry| now < entry.not_before + forgotten);
        let entry = entries.entry(uid.to_owned()).or_insert(Entry { failures: 0, not_before: now });
        let factor = 2u32.saturating_pow(entry.failures.min(30));
        let delay = self.initial.saturating_mul(factor).min(self.max);
        let delay = delay + delay.mul_f64(spread(uid));
        entry.failures = entry.failures.saturating_add(1);
        entry.not_before = now + delay;
        delay
    }

    /// How long an early trigger still has to wait; it does not count as a failure.
    pub fn remaining(&self, uid: &str, now: Instant) -> Option<Duration> {
        let entries = self.lock();
        entries.get(uid).map(|entry| entry.not_before.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// The object succeeded or is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Between 0 and 0.25, always the same for the same UID.
fn spread(uid: &str) -> f64 {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    f64::from(u8::try_from(hasher.finish() % 256).unwrap_or(0)) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::Backoff;
    use std::time::{Duration, Instant};

    fn backoff() -> Backoff {
        Backoff::new(Duration::from_secs(1), Duration::from_secs(60))
    }

    #[test]
    fn delays_double_up_to_the_maximum() {
        let (backoff, now) = (backoff(), Instant::now());
        let delays: Vec<_> = (0..40).map(|_| backoff.failed("a", now)).collect();
        for pair in delays.windows(2) {
            assert!(pair[0] <= pair[1], "{pair:?}");
        }
        assert!(delays[0] >= Duration::from_secs(1) && delays[0] <= Duration::from_millis(1250), "{:?}", delays[0]);
        assert!(delays[39] >= Duration::from_secs(60) && delays[39] <= Duration::from_secs(75), "{:?}", delays[39]);
    }

    #[test]
    fn an_early_trigger_waits_and_does_not_count() {
        let (backoff, now) = (backoff(), Instant::now());
        let delay = backoff.failed("a", now);
        for _ in 0..10 {
            assert_eq!(backoff.remaining("a", now), Some(delay));
        }
        assert_eq!(backoff.remaining("a", now + delay), None);
        assert_eq!(backoff.remaining("b", now), None);
        assert!(backoff.failed("a", now + delay) < delay * 3);
    }

    #[test]
    fn success_starts_afresh_and_the_deleted_are_forgotten() {
        let (backoff, now) = (backoff(), Instant::now());
        let first = backoff.failed("a", now);
        backoff.failed("a", now);
        backoff.forget("a");
        assert_eq!(backoff.failed("a", now), first);
        backoff.failed("b", now + Duration::from_secs(3600));
        assert_eq!(backoff.lock().len(), 1);
    }
}
