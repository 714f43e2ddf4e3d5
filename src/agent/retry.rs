//! Whether a call is made again, and after how long: decided here and nowhere else, without a clock or a socket.
//!
//! There is no limit in time. A peer that is away is waited for until somebody stops the attempt: the step's timeout
//! is the pod's own deadline, and [`crate::run`] ends the wait after SIGTERM.

use std::time::Duration;

/// Refusals that may heal (a token being rotated, a URL that ran out) are tried this often in a row.
const REFUSALS: u32 = 5;
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(15);
/// A peer may ask for more patience than our own ceiling, within reason.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// Who was called: the same status means different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Gateway,
    /// A store, with a signed URL.
    Store,
}

/// How a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No answer: refused, timed out, broken off, or not trusted.
    Unreachable,
    /// An answer that is no success.
    Status { code: u16, retry_after: Option<Duration> },
    /// Our own side failed.
    Local,
    /// A file that is sent changed meanwhile, or cannot be read.
    File,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Again after this long.
    Again(Duration),
    /// It will not get better.
    Stop,
}

/// The failures in a row of one piece of work.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tries {
    total: u32,
    refusals: u32,
}

enum Class {
    Away,
    Refused,
    Final,
}

fn class(peer: Peer, kind: Kind) -> Class {
    let code = match kind {
        Kind::Unreachable => return Class::Away,
        Kind::Local | Kind::File => return Class::Final,
        Kind::Status { code, .. } => code,
    };
    match (peer, code) {
        (_, 408 | 425 | 429) => Class::Away,
        // "Not implemented" and "HTTP version not supported" are no passing weakness.
        (_, 501 | 505) => Class::Final,
        (_, 500..) => Class::Away,
        // The token file is read anew on each call: a token that has just run out is replaced.
        (Peer::Gateway, 401) => Class::Refused,
        // A signed URL that ran out says 403 (some stores 400 or 401); S3 says 409 while another write is on its way.
        (Peer::Store, 400 | 401 | 403 | 409) => Class::Refused,
        (Peer::Gateway | Peer::Store, _) => Class::Final,
    }
}

impl Tries {
    /// Counts one more failure. `jitter` is from 0 to 1: many pods that lost the same gateway must not come back at once.
    pub(crate) fn after(&mut self, peer: Peer, kind: Kind, jitter: f64) -> Decision {
        self.total = self.total.saturating_add(1);
        match class(peer, kind) {
            Class::Away => {}
            Class::Final => return Decision::Stop,
            Class::Refused => {
                self.refusals += 1;
                if self.refusals >= REFUSALS {
                    return Decision::Stop;
                }
            }
        }
        if let Kind::Status { retry_after: Some(asked), .. } = kind {
            return Decision::Again(asked.min(LONGEST_ASKED));
        }
        let full = FIRST.saturating_mul(1 << (self.total - 1).min(10)).min(LONGEST);
        Decision::Again(full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> Kind {
        Kind::Status { code, retry_after: None }
    }

    /// How many tries in a row are made of a call that always fails the same way (1,000: without end).
    fn tries(peer: Peer, kind: Kind) -> usize {
        let mut tries = Tries::default();
        (1..1000).find(|_| tries.after(peer, kind, 0.5) == Decision::Stop).unwrap_or(1000)
    }

    #[test]
    fn the_table() {
        let endless = 1000;
        for (peer, kind, expected) in [
            (Peer::Gateway, Kind::Unreachable, endless),
            (Peer::Store, Kind::Unreachable, endless),
            (Peer::Gateway, status(429), endless),
            (Peer::Gateway, status(408), endless),
            (Peer::Gateway, status(500), endless),
            (Peer::Gateway, status(503), endless),
            (Peer::Store, status(500), endless),
            (Peer::Store, status(503), endless),
            (Peer::Gateway, status(501), 1),
            (Peer::Gateway, status(302), 1),
            (Peer::Gateway, status(400), 1),
            (Peer::Gateway, status(401), 5),
            (Peer::Gateway, status(403), 1),
            (Peer::Gateway, status(404), 1),
            (Peer::Gateway, status(409), 1),
            (Peer::Gateway, status(410), 1),
            (Peer::Gateway, status(422), 1),
            (Peer::Store, status(307), 1),
            (Peer::Store, status(400), 5),
            (Peer::Store, status(401), 5),
            (Peer::Store, status(403), 5),
            (Peer::Store, status(404), 1),
            (Peer::Store, status(409), 5),
            (Peer::Store, status(413), 1),
            (Peer::Gateway, Kind::Local, 1),
            (Peer::Store, Kind::Local, 1),
        ] {
            assert_eq!(tries(peer, kind), expected, "{peer:?} {kind:?}");
        }
    }

    #[test]
    fn waits_grow_to_a_ceiling_and_never_beyond() {
        let waits = |jitter| {
            let mut tries = Tries::default();
            (0..40)
                .map(|_| match tries.after(Peer::Gateway, Kind::Unreachable, jitter) {
                    Decision::Again(wait) => wait.as_millis(),
                    Decision::Stop => unreachable!(),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(waits(1.0)[..8], [200, 400, 800, 1600, 3200, 6400, 12800, 15000]);
        assert_eq!(waits(0.0)[..3], [100, 200, 400]);
        assert_eq!(waits(1.0)[39], 15000);
    }

    #[test]
    fn the_peers_own_wish_counts_within_reason() {
        let asked = |secs| Kind::Status { code: 429, retry_after: Some(Duration::from_secs(secs)) };
        assert_eq!(Tries::default().after(Peer::Gateway, asked(7), 0.0), Decision::Again(Duration::from_secs(7)));
        assert_eq!(Tries::default().after(Peer::Gateway, asked(9000), 0.0), Decision::Again(Duration::from_secs(60)));
    }

    #[test]
    fn an_outage_before_it_does_not_use_up_the_patience_for_a_refusal() {
        let mut tries = Tries::default();
        for _ in 0..50 {
            tries.after(Peer::Gateway, status(503), 0.5);
        }
        assert!(matches!(tries.after(Peer::Gateway, status(401), 0.5), Decision::Again(_)));
    }
}
