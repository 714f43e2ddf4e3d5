//! Conditions: their types, and how one is set without moving its clock for nothing.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Longest message, in bytes: what the schemas of our kinds take. A longer one would be refused together with the whole
/// status.
pub const MESSAGE_MAX: usize = 1024;

/// From so many bytes on a text that is cut is a sentence.
const SENTENCE: usize = 128;

/// AsyncTask: the run was checked against its revision and pinned to it.
pub const ACCEPTED: &str = "Accepted";
/// AsyncTask: True in every terminal state, whatever it is.
pub const FINISHED: &str = "Finished";
/// AsyncTask: Unknown until the run ends, then whether it gave its result.
pub const SUCCEEDED: &str = "Succeeded";
/// AsyncTask: the outputs can be fetched.
pub const OUTPUTS_READY: &str = "OutputsReady";
/// AsyncTask: somebody asked for the end of the run; with reason [`NOT_NOW`] while that cannot be, and what it waits for.
pub const CANCEL_REQUESTED: &str = "CancelRequested";
/// Reason of [`CANCEL_REQUESTED`] while the run goes on all the same.
pub const NOT_NOW: &str = "NotNow";
/// kstatus: True until the object has reached what was asked.
pub const RECONCILING: &str = "Reconciling";
/// kstatus: True when it cannot go on without help.
pub const STALLED: &str = "Stalled";
/// TaskDefinition, OutputStore: usable.
pub const READY: &str = "Ready";
/// OutputStore: a signed request is good for nothing but what it was signed for.
pub const LIMITS_KEPT: &str = "LimitsKept";
/// TaskDefinition: every image is named by digest.
pub const IMAGES_PINNED: &str = "ImagesPinned";

/// What a condition says, before it has a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Type of the condition.
    pub kind: &'static str,
    /// `Some(true)` is True, `Some(false)` False, `None` Unknown.
    pub holds: Option<bool>,
    /// CamelCase word for programs.
    pub reason: String,
    /// Sentence for people.
    pub message: String,
}

impl Claim {
    /// A claim with its reason and sentence.
    pub fn new(kind: &'static str, holds: Option<bool>, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, holds, reason: reason.into(), message: cut(&message.into(), MESSAGE_MAX) }
    }

    /// The condition, keeping `lastTransitionTime` of `before` unless the status flipped.
    pub fn on(&self, before: &[Condition], generation: Option<i64>, now: Timestamp) -> Condition {
        let status = match self.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let since = before
            .iter()
            .find(|c| c.type_ == self.kind && c.status == status)
            .map_or(Time(now), |c| c.last_transition_time.clone());
        Condition {
            type_: self.kind.to_owned(),
            status: status.to_owned(),
            reason: self.reason.clone(),
            message: self.message.clone(),
            last_transition_time: since,
            observed_generation: generation,
        }
    }
}

/// Whether a list holds a condition with status True.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|c| c.type_ == kind && c.status == "True")
}

/// Cuts a text to at most `max` bytes at character boundaries and marks the cut. Of a sentence both ends stay: it begins
/// with what was tried, and the cause is its last word. Of a word, of less than [`SENTENCE`] bytes, the beginning stays.
pub fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let room = max.saturating_sub('…'.len_utf8());
    let tail = if max < SENTENCE { 0 } else { room / 2 };
    let head = text.floor_char_boundary(room - tail);
    let tail = text.ceil_char_boundary(text.len() - tail);
    format!("{}…{}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::{Claim, READY, SENTENCE, cut};
    use k8s_openapi::jiff::Timestamp;

    #[test]
    fn the_clock_of_a_condition_moves_only_when_its_status_flips() {
        let early = Timestamp::from_second(100).expect("in range");
        let late = Timestamp::from_second(200).expect("in range");
        let ready = Claim::new(READY, Some(true), "Probed", "works").on(&[], Some(1), early);
        let same =
            Claim::new(READY, Some(true), "Again", "still works").on(std::slice::from_ref(&ready), Some(2), late);
        assert_eq!(same.last_transition_time.0, early);
        let flipped = Claim::new(READY, Some(false), "Down", "gone").on(&[ready], Some(2), late);
        assert_eq!(flipped.last_transition_time.0, late);
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("äöüäöü", 8), "äö…");
        for max in SENTENCE..SENTENCE + 8 {
            let text = cut(&"äöü".repeat(60), max);
            assert!(text.len() <= max && text.len() + 6 > max, "{max}: {}", text.len());
        }
    }

    #[test]
    fn a_long_sentence_keeps_its_cause() {
        let message = format!("failed to pull image {:?}: failed to resolve reference: not found", "x/".repeat(200));
        let said = cut(&message, 256);
        assert!(
            said.starts_with("failed to pull image") && said.ends_with("failed to resolve reference: not found"),
            "{said}"
        );
        assert!(said.len() <= 256, "{}", said.len());
    }
}
