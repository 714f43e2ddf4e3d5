//! A step of many pods on one line, and what failed in it below. The numbers are the status's own.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::words::{Paint, clean, grouped, remaining};
use asynctask_api::state::StepState;
use asynctask_api::task::{
    AsyncTaskStatus, FailureCount, ItemsStatus, PlannedFanOut, PlannedStep, ShardsStatus, StepStatus,
};

/// Below this many shards that have ended, or this many seconds, a speed is chance.
const TELLING: (i64, i64) = (5, 20);
/// Most characters of the list of failed shards; `shards --failed` shows them all.
const INDEXES: usize = 60;

/// `✔ 812  ● 20  ✖ 3 of 1,000 shards, 405,100 items, about 4 min left`; without `now` nothing that changes by itself.
pub(crate) fn line(
    known: &AsyncTaskStatus,
    planned: &PlannedStep,
    step: &StepStatus,
    now: Option<Timestamp>,
) -> Option<String> {
    let fan_out = planned.fan_out.as_ref()?;
    let state = step.state.unwrap_or(StepState::Waiting);
    let emitted = items(known, fan_out);
    let (Some(shards), true) = (&step.shards, state != StepState::Waiting) else {
        return Some(ahead(fan_out, step, emitted)).filter(|_| !state.is_over());
    };
    let mut line = counts(shards);
    if let Some(items) = &step.items {
        let _ = write!(line, ", {}", sum(items));
    } else if let Some(items) = emitted {
        let _ = write!(line, ", {}", number(items, "item"));
    }
    if let Some(left) = now.and_then(|now| left(shards, step, now)).filter(|_| state == StepState::Running) {
        let _ = write!(line, ", about {} left", remaining(left));
    }
    Some(line)
}

/// What failed: equal failures on one line, then the numbers of the shards.
pub(crate) fn failures(step: &StepStatus, paint: Paint) -> String {
    let mut text = String::new();
    for failure in &step.failures {
        let _ = writeln!(text, "{}", failed(failure, paint));
    }
    let indexes = step.shards.as_ref().and_then(|shards| shards.failed_indexes.as_deref());
    if let Some(indexes) = indexes.filter(|indexes| !indexes.is_empty()) {
        let _ = writeln!(text, "{}", paint.dim(&format!("failed shards: {}", short(&clean(indexes)))));
    }
    text
}

/// `43 shards: InvalidEmail – no @ in the address`
pub(crate) fn failed(failure: &FailureCount, paint: Paint) -> String {
    let counts = [failure.shards.map(|n| number(n, "shard")), failure.items.map(|n| number(n, "item"))];
    let counts: Vec<_> = counts.into_iter().flatten().collect();
    let message = if failure.message.is_empty() { String::new() } else { format!(" – {}", clean(&failure.message)) };
    format!("{}: {}{message}", counts.join(" and "), paint.red(&clean(&failure.code)))
}

/// `1 shard`, `43 shards`
pub(crate) fn number(count: i64, one: &str) -> String {
    format!("{} {one}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// What there is to do, before it begins.
fn ahead(fan_out: &PlannedFanOut, step: &StepStatus, emitted: Option<i64>) -> String {
    let shards = step.shards.as_ref().map(|shards| shards.total).or(fan_out.shards);
    let work = match (shards, emitted, &fan_out.items_from) {
        (Some(shards), Some(items), _) => format!("{} of {}", number(shards, "shard"), number(items, "item")),
        (Some(shards), None, _) => number(shards, "shard"),
        (None, Some(items), _) => number(items, "item"),
        (None, None, Some(from)) => format!("over the items of {}", clean(from)),
        (None, None, None) => "as many shards as a parameter says".to_owned(),
    };
    format!("{work}, {} at a time", grouped(fan_out.parallelism))
}

fn counts(shards: &ShardsStatus) -> String {
    let mut line = format!("✔ {}", grouped(shards.succeeded));
    for (mark, count) in [("●", shards.active), ("✖", shards.failed)] {
        if count > 0 {
            let _ = write!(line, "  {mark} {}", grouped(count));
        }
    }
    let _ = write!(line, " of {}", number(shards.total, "shard"));
    line
}

fn sum(items: &ItemsStatus) -> String {
    let others = [(items.failed, "failed"), (items.skipped, "skipped")];
    let others = others.iter().filter(|(count, _)| *count > 0);
    let others: Vec<_> = others.map(|(count, word)| format!("{} {word}", grouped(*count))).collect();
    let others = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
    format!("{}{others}", number(items.attempted, "item"))
}

/// Items of the step it works on, once they are all known.
fn items(known: &AsyncTaskStatus, fan_out: &PlannedFanOut) -> Option<i64> {
    let from = fan_out.items_from.as_ref()?;
    let planner = known.steps.iter().find(|step| step.name == *from)?;
    planner.emitted.map(|emitted| emitted.items)
}

/// Seconds until its end at the speed so far. Of a step that went on from something earlier, that speed is not known.
fn left(shards: &ShardsStatus, step: &StepStatus, now: Timestamp) -> Option<i64> {
    let ended = shards.succeeded.saturating_add(shards.failed);
    let open = shards.total.saturating_sub(ended);
    let took = now.duration_since(step.start_time.as_ref()?.0).as_secs();
    let from_its_start = step.adopted.is_none() && step.attempt.unwrap_or(1) <= 1;
    let telling = ended >= TELLING.0 && took >= TELLING.1 && open > 0;
    (from_its_start && telling).then(|| i64::try_from(i128::from(took) * i128::from(open) / i128::from(ended)).ok())?
}

/// Cut at an interval's end.
fn short(indexes: &str) -> String {
    if indexes.chars().count() <= INDEXES {
        return indexes.to_owned();
    }
    let head: String = indexes.chars().take(INDEXES).collect();
    format!("{},…", head.rfind(',').map_or(head.as_str(), |end| &head[..end]))
}

#[cfg(test)]
mod tests {
    use super::{failures, line};
    use crate::words::Paint;
    use asynctask_api::task::{AsyncTaskStatus, PlannedStep, StepStatus};
    use serde_json::{Value, json};

    const NOW: &str = "2026-11-24T08:10:00Z";

    fn told(step: Value) -> Option<String> {
        let known = json!({"steps": [{"name": "plan", "emitted": {"shards": 1000, "items": 405_100}}]});
        let known: AsyncTaskStatus = serde_json::from_value(known).expect("a status");
        let planned = json!({"name": "send", "title": "", "fanOut": {"itemsFrom": "plan", "parallelism": 20}});
        let planned: PlannedStep = serde_json::from_value(planned).expect("a planned step");
        line(&known, &planned, &of(step), NOW.parse().ok())
    }

    fn of(mut step: Value) -> StepStatus {
        step["name"] = json!("send");
        serde_json::from_value(step).expect("a step")
    }

    fn running(succeeded: i64, started: &str) -> Value {
        let shards = json!({"total": 1000, "active": 20, "succeeded": succeeded, "failed": 0});
        json!({"state": "Running", "startTime": started, "shards": shards})
    }

    #[test]
    fn a_time_left_is_told_once_the_speed_means_something() {
        let early = "2026-11-24T08:00:00Z";
        assert!(told(running(500, early)).expect("a line").ends_with("about 10 min left"));
        for quiet in [running(4, early), running(500, "2026-11-24T08:09:45Z"), running(1000, early)] {
            let line = told(quiet).expect("a line");
            assert!(!line.contains("left"), "{line}");
        }
        let mut continued = running(500, early);
        continued["adopted"] = json!({"name": "mail-1", "uid": "u"});
        assert!(
            !told(continued).expect("a line").contains("left"),
            "the shards of another run have no part in the speed"
        );
        let mut again = running(500, early);
        again["attempt"] = json!(2);
        assert!(!told(again).expect("a line").contains("left"));
    }

    #[test]
    fn before_it_starts_the_work_is_told_as_far_as_it_is_known() {
        assert_eq!(told(json!({})).as_deref(), Some("405,100 items, 20 at a time"));
        let adopted = json!({"state": "Waiting", "shards": {"total": 1, "active": 0, "succeeded": 1, "failed": 0}});
        assert_eq!(told(adopted).as_deref(), Some("1 shard of 405,100 items, 20 at a time"));
        assert_eq!(told(json!({"state": "Skipped"})), None, "its message says why");
    }

    #[test]
    fn a_list_of_failed_shards_is_cut_between_two_of_them() {
        let many: Vec<String> = (0..100).map(|n| (n * 2).to_string()).collect();
        let shards =
            json!({"total": 200, "active": 0, "succeeded": 100, "failed": 100, "failedIndexes": many.join(",")});
        let text = failures(&of(json!({"shards": shards})), Paint { on: false });
        assert!(text.starts_with("failed shards: 0,2,4,") && text.ends_with(",38,40,…\n"), "{text}");
    }
}
