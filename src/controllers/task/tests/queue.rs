//! Places in the queue, and runs that are not there any more.

use std::time::Instant;

use super::*;

const SECOND: &str = "/apis/asynctask.dev/v1alpha1/namespaces/studio/asynctasks/b";

#[tokio::test]
async fn the_place_of_a_run_whose_object_is_gone_unseen_goes_to_the_next_one() {
    let mut world = world();
    let (wake, mut woken) = mpsc::unbounded();
    let limits = Limits { overall: Some(1), per_namespace: None };
    let (client, tasks) = (world.server.client(), world.controller.caches.tasks.clone());
    world.controller.queue = Queue::new(client, limits, tasks, wake);
    world.look().await.expect("admitted");
    assert_eq!(world.state(), ("InProgress".into(), "Running".into()));
    let second = new_task("b", "1b2c3d4e-0000-4000-8000-000000000000");
    world.server.put(SECOND, second.clone());
    let read =
        |world: &World| serde_json::from_value::<AsyncTask>(world.server.get(SECOND).expect("b")).expect("a task");
    world.look_at(read(&world)).await.expect("queued");
    assert_eq!(read(&world).status.and_then(|status| status.reason).as_deref(), Some("Queued"));

    // Somebody took the finalizer of the first away and deleted it: the copies show the second one only.
    world.server.remove(TASK);
    let copy: Guarded = serde_json::from_value(second).expect("a task");
    world.show_task(&watcher::Event::Apply(copy));
    world.controller.queue.drop_vanished(Instant::now() + Duration::from_secs(60));

    assert_eq!(woken.try_recv().expect("woken").name, "b");
    world.look_at(read(&world)).await.expect("started");
    assert_eq!(
        read(&world).status.and_then(|status| status.state).map(|state| state.to_string()).as_deref(),
        Some("InProgress")
    );
}
