//! Fair shares of the workers: a store that answers slowly, or not at all, and a namespace with thousands of runs hold up
//! their own runs, and no others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::CONCURRENCY;

/// Looks at a time at the runs of one namespace, or of one store: some workers are always left for others.
const SHARE: usize = CONCURRENCY as usize * 3 / 4;
/// The same for a store that is slow.
const OF_SLOW: usize = 2;
/// A store is slow after a look that failed and took longer than this.
const SLOW: Duration = Duration::from_secs(5);
/// How long a store then counts as slow.
const STAYS_SLOW: Duration = Duration::from_secs(60);
/// Delay before the first run without a permit is requeued.
const AGAIN: Duration = Duration::from_millis(250);
/// Added to the delay for each further run without a permit.
const LATER: Duration = Duration::from_millis(25);
/// Longest delay.
const LAST: Duration = Duration::from_secs(30);

/// Who has how many workers.
#[derive(Debug, Default)]
pub(super) struct Shares(Mutex<HashMap<Of, Taken>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Of {
    Namespace(String),
    /// By UID.
    Store(String),
}

#[derive(Debug, Default)]
struct Taken {
    looks: usize,
    slow_until: Option<Instant>,
    /// Runs refused since a permit was last given back.
    refused: u32,
}

impl Taken {
    fn is_slow(&self, now: Instant) -> bool {
        self.slow_until.is_some_and(|until| now < until)
    }
}

/// One worker, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    shares: &'a Shares,
    of: Vec<Of>,
    since: Instant,
    failed: AtomicBool,
}

impl Permit<'_> {
    /// Says whether the look succeeded. A look that hit its deadline says nothing and counts as failed.
    pub(super) fn went(&self, well: bool) {
        self.failed.store(!well, Ordering::Relaxed);
    }
}

impl Shares {
    /// Takes a worker for a run.
    ///
    /// # Errors
    /// Its namespace or its store already has its share: the delay before the next attempt.
    pub(super) fn take(&self, namespace: &str, store: Option<&str>) -> Result<Permit<'_>, Duration> {
        self.take_at(namespace, store, Instant::now())
    }

    fn take_at(&self, namespace: &str, store: Option<&str>, now: Instant) -> Result<Permit<'_>, Duration> {
        let store = store.map(|store| Of::Store(store.to_owned()));
        let of: Vec<Of> = [Of::Namespace(namespace.to_owned())].into_iter().chain(store).collect();
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |of: &Of| {
            shares.get(of).is_some_and(|taken| taken.looks >= if taken.is_slow(now) { OF_SLOW } else { SHARE })
        };
        if let Some(full) = of.iter().find(|of| is_full(of)) {
            let taken = shares.entry(full.clone()).or_default();
            taken.refused = taken.refused.saturating_add(1);
            return Err(LATER.saturating_mul(taken.refused - 1).saturating_add(AGAIN).min(LAST));
        }
        for of in &of {
            shares.entry(of.clone()).or_default().looks += 1;
        }
        Ok(Permit { shares: self, of, since: now, failed: AtomicBool::new(true) })
    }

    /// `in_vain`: how long the look took, if it failed; else zero.
    fn give_back(&self, of: &[Of], in_vain: Duration, now: Instant) {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for of in of {
            let taken = shares.entry(of.clone()).or_default();
            taken.looks = taken.looks.saturating_sub(1);
            taken.refused = 0;
            if matches!(of, Of::Store(_)) && in_vain > SLOW {
                taken.slow_until = Some(now + STAYS_SLOW);
            }
        }
        shares.retain(|_, taken| taken.looks > 0 || taken.is_slow(now));
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        let in_vain = if *self.failed.get_mut() { now.saturating_duration_since(self.since) } else { Duration::ZERO };
        self.shares.give_back(&self.of, in_vain, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_workers() {
        let shares = Shares::default();
        let taken: Vec<_> = std::iter::from_fn(|| shares.take("a", None).ok()).collect();
        assert_eq!(taken.len(), SHARE);
        assert!(SHARE < usize::from(CONCURRENCY));
        assert!(shares.take("b", None).is_ok());
        let pauses: Vec<_> = (0..2000).filter_map(|_| shares.take("a", None).err()).collect();
        assert!(pauses.is_sorted() && pauses[0] < AGAIN * 2 && pauses[1999] == LAST, "many come again later than few");
        drop(taken);
        assert!(shares.take("a", None).is_ok());
        let (of_store, namespaces) = (std::cell::RefCell::new(Vec::new()), ["a", "b", "c", "d"]);
        for namespace in namespaces.iter().cycle().take(40) {
            of_store.borrow_mut().extend(shares.take(namespace, Some("s-1")));
        }
        assert_eq!(of_store.borrow().len(), SHARE);
        assert!(shares.take("a", Some("s-2")).is_ok());
    }

    #[test]
    fn a_slow_store_has_two_until_it_was_quick_for_a_minute() {
        let (shares, now) = (Shares::default(), Instant::now());
        let of = [Of::Namespace("a".into()), Of::Store("s-1".into())];
        shares.give_back(&of, SLOW + Duration::from_secs(1), now);
        let first: Vec<_> = std::iter::from_fn(|| shares.take_at("a", Some("s-1"), now).ok()).collect();
        assert_eq!(first.len(), OF_SLOW);
        assert!(shares.take_at("a", None, now).is_ok(), "its namespace is not slow");
        let later = now + STAYS_SLOW;
        assert!(shares.take_at("a", Some("s-1"), later).is_ok());
        drop(first);
        shares.give_back(&[], Duration::ZERO, later + STAYS_SLOW);
        assert!(shares.0.lock().expect("no panic").is_empty(), "nothing is remembered of who is gone");
    }
}
