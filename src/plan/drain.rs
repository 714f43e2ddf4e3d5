//! What becomes of the revisions of a definition: one is current, others drain until nothing runs on them, and of the
//! retired ones only the newest are kept.

use asynctask_api::condition::cut;
use asynctask_api::state::{RevisionState, TaskState};

/// Longest text of `status.draining`, in bytes.
const MAX_WORDS: usize = 100;

/// A revision, and whether runs that are not over are pinned to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionFact {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Number within its definition.
    pub number: i64,
    /// State as it is recorded.
    pub state: Option<RevisionState>,
    /// Whether a run that is not over is pinned to it.
    pub busy: bool,
}

/// What is to be recorded and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// Names of revisions and the state that is not recorded yet.
    pub states: Vec<(String, RevisionState)>,
    /// Revisions that go, the oldest first.
    pub goes: Vec<RevisionFact>,
    /// Numbers of those that drain, for a column.
    pub draining: Option<String>,
}

/// `current` is the name of the revision that new runs are pinned to; none is once the definition is being deleted.
/// `kept` is how many retired revisions stay. Only what was retired before goes: whoever was about to be pinned to it
/// has had the time to show.
#[must_use]
pub fn plan(current: Option<&str>, mut revisions: Vec<RevisionFact>, kept: usize) -> Drain {
    revisions.sort_by_key(|revision| revision.number);
    let state = |revision: &RevisionFact| match revision {
        current_one if Some(current_one.name.as_str()) == current => RevisionState::Current,
        RevisionFact { busy: true, .. } => RevisionState::Draining,
        _ => RevisionState::Retired,
    };
    let news = |revision: &RevisionFact| {
        let state = state(revision);
        (revision.state != Some(state)).then(|| (revision.name.clone(), state))
    };
    let states = revisions.iter().filter_map(news).collect();
    let numbers: Vec<String> = revisions
        .iter()
        .filter(|revision| state(revision) == RevisionState::Draining)
        .map(|revision| revision.number.to_string())
        .collect();
    let draining = (!numbers.is_empty()).then(|| cut(&numbers.join(", "), MAX_WORDS));
    revisions.retain(|revision| state(revision) == RevisionState::Retired);
    revisions.truncate(revisions.len().saturating_sub(kept));
    revisions.retain(|revision| revision.state == Some(RevisionState::Retired));
    Drain { states, goes: revisions, draining }
}

/// Field selector of the runs that are pinned to a revision and are not over.
#[must_use]
pub fn runs_on(revision: &str) -> String {
    format!("status.revision.name={revision},{}", not_over())
}

/// Field selector of the runs of a definition that are pinned to some revision and are not over.
#[must_use]
pub fn runs_of(definition: &str) -> String {
    format!("spec.definition.name={definition},status.revision.name!=,{}", not_over())
}

fn not_over() -> String {
    let terminal = TaskState::ALL.into_iter().filter(|state| state.is_terminal());
    terminal.map(|state| format!("status.state!={state}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::{Drain, RevisionFact, RevisionState, plan, runs_of, runs_on};
    use RevisionState::{Current, Draining, Retired};

    fn revision(number: i64, state: impl Into<Option<RevisionState>>, busy: bool) -> RevisionFact {
        RevisionFact { name: format!("r{number}"), uid: format!("u{number}"), number, state: state.into(), busy }
    }

    fn states(drain: &Drain) -> Vec<(&str, RevisionState)> {
        drain.states.iter().map(|(name, state)| (name.as_str(), *state)).collect()
    }

    #[test]
    fn a_new_revision_lets_the_busy_ones_drain_and_retires_the_idle_ones() {
        let drain = plan(
            Some("r3"),
            vec![revision(3, None, false), revision(2, Current, true), revision(1, Draining, false)],
            5,
        );
        assert_eq!(states(&drain), [("r1", Retired), ("r2", Draining), ("r3", Current)]);
        assert_eq!((drain.draining.as_deref(), drain.goes), (Some("2"), vec![]));
    }

    #[test]
    fn what_is_recorded_is_no_news() {
        let before = vec![revision(1, Retired, false), revision(2, Draining, true), revision(3, Current, true)];
        assert_eq!(plan(Some("r3"), before, 5), Drain { draining: Some("2".to_owned()), ..Drain::default() });
    }

    #[test]
    fn a_run_may_wake_a_retired_revision_and_an_old_one_may_be_current_again() {
        let drain = plan(
            Some("r1"),
            vec![revision(1, Retired, false), revision(2, Retired, true), revision(3, Current, true)],
            5,
        );
        assert_eq!(states(&drain), [("r1", Current), ("r2", Draining), ("r3", Draining)]);
        assert_eq!(drain.draining.as_deref(), Some("2, 3"));
    }

    #[test]
    fn of_a_definition_that_is_deleted_no_revision_is_current() {
        let drain = plan(None, vec![revision(1, Draining, false), revision(2, Current, true)], usize::MAX);
        assert_eq!(states(&drain), [("r1", Retired), ("r2", Draining)]);
        assert_eq!(drain.draining.as_deref(), Some("2"));
        let drain = plan(None, vec![revision(1, Retired, false), revision(2, Draining, false)], usize::MAX);
        assert_eq!(states(&drain), [("r2", Retired)]);
        assert_eq!((drain.draining, drain.goes), (None, vec![]));
    }

    #[test]
    fn the_oldest_retired_ones_go_once_they_were_recorded_as_retired() {
        let mut revisions: Vec<RevisionFact> = (1..=5).map(|number| revision(number, Retired, false)).collect();
        revisions.push(revision(6, Current, false));
        let gone = |revisions: &[RevisionFact], kept| -> Vec<i64> {
            plan(Some("r6"), revisions.to_vec(), kept).goes.iter().map(|revision| revision.number).collect()
        };
        assert_eq!(gone(&revisions, 5), Vec::<i64>::new());
        assert_eq!(gone(&revisions, 2), [1, 2, 3]);
        revisions[0].busy = true;
        assert_eq!(gone(&revisions, 2), [2, 3], "what drains neither goes nor takes a place");
        revisions[1].state = Some(Draining);
        assert_eq!(gone(&revisions, 2), [3], "retired only now: it goes the next time");
    }

    #[test]
    fn runs_that_are_not_over_are_asked_for_by_field() {
        let open = "status.state!=Complete,status.state!=PartiallyComplete,status.state!=Failed,status.state!=Canceled";
        assert_eq!(runs_on("a-1"), format!("status.revision.name=a-1,{open}"));
        assert_eq!(runs_of("a"), format!("spec.definition.name=a,status.revision.name!=,{open}"));
    }
}
