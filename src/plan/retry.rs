//! What follows a failed attempt of a step.

use std::ops::RangeInclusive;
use std::time::Duration;

use asynctask_api::definition::{FailureKind, RetryAction};
use asynctask_api::state::StepState;
use asynctask_api::task::StepStatus;

/// Failed attempts in a row that may go by without counting, where the definition does not say.
pub const UNCOUNTED: u32 = 20;
/// From so many on the run says that it is stalled: one or two are an ordinary day.
const STALLED: i32 = 3;

/// Exit codes: single ones and ranges. Empty: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Codes(Vec<RangeInclusive<i32>>);

impl Codes {
    /// Reads `"70"` and `"64-78"`.
    ///
    /// # Errors
    /// The text that is neither, or no code a program can end with.
    pub fn parse(texts: &[String]) -> Result<Self, String> {
        let number = |text: &str| text.parse::<i32>().ok().filter(|code| (1..=255).contains(code));
        let read = |text: &String| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => Ok(first..=last),
                _ => Err(format!("{text:?} is no exit code: write \"70\" or \"64-78\", from 1 to 255")),
            }
        };
        texts.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Whether any code is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As an author would write them.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        let text = |range: &RangeInclusive<i32>| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        self.0.iter().map(text).collect()
    }

    /// Whether every code of the other list is in this one.
    fn cover(&self, other: &Self) -> bool {
        self.is_empty() || (!other.is_empty() && other.0.iter().cloned().flatten().all(|code| self.hold(Some(code))))
    }

    /// Whether a code is one of them; with none named, every code is.
    #[must_use]
    pub fn hold(&self, code: Option<i32>) -> bool {
        self.is_empty() || code.is_some_and(|code| self.0.iter().any(|range| range.contains(&code)))
    }
}

/// What an author declared for the failures of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Attempts after the first that may be spent on failures that count.
    pub limit: u32,
    /// Failed attempts in a row that may go by without counting. There is no loop without an end.
    pub uncounted: u32,
    /// Time between attempts.
    pub backoff: Backoff,
    /// The first that matches decides.
    pub rules: Vec<Rule>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { limit: 0, uncounted: UNCOUNTED, backoff: Backoff::default(), rules: Vec::new() }
    }
}

/// Time between an attempt's end and the next one's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub initial: Duration,
    /// Each further one is so many times as long.
    pub factor: u32,
    /// The longest.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_secs(10), factor: 2, max: Duration::from_secs(300) }
    }
}

impl Backoff {
    /// After so many failed attempts; none after none.
    fn after(&self, failed: u32) -> Duration {
        let Some(doubled) = failed.checked_sub(1) else { return Duration::ZERO };
        self.initial.saturating_mul(self.factor.saturating_pow(doubled.min(32))).min(self.max)
    }
}

/// What follows failures of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Exit codes; empty: any.
    pub codes: Codes,
    /// Kinds; empty: any.
    pub reasons: Vec<FailureKind>,
    /// What follows.
    pub action: RetryAction,
}

impl Rule {
    /// Whether every failure that the other rule matches is matched by this one.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let kinds = self.reasons.is_empty()
            || (!other.reasons.is_empty() && other.reasons.iter().all(|kind| self.reasons.contains(kind)));
        kinds && self.codes.cover(&other.codes)
    }
}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One that an author's rules may judge.
    Of(FailureKind),
    /// Not the author's, for now: gateway, store, agent or fence. Never counts, and no rule is asked.
    Platform,
    /// Another attempt would end the same way: the command is not in the image, an output cannot be stored, an input is
    /// gone.
    Permanent,
}

/// A failed attempt, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Its kind.
    pub kind: Kind,
    /// The program's exit code, where there is one.
    pub exit_code: Option<i32>,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another attempt.
    Again {
        /// Time until it starts.
        after: Duration,
        /// Whether this failure counts against the limit.
        counts: bool,
    },
    /// The step has failed.
    Over {
        /// Whether running it again by hand may help; `None`: nobody knows.
        retriable: Option<bool>,
    },
    /// The step has failed: too many attempts in a row failed in a way that does not count.
    Exhausted {
        /// How many, this one included.
        attempts: u32,
    },
}

/// Failed attempts of a step before the one that is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// That counted.
    pub counted: u32,
    /// In a row, up to now, that did not.
    pub uncounted: u32,
}

impl Spent {
    /// By the status of the step.
    #[must_use]
    pub fn of(step: &StepStatus) -> Self {
        let number = |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
        Self { counted: number(step.counted), uncounted: number(step.uncounted) }
    }
}

/// Notes a failed attempt that is followed by another.
pub(super) fn count(step: &mut StepStatus, counts: bool) {
    let number = if counts { &mut step.counted } else { &mut step.uncounted };
    *number = Some(number.unwrap_or(0).saturating_add(1));
    if counts {
        step.uncounted = None;
    }
}

/// Whether attempt after attempt fails in a way that does not count: somebody should look.
pub(super) fn is_stalled(step: &StepStatus) -> bool {
    step.uncounted.is_some_and(|times| times >= STALLED) && !step.state.is_some_and(StepState::is_over)
}

/// What follows attempt number `attempt` (from 1), with so many spent before it.
#[must_use]
pub fn next(policy: &Policy, cause: Cause, spent: Spent, attempt: u32) -> Next {
    let after = policy.backoff.after(attempt);
    let action = match cause.kind {
        Kind::Platform => RetryAction::Ignore,
        Kind::Permanent => return Next::Over { retriable: Some(false) },
        Kind::Of(kind) => ruled(policy, kind, cause.exit_code),
    };
    match action {
        RetryAction::Fail => Next::Over { retriable: Some(false) },
        RetryAction::Ignore if spent.uncounted < policy.uncounted => {
            // What is in the way needs time to pass, whatever pace the author chose for his program.
            Next::Again { after: after.max(Backoff::default().after(spent.uncounted)), counts: false }
        }
        RetryAction::Ignore => Next::Exhausted { attempts: spent.uncounted.saturating_add(1) },
        RetryAction::Retry if spent.counted < policy.limit => Next::Again { after, counts: true },
        RetryAction::Retry => Next::Over { retriable: None },
    }
}

fn ruled(policy: &Policy, kind: FailureKind, code: Option<i32>) -> RetryAction {
    let matches = |rule: &&Rule| (rule.reasons.is_empty() || rule.reasons.contains(&kind)) && rule.codes.hold(code);
    let unsaid = if kind == FailureKind::Disruption { RetryAction::Ignore } else { RetryAction::Retry };
    policy.rules.iter().find(matches).map_or(unsaid, |rule| rule.action)
}

/// Whether an evicted pod is replaced within its attempt: no rule says that a disruption is to count or to fail.
#[must_use]
pub fn ignores_disruption(policy: &Policy) -> bool {
    ruled(policy, FailureKind::Disruption, None) == RetryAction::Ignore
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(codes: &[&str], reasons: &[FailureKind], action: RetryAction) -> Rule {
        let codes: Vec<String> = codes.iter().map(|code| (*code).to_owned()).collect();
        Rule { codes: Codes::parse(&codes).expect("codes"), reasons: reasons.to_vec(), action }
    }

    fn exit(code: i32) -> Cause {
        Cause { kind: Kind::Of(FailureKind::ExitCode), exit_code: Some(code) }
    }

    fn of(kind: FailureKind) -> Cause {
        Cause { kind: Kind::Of(kind), exit_code: None }
    }

    fn counted(counted: u32) -> Spent {
        Spent { counted, uncounted: 0 }
    }

    fn again(seconds: u64, counts: bool) -> Next {
        Next::Again { after: Duration::from_secs(seconds), counts }
    }

    #[test]
    fn without_a_policy_an_authors_failure_is_final_and_the_platforms_is_not() {
        let none = Policy::default();
        assert_eq!(next(&none, exit(1), Spent::default(), 1), Next::Over { retriable: None });
        assert_eq!(next(&none, of(FailureKind::Disruption), Spent::default(), 1), again(10, false));
        assert_eq!(
            next(&none, Cause { kind: Kind::Platform, exit_code: Some(240) }, Spent::default(), 1),
            again(10, false)
        );
        assert_eq!(
            next(&none, Cause { kind: Kind::Permanent, exit_code: Some(127) }, Spent::default(), 1),
            Next::Over { retriable: Some(false) }
        );
    }

    #[test]
    fn failures_are_retried_up_to_the_limit_with_growing_delays() {
        let policy = Policy { limit: 2, ..Policy::default() };
        assert_eq!(next(&policy, exit(1), counted(0), 1), again(10, true));
        assert_eq!(next(&policy, exit(1), counted(1), 2), again(20, true));
        assert_eq!(next(&policy, exit(1), counted(2), 3), Next::Over { retriable: None });
        // What does not count lets the delay grow all the same.
        assert_eq!(next(&policy, of(FailureKind::Disruption), counted(2), 90), again(300, false));
    }

    #[test]
    fn what_does_not_count_has_an_end_too_and_is_given_time() {
        let quick = Backoff { initial: Duration::from_secs(1), factor: 1, max: Duration::from_secs(1) };
        let policy = Policy { backoff: quick, uncounted: 3, ..Policy::default() };
        let ours = Cause { kind: Kind::Platform, exit_code: None };
        let spent = |uncounted| Spent { counted: 0, uncounted };
        let delays = [(0, 1), (1, 10), (2, 20)];
        for (uncounted, seconds) in delays {
            assert_eq!(next(&policy, ours, spent(uncounted), uncounted + 1), again(seconds, false));
        }
        assert_eq!(next(&policy, ours, spent(3), 4), Next::Exhausted { attempts: 4 });
        let mut step = StepStatus::default();
        for (counts, expected) in [(false, (0, 1)), (false, (0, 2)), (true, (1, 0)), (false, (1, 1)), (true, (2, 0))] {
            count(&mut step, counts);
            assert_eq!(Spent::of(&step), Spent { counted: expected.0, uncounted: expected.1 }, "in a row");
        }
    }

    proptest! {
        /// Whatever fails, and however the rules are: an end comes after so many attempts and so much time.
        #[test]
        fn every_sequence_of_failures_ends(
            kinds in proptest::collection::vec(0..10usize, 1..40),
            (limit, uncounted) in (0..4u32, 0..6u32),
            actions in proptest::collection::vec((0..10usize, 0..3usize), 0..4),
        ) {
            use FailureKind::{Disruption, ExitCode, ImagePull, Lost, OomKilled, OutputNotCommitted, StartTimeout, Timeout};
            let of = [Disruption, OomKilled, ImagePull, StartTimeout, Timeout, OutputNotCommitted, Lost, ExitCode];
            let kind = |index: usize| of.get(index).map_or(Kind::Platform, |kind| Kind::Of(*kind));
            let actions = actions.into_iter().filter_map(|(index, action)| {
                let action = [RetryAction::Fail, RetryAction::Retry, RetryAction::Ignore][action];
                Some(Rule { codes: Codes::default(), reasons: vec![*of.get(index)?], action })
            });
            let policy = Policy { limit, uncounted, rules: actions.collect(), ..Policy::default() };
            let (mut step, mut attempt, mut waited) = (StepStatus::default(), 1, Duration::ZERO);
            for kind in kinds.iter().cycle().map(|index| kind(*index)) {
                match next(&policy, Cause { kind, exit_code: None }, Spent::of(&step), attempt) {
                    Next::Again { after, counts } => {
                        count(&mut step, counts);
                        waited += after;
                    }
                    Next::Over { .. } | Next::Exhausted { .. } => break,
                }
                attempt += 1;
                prop_assert!(attempt <= (limit + 1) * (uncounted + 1) + 1, "attempt {attempt} of {policy:?}");
            }
            prop_assert!(waited <= policy.backoff.max * attempt, "{waited:?}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        use FailureKind::{Disruption, ExitCode, OomKilled};
        use RetryAction::{Fail, Ignore, Retry};
        let rules = vec![
            rule(&["64-78", "2"], &[], Fail),
            rule(&[], &[OomKilled], Fail),
            rule(&["70"], &[ExitCode], Ignore),
            rule(&[], &[Disruption], Retry),
        ];
        let policy = Policy { limit: 1, rules, ..Policy::default() };
        let over = Next::Over { retriable: Some(false) };
        for code in [2, 64, 70, 78] {
            assert_eq!(next(&policy, exit(code), counted(0), 1), over, "{code}");
        }
        assert_eq!(next(&policy, exit(79), counted(0), 1), again(10, true));
        assert_eq!(next(&policy, of(OomKilled), counted(0), 1), over);
        assert_eq!(next(&policy, of(Disruption), counted(0), 1), again(10, true));
        assert!(!ignores_disruption(&policy) && ignores_disruption(&Policy::default()));
        let no_code = Cause { kind: Kind::Of(FailureKind::Lost), exit_code: None };
        assert_eq!(
            next(&policy, no_code, counted(0), 1),
            again(10, true),
            "a rule for codes says nothing of an end without one"
        );
    }

    #[test]
    fn what_is_no_exit_code_is_refused() {
        for text in ["", "0", "256", "x", "78-64", "1-", "-1", "1-2-3"] {
            assert!(Codes::parse(&[text.to_owned()]).is_err(), "{text:?}");
        }
    }
}
