//! What reaches the store, and what the commit says about it.

use std::sync::Arc;

use asynctask_contract::wire::{Commit, Progress, StageRequest};
use tokio::sync::Notify;

use crate::world::{Fault, World, output, sha256};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn a_whole_attempt_from_inputs_to_commit() {
    let world = World::new(
        r#"set -e
        "$ASYNCTASK_AGENT" stage Unpacking
        "$ASYNCTASK_AGENT" progress 3 10 --unit blocks --message "half way"
        cat "$ASYNCTASK_INPUTS/archive" > "$ASYNCTASK_OUTPUTS/copy.txt"
        mkdir -p "$ASYNCTASK_OUTPUTS/pages/deep"
        cat "$ASYNCTASK_PARAMETERS" > "$ASYNCTASK_OUTPUTS/pages/parameters"
        printf '%s %s %s' "$ASYNCTASK_NAME" "${ASYNCTASK_GATEWAY_URL-unset}" "$TMPDIR" > "$ASYNCTASK_OUTPUTS/pages/deep/env"
        echo left > "$ASYNCTASK_OUTPUTS/undeclared"
        echo one; echo two >&2"#,
    )
    .await;
    world.work(|work| work.outputs = vec![output("copy", "copy.txt"), output("pages", "pages")]);
    // One input from each kind of store.
    world.give_input(&world.secure_store(), "archive", b"what was uploaded");
    world.give_input(&world.plain_store(), "list", b"");
    let ended = world.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("one\n", "two\n"));

    let mut files = ended.commit().files;
    files.sort_by(|a, b| (&a.output, a.seq).cmp(&(&b.output, b.seq)));
    let told: Vec<_> =
        files.iter().map(|f| (f.output.as_str(), f.seq, f.path.as_str(), f.media_type.as_deref())).collect();
    assert_eq!(
        told,
        [
            ("copy", 0, "copy.txt", Some("text/csv")),
            ("log", 0, "log.txt", Some("text/plain")),
            ("pages", 0, "pages/deep/env", Some("text/csv")),
            ("pages", 1, "pages/parameters", Some("text/csv")),
        ]
    );
    for file in &files {
        let bytes = ended.stored(&format!("{}/{}", file.output, file.seq));
        assert_eq!((file.size, &file.sha256), (bytes.len() as u64, &sha256(bytes.as_bytes())), "{file:?}");
    }
    assert_eq!(ended.stored("copy/0"), "what was uploaded");
    assert_eq!(ended.stored("pages/1"), r#"{"course":"course-v1:edX+DemoX+2026"}"#);
    let tmp = ended.world.root.path().join("asynctask/work/tmp");
    assert_eq!(ended.stored("pages/0"), format!("import-1 unset {}", tmp.display()));
    assert_eq!(ended.stored("log/0").len(), "one\ntwo\n".len());

    let stages = ended.calls("/stage");
    assert_eq!(stages.len(), 1);
    assert_eq!(serde_json::from_value::<StageRequest>(stages[0].body.clone()).unwrap().stage, "Unpacking");
    let last: Progress = serde_json::from_value(ended.calls("/progress").last().unwrap().body.clone()).unwrap();
    assert_eq!((last.done, last.total, last.unit.as_deref()), (Some(3), Some(10), Some("blocks")));
    assert_eq!(ended.termination.outcome, "Succeeded");
    assert!(ended.termination.committed);
    assert_eq!(ended.termination.stage.as_deref(), Some("Unpacking"));
}

#[tokio::test]
async fn nothing_written_and_nothing_declared_is_a_result_too() {
    let ended = World::new("true").await.run().await;
    assert_eq!((ended.code, ended.commit()), (0, Commit::default()));
}

#[tokio::test]
async fn a_gateway_may_carry_the_bytes_itself() {
    let world = World::new(r#"cp "$ASYNCTASK_INPUTS/archive" "$ASYNCTASK_OUTPUTS/copy""#).await;
    world.shared.lock().proxied = true;
    world.work(|work| work.outputs = vec![output("copy", "copy")]);
    world.give_input("", "archive", b"through the gateway");
    let ended = world.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.stored("copy/0"), "through the gateway");
}

#[tokio::test]
async fn a_large_output_goes_in_parts_and_the_agent_stays_small() {
    let world =
        World::new(r#"truncate -s 200M "$ASYNCTASK_OUTPUTS/big"; printf end >> "$ASYNCTASK_OUTPUTS/big""#).await;
    world.work(|work| work.outputs = vec![output("big", "big")]);
    world.shared.lock().multipart_from = 64 * MIB;
    let release = Arc::new(Notify::new());
    world.fail("/commit", 1, &Fault::Hold(Arc::clone(&release)));
    let running = world.start();
    running.called("POST /agent/v1/commit", 1).await;
    let peak = running.peak();
    release.notify_one();
    let ended = running.end().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);

    let file = ended.commit().files.remove(0);
    assert_eq!(file.size, 200 * MIB + 3);
    let complete = &ended.calls("/files/complete")[0].body;
    let parts = complete["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 13);
    let state = ended.world.shared.lock();
    let mut total = 0;
    for (part, number) in parts.iter().zip(1..) {
        let object = &state.objects[&format!("parts/big/0/{number}")];
        assert_eq!((part["number"].as_i64(), part["sha256"].as_str()), (Some(number), Some(object.sha256.as_str())));
        assert_eq!(part["etag"].as_str().unwrap(), format!("\"{}\"", &object.sha256[..8]));
        total += object.size;
    }
    assert_eq!(total, file.size);
    assert!(peak < 8 * 1024, "the agent took {peak} KiB at its peak");
}

#[tokio::test]
async fn a_thousand_files_are_stored_four_at_a_time() {
    let world = World::new(
        r#"mkdir "$ASYNCTASK_OUTPUTS/many"; i=0
        while [ $i -lt 1000 ]; do printf $i > "$ASYNCTASK_OUTPUTS/many/$i"; i=$((i+1)); done; echo logged"#,
    )
    .await;
    world.work(|work| work.outputs = vec![output("many", "many")]);
    let ended = world.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.commit().files.len(), 1001);
}

#[tokio::test]
async fn of_a_long_log_head_and_tail_are_kept_and_all_of_it_passes_through() {
    let world = World::new("seq 1 20000").await;
    world.work(|work| work.limits.log_bytes = 4096);
    let ended = world.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let whole: String = (1..=20000).map(|n| format!("{n}\n")).collect();
    assert!(ended.stdout == whole, "{} bytes passed through", ended.stdout.len());
    let log = ended.stored("log/0");
    assert!(log.len() <= 4096 && log.len() > 4000, "{} bytes stored", log.len());
    assert!(log.starts_with("1\n2\n") && log.ends_with("\n19999\n20000\n") && log.contains("bytes left out here"));
    assert!(ended.termination.log_tail.ends_with("20000\n") && ended.termination.log_tail.len() <= 2048);
}

#[tokio::test]
async fn the_log_is_stored_while_the_program_still_runs() {
    let world = World::new(r#"echo early; read -r line < "$TMPDIR/../go"; echo late"#).await;
    let work = world.root.path().join("asynctask/work");
    std::fs::create_dir_all(&work).unwrap();
    nix::unistd::mkfifo(&work.join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let running = world.start();
    let stored = |state: &mut crate::world::State| state.objects.get("log/0").map(|log| log.bytes.clone());
    assert_eq!(running.world.shared.until("the log is stored", stored).await, b"early\n");
    std::fs::write(work.join("go"), "go\n").unwrap();
    let ended = running.end().await;
    assert_eq!((ended.code, ended.stored("log/0").as_str()), (0, "early\nlate\n"));
}
