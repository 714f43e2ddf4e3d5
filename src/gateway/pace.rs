//! How often one person may ask. What is behind the gateway, the API server and the store, serves everybody.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use super::problem::Refusal;

/// So many seconds' worth of calls may come at once.
const BURST_SECONDS: u32 = 10;
/// How often a second a pod may say how far it is, in the long run: each time is a write of the run's status.
const REPORTS: NonZeroU32 = NonZeroU32::MIN;
/// After so many calls those who have not asked for a while are forgotten.
const FORGET: u32 = 4096;

/// Counts the calls of each person.
pub(crate) struct Pace<C: Clock = MonotonicClock> {
    per_second: NonZeroU32,
    limiter: RateLimiter<String, HashMapStateStore<String>, C, NoOpMiddleware<C::Instant>>,
    calls: AtomicU32,
}

impl Pace {
    /// At most so many calls a second in the long run; `None` without a limit.
    pub(crate) fn new(per_second: u32) -> Option<Self> {
        NonZeroU32::new(per_second).map(|per_second| Self::by(per_second, MonotonicClock))
    }
}

impl Pace {
    /// For what the program of a pod makes us write. Its agent asks less often; the program need not use it.
    pub(crate) fn of_reports() -> Self {
        Self::by(REPORTS, MonotonicClock)
    }
}

impl<C: Clock> Pace<C> {
    fn by(per_second: NonZeroU32, clock: C) -> Self {
        let burst = per_second.saturating_mul(NonZeroU32::new(BURST_SECONDS).expect("invariant: not zero"));
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let limiter = RateLimiter::new(quota, HashMapStateStore::default(), clock);
        Self { per_second, limiter, calls: AtomicU32::new(0) }
    }

    /// Counts a call.
    ///
    /// # Errors
    /// Too many came before it; says when the next one is taken.
    pub(crate) fn pass(&self, person: &str) -> Result<(), Refusal> {
        if self.calls.fetch_add(1, Ordering::Relaxed) % FORGET == FORGET - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        self.limiter.check_key(&person.to_owned()).map_err(|early| {
            let wait = early.wait_time_from(self.limiter.clock().now());
            Refusal::TooOften { per_second: self.per_second.get(), wait: wait.max(Duration::from_secs(1)) }
        })
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn pace(per_second: u32) -> (Pace<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Pace::by(NonZeroU32::new(per_second).expect("not zero"), clock.clone()), clock)
    }

    #[test]
    fn a_burst_is_taken_and_then_so_many_a_second_for_each_person() {
        let (pace, clock) = pace(2);
        let taken = |person: &str| (0..100).take_while(|_| pace.pass(person).is_ok()).count();
        assert_eq!(taken("alice"), 20);
        assert_eq!(taken("bob"), 20, "what alice does is not counted as bob's");
        clock.advance(Duration::from_secs(3));
        assert_eq!(taken("alice"), 6);
        match pace.pass("alice") {
            Err(Refusal::TooOften { per_second: 2, wait }) => assert_eq!(wait, Duration::from_secs(1)),
            other => panic!("{other:?}"),
        }
        clock.advance(Duration::from_secs(3600));
        assert_eq!(taken("alice"), 20, "and no more for having waited long");
    }

    #[test]
    fn whoever_asks_no_more_is_forgotten() {
        let (pace, clock) = pace(2);
        for n in 0..FORGET - 1 {
            pace.pass(&format!("user-{n}")).expect("the first call");
        }
        clock.advance(Duration::from_secs(60));
        pace.pass("alice").expect("the first call");
        assert_eq!(pace.limiter.len(), 1);
    }

    #[test]
    fn no_limit_is_none() {
        assert!(Pace::new(0).is_none());
    }
}
