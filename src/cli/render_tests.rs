use super::{View, line, live, status};
use crate::golden;
use crate::words::Paint;
use asynctask_api::AsyncTask;

fn task(yaml: &str) -> AsyncTask {
    serde_yaml_ng::from_str(yaml).expect("an AsyncTask")
}

fn view(on: bool) -> View {
    View { now: "2026-11-24T08:02:30Z".parse().expect("a time"), paint: Paint { on } }
}

macro_rules! golden {
    ($name:ident) => {
        #[test]
        fn $name() {
            let task = task(include_str!(concat!("golden/", stringify!($name), ".yaml")));
            let page = format!("{}\n---\n{}", status(&task, view(false)), line(&task));
            golden::check(concat!(stringify!($name), ".txt"), &(page + "\n"));
            let coloured = status(&task, view(true));
            let plain = console::strip_ansi_codes(&coloured);
            assert_eq!(plain, status(&task, view(false)), "colours add nothing but colour");
        }
    };
}

golden!(pending);
golden!(running);
golden!(complete);
golden!(failed);
// A diamond with one alternative and one cleanup.
golden!(tree_before);
golden!(tree_during);
golden!(tree_complete);
golden!(tree_failed);
golden!(tree_canceled);
golden!(tree_refused);
golden!(tree_stuck);
// A planner, a fan-out with an appended output, and a summary.
golden!(shards_before);
golden!(shards_during);
golden!(shards_partial);
golden!(shards_failed);
golden!(shards_retry);

#[test]
fn a_task_nobody_looked_at_yet_is_pending_in_words() {
    let mut task = task(include_str!("golden/pending.yaml"));
    task.status = None;
    assert!(status(&task, view(false)).contains("· Pending  The operator has not looked at it yet"));
    assert_eq!(line(&task), "Pending");
}

#[test]
fn the_live_page_is_name_state_and_plan() {
    let task = task(include_str!("golden/running.yaml"));
    let page = live(&task, view(false));
    assert!(page.starts_with("outline-1  ▶ InProgress"), "{page}");
    assert!(page.contains("stage 2 of 3: Walking, 40/58 blocks"), "{page}");
    assert!(!page.contains("Transitions"), "{page}");
}

#[test]
fn nothing_a_program_says_can_steer_the_terminal() {
    let page = status(&task(include_str!("golden/running.yaml")), view(false));
    assert!(!page.contains('\x1b'), "{page}");
}

#[test]
fn bytes_are_told_in_units_people_read() {
    let mut task = task(include_str!("golden/running.yaml"));
    let step = &mut task.status.as_mut().expect("a status").steps[0];
    let progress = step.progress.as_mut().expect("a progress");
    (progress.done, progress.total, progress.unit) = (Some(9818), Some(16_113_265), Some("bytes".into()));
    assert!(line(&task).ends_with("(stage 2 of 3: Walking, 9.59 KiB/15.37 MiB)"), "{}", line(&task));
}
