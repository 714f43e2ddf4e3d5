//! Items that a program emits: cut into shards, stored while they are written, counted in the commit.

use std::sync::Arc;
use std::time::Duration;

use asynctask_contract::wire::{EmitLimits, Emitted};
use nix::sys::signal::Signal;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::world::{Ended, Fault, World};

/// As the operator sets them, but for the size of a shard.
fn limits(items_per_shard: u32) -> EmitLimits {
    EmitLimits { items_per_shard, shards: 100_000, items: 50_000_000, line_bytes: 1 << 20 }
}

async fn planner(script: &str, limits: EmitLimits) -> World {
    let world = World::new(script).await;
    world.work(|work| work.emits = Some(limits));
    world
}

async fn plan(script: &str, limits: EmitLimits) -> Ended {
    planner(script, limits).await.run().await
}

impl Ended {
    /// Every shard that is stored, in order; one after the other, as many as the commit says.
    fn shards(&self) -> Vec<String> {
        let Emitted { shards, items } = self.commit().emitted.expect("a planner says what it emitted");
        let keys = self.world.shared.lock().objects.keys().filter(|key| key.starts_with("items/")).count();
        let stored: Vec<_> = (0..shards).map(|number| self.stored(&format!("items/{number}"))).collect();
        let lines: usize = stored.iter().map(|shard| shard.lines().count()).sum();
        assert_eq!((keys, lines as u64), (stored.len(), items));
        stored
    }
}

#[tokio::test]
async fn lines_of_one_writer_after_the_other_become_shards() {
    let script = r#"printf '{"id":1}\n\n  {"id":2}\n' > "$ASYNCTASK_EMIT"
        for word in '"three"' 4 '[5]'; do echo "$word" > "$ASYNCTASK_EMIT"; done
        printf null > "$ASYNCTASK_EMIT""#;
    let ended = plan(script, limits(4)).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.shards(), ["{\"id\":1}\n{\"id\":2}\n\"three\"\n4\n", "[5]\nnull\n"]);
    assert_eq!(ended.commit().files, [], "shards are no files of an output");
    // The log goes its own way, and may be first.
    let told = ended.calls("POST /agent/v1/files").into_iter().find(|call| call.body["output"] == "items").unwrap();
    assert_eq!(told.body["path"], "items/0.jsonl");
    assert_eq!(ended.world.kept("items-"), 0, "shards that are stored are kept on the disk");
}

#[tokio::test]
async fn no_item_is_a_result_too() {
    for script in ["true", r#"printf '\n \n' > "$ASYNCTASK_EMIT""#] {
        let ended = plan(script, limits(10)).await;
        assert_eq!((ended.code, ended.shards().len()), (0, 0), "{}", ended.stderr);
        assert_eq!(ended.commit().emitted, Some(Emitted { shards: 0, items: 0 }));
    }
}

#[tokio::test]
async fn writers_at_the_same_time_do_not_mix_up_their_lines() {
    let script = r#"for writer in 1 2 3 4; do
            (i=0; while [ $i -lt 1000 ]; do echo "[$writer,$i]"; i=$((i+1)); done > "$ASYNCTASK_EMIT") &
        done; wait"#;
    let ended = plan(script, limits(100)).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let shards = ended.shards();
    let mut lines: Vec<_> = shards.iter().flat_map(|shard| shard.lines()).collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!((shards.len(), lines.len()), (40, 4000));
}

/// Runs a planner; with the most memory its agent had taken when it was about to commit, in KiB.
async fn plan_and_weigh(script: &str, limits: EmitLimits) -> (u64, Ended) {
    let world = planner(script, limits).await;
    let release = Arc::new(Notify::new());
    world.fail("/commit", 1, &Fault::Hold(Arc::clone(&release)));
    let running = world.start();
    running.called("POST /agent/v1/commit", 1).await;
    let peak = running.peak();
    release.notify_one();
    (peak, running.end().await)
}

#[tokio::test]
async fn of_many_items_none_is_lost_and_none_stays_in_memory() {
    let pad = "x".repeat(180);
    let script = format!(
        r#"for from in 1 150001; do
            seq -f '{{"id":%.0f,"pad":"{pad}"}}' $from $((from + 149999)) > "$ASYNCTASK_EMIT"; done"#
    );
    let (peak, ended) = plan_and_weigh(&script, limits(1000)).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let shards = ended.shards();
    assert_eq!(shards.len(), 300);
    for (id, line) in (1..).zip(shards.iter().flat_map(|shard| shard.lines())) {
        assert!(line == format!(r#"{{"id":{id},"pad":"{pad}"}}"#), "line {id} is {line}");
    }
    assert!(peak < 8 * 1024, "the agent took {peak} KiB at its peak for 60 MB of items");
}

#[tokio::test]
async fn a_program_that_is_faster_than_the_store_waits_for_it() {
    // Each line is longer than a pipe holds, so that it is written only when the agent has read it.
    let script = r#"pad=$(head -c 70000 /dev/zero | tr '\0' x); i=0
        while [ $i -lt 100 ]; do printf '"%s %s"\n' $i "$pad" > "$ASYNCTASK_EMIT"; i=$((i+1)); done; echo written"#;
    let world = planner(script, limits(1)).await;
    let releases = [(); 4].map(|()| Arc::new(Notify::new()));
    for release in &releases {
        world.fail("PUT store items/", 1, &Fault::Hold(Arc::clone(release)));
    }
    let running = world.start();
    running.called("PUT store items/", 4).await;
    // That something does not happen cannot be awaited: left alone the program needs a fraction of this.
    let written = timeout(Duration::from_secs(2), running.says("written")).await;
    assert!(written.is_err(), "a program went on though nothing could be stored");
    let kept = running.world.kept("items-");
    assert!((4..=12).contains(&kept), "{kept} shards on the disk");
    releases.iter().for_each(|release| release.notify_one());
    let ended = running.end().await;
    assert_eq!((ended.code, ended.shards().len()), (0, 100), "{}", ended.stderr);
    assert!((0..).zip(ended.shards()).all(|(number, shard): (u32, _)| shard.starts_with(&format!("\"{number} "))));
}

#[tokio::test]
async fn an_item_that_is_none_ends_the_program_and_names_its_line() {
    let of = "of $ASYNCTASK_EMIT";
    let few = EmitLimits { items_per_shard: 2, shards: 3, items: 5, line_bytes: 20 };
    for (limits, script, code, words) in [
        (few, r#"printf '1\n\nthree,3\n'"#, "InvalidItem", format!("line 3 {of} is not JSON: ")),
        (
            few,
            "printf '1\n\"%s\"\n' 0123456789012345678",
            "ItemTooLong",
            format!("line 2 {of} is longer than 20 bytes"),
        ),
        (few, "seq 6", "TooManyItems", format!("line 6 {of} would be item number 6, and 5 are the most")),
        (
            EmitLimits { shards: 100_000, items_per_shard: 1, items: 100_001, line_bytes: 20 },
            "yes 1 | head -n 3; printf '{'",
            "InvalidItem",
            format!("line 4 {of} is not JSON"),
        ),
        (
            EmitLimits { shards: 2, ..few },
            "seq 5",
            "TooManyShards",
            format!(
                "line 5 {of} would begin shard number 3, and 2 are the most: raise `itemsPerShard` of the fan-out (2"
            ),
        ),
    ] {
        // It would go on for ever, and it never hangs because nobody reads any more.
        let script = format!(r#"({script}; while :; do echo; done) > "$ASYNCTASK_EMIT""#);
        let ended = plan(&script, limits).await;
        let failure = ended.failure();
        assert_eq!((ended.code, failure.code.as_str()), (243, code), "{}", failure.message);
        assert!(failure.message.starts_with(&words), "{}", failure.message);
        assert!(ended.stderr.contains("asynctask-agent: the program is ended: line "), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn what_is_wrong_with_the_last_words_is_found_too() {
    for (script, words) in [("printf '1\\n{'", "line 2 of"), ("echo nonsense", "line 1 of")] {
        let ended = plan(&format!(r#"{script} > "$ASYNCTASK_EMIT""#), limits(10)).await;
        let failure = ended.failure();
        assert_eq!((ended.code, failure.code.as_str()), (243, "InvalidItem"), "{}", ended.stderr);
        assert!(failure.message.starts_with(words), "{}", failure.message);
    }
}

#[tokio::test]
async fn a_program_that_is_ended_has_time_for_last_words() {
    let script =
        r#"trap 'echo "asked to stop"; exit 1' TERM; echo nonsense > "$ASYNCTASK_EMIT"; while :; do sleep 1; done"#;
    let ended = plan(script, limits(10)).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (243, "asked to stop\n"), "{}", ended.stderr);
    assert_eq!(ended.failure().code, "InvalidItem", "what it was ended for, not how it ended");
}

#[tokio::test]
async fn a_program_that_does_not_listen_is_killed() {
    let script = r#"trap '' TERM; echo nonsense > "$ASYNCTASK_EMIT"; while :; do sleep 1000; done"#;
    let ended = plan(script, limits(10)).await;
    assert_eq!((ended.code, ended.failure().code.as_str()), (243, "InvalidItem"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_shard_that_cannot_be_stored_ends_the_program() {
    let world = planner(r#"echo 1 > "$ASYNCTASK_EMIT"; exec sleep 1000"#, limits(1)).await;
    world.fail("PUT store items/", 10, &Fault::Status(404));
    let ended = world.run().await;
    let failure = ended.failure();
    assert_eq!((ended.code, failure.code.as_str()), (241, "UploadFailed"), "{}", ended.stderr);
    assert!(failure.message.contains("items/0.jsonl"), "{}", failure.message);
}

#[tokio::test]
async fn a_store_and_a_gateway_that_come_back_lose_no_shard() {
    let world = planner(r#"seq 30 > "$ASYNCTASK_EMIT""#, limits(1)).await;
    world.fail("POST /agent/v1/files", 5, &Fault::Status(503));
    world.fail("PUT store items/", 5, &Fault::Status(503));
    // Stored, but the answer was lost: the second one is answered with 412.
    world.fail("PUT store items/", 5, &Fault::DoneBut(500));
    let ended = world.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.shards(), (1..=30).map(|number| format!("{number}\n")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_planner_that_fails_or_is_stopped_commits_nothing() {
    let ended = plan(r#"seq 30 > "$ASYNCTASK_EMIT"; exit 3"#, limits(10)).await;
    assert_eq!((ended.code, ended.failure().code.as_str()), (3, "ExitCode3"));

    let running = planner(r#"seq 30 > "$ASYNCTASK_EMIT"; echo ready; exec sleep 1000"#, limits(10)).await.start();
    running.says("ready").await;
    running.signal(Signal::SIGTERM);
    let ended = running.end().await;
    assert_eq!((ended.code, ended.failure().code.as_str()), (143, "Terminated"));
}

#[tokio::test]
async fn a_step_that_emits_nothing_has_no_place_for_it() {
    let ended = World::new(r#"echo "${ASYNCTASK_EMIT-unset}""#).await.run().await;
    assert_eq!((ended.code, ended.stdout.as_str(), ended.commit().emitted), (0, "unset\n", None));
}

/// The most memory that the agent of a planner takes for so many items in shards of so many, in KiB.
async fn planner_peak(items: u32, per_shard: u32) -> u64 {
    let script = format!(r#"seq -f '{{"id":%.0f}}' 1 {items} > "$ASYNCTASK_EMIT""#);
    let (peak, ended) = plan_and_weigh(&script, limits(per_shard)).await;
    assert_eq!((ended.code, ended.shards().len()), (0, (items / per_shard) as usize), "{}", ended.stderr);
    peak
}

#[tokio::test]
async fn the_memory_of_a_planner_does_not_grow_with_its_items() {
    let peak = async |items| planner_peak(items, 500).await;
    let (few, many, more) = (peak(10_000).await, peak(1_000_000).await, peak(3_000_000).await);
    println!("{few} KiB for 10,000 items, {many} for 1,000,000, {more} for 3,000,000");
    // A planner of few items ends before every thread has met its largest buffer; after that nothing grows any more.
    assert!(many < few + 1024, "{few} KiB for 10,000 items and {many} KiB for 1,000,000");
    assert!(more * 10 <= many * 11, "{many} KiB for 1,000,000 items and {more} KiB for 3,000,000");
}

#[tokio::test]
async fn a_planner_of_many_shards_takes_little_more_than_one_of_two() {
    let (few, many) = (planner_peak(10_000, 5000).await, planner_peak(1_000_000, 5000).await);
    println!("{few} KiB for 2 shards, {many} for 200");
    // What is on its way at once is all that may come on top: with two shards there are never as many.
    assert!(many < few + 768, "{few} KiB for 2 shards and {many} KiB for 200");
}
