//! What a shard is given, and what a program says of single items.

use std::collections::BTreeMap;

use asynctask_contract::env::IDEMPOTENCY_KEY;
use asynctask_contract::wire::{Assignment, ItemCounts, OutputDeclaration, ShardWork};

use crate::world::{Ended, Fault, World, output, work};

fn failures() -> OutputDeclaration {
    OutputDeclaration { failed_items: true, media_type: Some("application/jsonl".into()), ..output("failures", "") }
}

impl Ended {
    /// attempted, failed, skipped, reasons
    fn counts(&self) -> (u64, u64, u64, Vec<(String, u64)>) {
        let ItemCounts { attempted, failed, skipped, reasons } = self.commit().items.expect("items are counted");
        (attempted, failed, skipped, reasons.into_iter().collect())
    }
}

#[tokio::test]
async fn a_shard_finds_its_items_its_number_and_its_key() {
    let mut world = World::new(
        r#"cat "$ASYNCTASK_ITEMS"; echo "$ASYNCTASK_SHARD of $ASYNCTASK_SHARDS: $ASYNCTASK_IDEMPOTENCY_KEY"
        "$ASYNCTASK_AGENT" stage Unpacking; "$ASYNCTASK_AGENT" progress 1 2"#,
    )
    .await;
    world.var(IDEMPOTENCY_KEY, "7f3c/send/0");
    world.give_items(41, 100, b"{\"id\":1}\n{\"id\":2}\n");
    let ended = world.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.stdout, "{\"id\":1}\n{\"id\":2}\n41 of 100: 7f3c/send/41\n");
    assert_eq!(ended.counts(), (2, 0, 0, vec![]));
    assert_eq!(ended.termination.stage.as_deref(), Some("Unpacking"), "of its own pod it is said");
    assert_eq!((ended.calls("/stage").len(), ended.calls("/progress").len()), (0, 0), "but not to the gateway");
}

#[tokio::test]
async fn a_shard_of_a_number_has_no_items() {
    let world = World::new(r#"echo "${ASYNCTASK_ITEMS-unset} $ASYNCTASK_SHARD of $ASYNCTASK_SHARDS""#).await;
    world.work(|work| work.shard = Some(ShardWork { number: 0, of: 52, items: None }));
    let ended = world.run().await;
    assert_eq!((ended.code, ended.stdout.as_str(), ended.commit().items), (0, "unset 0 of 52\n", None));
}

#[tokio::test]
async fn a_step_that_is_no_shard_knows_of_none() {
    let mut world =
        World::new(r#"echo "${ASYNCTASK_SHARD-unset} ${ASYNCTASK_SHARDS-unset} $ASYNCTASK_IDEMPOTENCY_KEY""#).await;
    world.var(IDEMPOTENCY_KEY, "7f3c/send/0");
    let ended = world.run().await;
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "unset unset 7f3c/send/0\n"));
}

#[tokio::test]
async fn items_that_are_not_those_that_were_stored_are_not_worked_on() {
    for (size, sha256) in [(4, "00".repeat(32)), (5, String::new()), (3, String::new())] {
        let world = World::new("echo started").await;
        world.give_items(0, 1, b"1\n2\n");
        world.work(|work| {
            let items = work.shard.as_mut().unwrap().items.as_mut().unwrap();
            (items.size, items.sha256) = (size, Some(sha256.clone()).filter(|sum| !sum.is_empty()));
        });
        let ended = world.run().await;
        let failure = ended.failure();
        assert_eq!((ended.code, failure.code.as_str(), ended.was_started()), (242, "InputInvalid", false));
        assert!(
            failure.message.contains("the list of this shard's items is not what was stored"),
            "{}",
            failure.message
        );
    }
}

#[tokio::test]
async fn an_address_of_items_that_ran_out_is_asked_for_anew() {
    let world = World::new(r#"cat "$ASYNCTASK_ITEMS""#).await;
    world.give_items(0, 1, b"1\n2\n");
    world.fail("GET store plan/items", 2, &Fault::Status(403));
    world.fail("GET store plan/items", 1, &Fault::Half);
    let ended = world.run().await;
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "1\n2\n"), "{}", ended.stderr);
    assert_eq!(ended.calls("/assignment").len(), 3);
}

#[tokio::test]
async fn a_shard_whose_items_are_elsewhere_meanwhile_does_not_start() {
    let world = World::new("echo started").await;
    world.give_items(0, 1, b"1\n2\n");
    world.fail("GET store plan/items", 1, &Fault::Status(403));
    world.shared.lock().assignments.push_back(Assignment::Run(Box::new(work())));
    let ended = world.run().await;
    assert_eq!((ended.code, ended.was_started()), (244, false), "{}", ended.stderr);
}

#[tokio::test]
async fn failed_and_skipped_items_are_counted_shown_and_kept() {
    let world = World::new(
        r#""$ASYNCTASK_AGENT" item-failed '{"z":1.0, "a":12345678901234567890123}' --reason InvalidEmail
        "$ASYNCTASK_AGENT" item-failed 2
        echo '{"type":"item-failed","item":{"id":3},"reason":"InvalidEmail"}' > "$ASYNCTASK_PROGRESS"
        echo '{"type":"item-failed","item":4,"reason":"no word"}' > "$ASYNCTASK_PROGRESS"
        "$ASYNCTASK_AGENT" skip; "$ASYNCTASK_AGENT" skip 2
        echo '{"type":"skip","count":3}' > "$ASYNCTASK_PROGRESS"
        echo report > "$ASYNCTASK_OUTPUTS/report""#,
    )
    .await;
    world.give_items(7, 9, "1\n".repeat(20).as_bytes());
    world.work(|work| work.outputs = vec![output("report", "report"), failures()]);
    let ended = world.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.counts(), (20, 4, 6, vec![("InvalidEmail".into(), 2), ("Other".into(), 2)]));

    let kept = "{\"z\":1.0, \"a\":12345678901234567890123}\n2\n{\"id\":3}\n4\n";
    assert_eq!(ended.stored("failures/0"), kept, "each as it was given");
    let files = ended.commit().files;
    let file = files.iter().find(|file| file.output == "failures").unwrap();
    assert_eq!((file.path.as_str(), file.seq, file.size), ("failures.jsonl", 0, kept.len() as u64));
    assert!(files.iter().any(|file| file.output == "report"), "{files:?}");

    let shown = "asynctask-agent: item failed (InvalidEmail): {\"z\":1.0, \"a\":12345678901234567890123}\n";
    assert!(ended.stderr.contains(shown) && ended.stored("log/0").contains(shown), "{}", ended.stderr);
    assert!(ended.stderr.contains("item failed (Other): 2\n"), "{}", ended.stderr);
    assert!(ended.stderr.contains("the reason \"no word\" of a failed item is no word"), "{}", ended.stderr);
}

#[tokio::test]
async fn without_a_failed_item_there_is_no_file_of_them() {
    let world = World::new("true").await;
    world.give_items(0, 1, b"1\n2\n");
    world.work(|work| work.outputs = vec![failures()]);
    let ended = world.run().await;
    assert_eq!((ended.code, ended.commit().files, ended.counts()), (0, vec![], (2, 0, 0, vec![])), "{}", ended.stderr);
}

#[tokio::test]
async fn a_step_without_a_fan_out_may_speak_of_items_too() {
    let world = World::new(
        r#""$ASYNCTASK_AGENT" item-failed '"page 3"' --reason Unreadable; "$ASYNCTASK_AGENT" skip 4
        "$ASYNCTASK_AGENT" progress 8"#,
    )
    .await;
    world.work(|work| work.outputs = vec![failures()]);
    let ended = world.run().await;
    assert_eq!(ended.counts(), (5, 1, 4, vec![("Unreadable".into(), 1)]), "{}", ended.stderr);
    assert_eq!(ended.stored("failures/0"), "\"page 3\"\n");
    assert_eq!(ended.calls("/progress").len(), 1, "it is one pod, and shown");
}

#[tokio::test]
async fn of_ten_thousand_failed_items_a_hundred_are_shown_and_all_are_kept() {
    let world =
        World::new(r#"seq -f '{"type":"item-failed","item":%.0f,"reason":"Bounced"}' 10000 > "$ASYNCTASK_PROGRESS""#)
            .await;
    world.work(|work| work.outputs = vec![failures()]);
    let ended = world.run().await;
    assert_eq!(ended.counts(), (10_000, 10_000, 0, vec![("Bounced".into(), 10_000)]), "{}", ended.stderr);
    assert_eq!(ended.stored("failures/0"), (1..=10_000).map(|id| format!("{id}\n")).collect::<String>());
    assert_eq!(ended.stderr.lines().filter(|line| line.contains("item failed (Bounced)")).count(), 100);
    assert!(ended.stderr.contains("further failed items are counted, but not shown here"), "{}", ended.stderr);
}

#[tokio::test]
async fn of_many_reasons_the_rest_is_other() {
    let script = r#"for reason in A A B B C C D D E E F F G G H I J; do
        "$ASYNCTASK_AGENT" item-failed 1 --reason $reason; done"#;
    let ended = World::new(script).await.run().await;
    let expected = ["A", "B", "C", "D", "E", "F", "G"].map(|reason| (reason.to_owned(), 2));
    let expected: BTreeMap<_, _> = expected.into_iter().chain([("Other".to_owned(), 3)]).collect();
    assert_eq!(ended.counts(), (17, 17, 0, expected.into_iter().collect()), "{}", ended.stderr);
}

#[tokio::test]
async fn a_shard_that_fails_says_so_whatever_became_of_its_items() {
    let world = World::new(r#""$ASYNCTASK_AGENT" item-failed 1; exit 9"#).await;
    world.give_items(0, 1, b"1\n");
    world.work(|work| work.outputs = vec![failures()]);
    let ended = world.run().await;
    assert_eq!((ended.code, ended.failure().code.as_str()), (9, "ExitCode9"));
    assert!(!ended.world.shared.lock().objects.contains_key("failures/0"));
}
