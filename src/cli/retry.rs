//! When a transfer is tried again: after each failure a little later, and anew after each piece of progress.

use std::time::Duration;

/// Failures in a row after which it is given up.
const LIMIT: u32 = 5;

/// Half of the first pause; tests have no reason to wait.
const UNIT: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 250 });

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    failures: u32,
}

impl Retry {
    /// Something got through: the next failure is a first one again.
    pub(crate) const fn progressed(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after one more failure; `None`: give up.
    pub(crate) fn pause(&mut self) -> Option<Duration> {
        self.failures += 1;
        (self.failures < LIMIT).then(|| UNIT * (1 << self.failures))
    }
}

#[cfg(test)]
mod tests {
    use super::{Retry, UNIT};

    #[test]
    fn pauses_double_end_and_begin_anew_after_progress() {
        let mut retry = Retry::default();
        let pauses: Vec<_> = std::iter::from_fn(|| retry.pause()).collect();
        assert_eq!(pauses, [2, 4, 8, 16].map(|n| UNIT * n));
        retry.progressed();
        assert_eq!(retry.pause(), Some(UNIT * 2));
    }
}
