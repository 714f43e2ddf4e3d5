//! No event ever comes: a run is looked at again all the same, until it is over, and one that is over costs nothing.

use super::*;

/// No run that is under way rests for longer.
const LONGEST: Duration = Duration::from_secs(75);

impl World {
    /// A look that must be followed by another one soon, but if the run is over.
    async fn looks_again(&self, when: &str) {
        let next = self.look().await.expect("no fault");
        let soon = matches!(next, Next::LookAgain(after) if after <= LONGEST) || next == Next::TryAgain;
        let over = self.task().status.and_then(|status| status.state).is_some_and(TaskState::is_terminal);
        assert!(soon != over, "{when}: {next:?}");
    }

    /// The watch shows that the Jobs are gone.
    fn jobs_go(&mut self) {
        for job in self.controller.caches.jobs.state() {
            self.show_job(&watcher::Event::Delete(job.as_ref().clone()));
        }
    }
}

#[tokio::test]
async fn a_run_is_looked_at_again_in_whatever_state_it_is_until_it_is_over() {
    let mut world = world_of(&json!([{"name": "run", "timeout": "2h", "template": template()}]));
    world.looks_again("admitted").await;
    world.looks_again("its Job was never shown").await;
    world.job_is(&json!({"active": 1, "ready": 0}));
    world.looks_again("its pod is not ready").await;
    world.job_is(&json!({"active": 1, "ready": 1}));
    world.looks_again("its pod is ready").await;
    world.server.change(TASK, |task| task["spec"]["suspend"] = json!(true));
    world.looks_again("held").await;
    world.server.change(TASK, |task| task["spec"]["suspend"] = json!(false));
    world.looks_again("let go on").await;

    world.server.change(TASK, |task| task["spec"]["cancel"] = json!(true));
    world.looks_again("cancelled").await;
    world.looks_again("its pods are to end").await;
    world.jobs_go();
    world.looks_again("they have").await;
    assert_eq!(world.state().0, "Canceled");
    assert_eq!(world.look().await.expect("nothing to do"), Next::Rest);
    world.delete();
    let next = world.look().await.expect("its Jobs go first");
    assert!(matches!(next, Next::LookAgain(after) if after <= LONGEST), "{next:?}");
    assert_eq!(world.look().await.expect("let go"), Next::Rest);
}

#[tokio::test]
async fn a_look_at_a_run_under_way_and_one_at_a_run_that_is_over_ask_the_api_server_for_nothing() {
    let mut world = world();
    world.look().await.expect("admitted");
    world.job_is(&json!({"active": 1, "ready": 1}));
    let asked = |world: &World| (world.server.reads(), world.server.writes().len());
    let before = asked(&world);
    world.looks_again("its pod is ready").await;
    assert_eq!(asked(&world), before);

    world.commit(POD).await;
    world.job_ends("Complete");
    world.look().await.expect("sealed");
    let before = asked(&world);
    assert_eq!(world.look().await.expect("nothing to do"), Next::Rest);
    assert_eq!(asked(&world), before);
}
