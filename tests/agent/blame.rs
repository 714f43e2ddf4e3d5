//! Whose failure an attempt's end is: the real agent's part of the table in the book (`docs/src/programs.md`). What the operator
//! makes of it is in `src/plan/tests/endings.rs`.

use asynctask_contract::wire::{Assignment, FailedBy, FailureReport, StoppedBy};
use futures::StreamExt;
use nix::sys::signal::Signal;

use crate::world::{Ended, Fault, World, output};
use FailedBy::{Agent, Contract, Platform, PlatformForGood, Program};

/// What is told of a failure, in the report and in the pod, which must not differ.
fn told(ended: &Ended) -> (FailedBy, Option<StoppedBy>, String) {
    let last = ended.calls("POST /agent/v1/failure").pop().unwrap_or_else(|| panic!("no report: {}", ended.stderr));
    let report: FailureReport = serde_json::from_value(last.body).unwrap();
    let termination = &ended.termination;
    assert_eq!(
        (report.failed_by, report.stopped_by, Some(report.code.as_str())),
        (termination.failed_by, termination.stopped_by, termination.code.as_deref())
    );
    (report.failed_by.expect("it says whose failure"), report.stopped_by, report.code)
}

async fn is(world: World, by: FailedBy, code: &str) {
    let ended = world.run().await;
    assert_ne!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(told(&ended), (by, None, code.to_owned()), "{}", ended.stderr);
}

/// A program that leaves this below `$ASYNCTASK_OUTPUTS/pages`.
async fn leaves(script: &str) -> World {
    let world =
        World::new(&format!(r#"mkdir "$ASYNCTASK_OUTPUTS/pages"; cd "$ASYNCTASK_OUTPUTS/pages"; {script}"#)).await;
    world.work(|work| work.outputs = vec![output("pages", "pages/")]);
    world
}

async fn one_file() -> World {
    let world = World::new(r#"echo text > "$ASYNCTASK_OUTPUTS/report""#).await;
    world.work(|work| work.outputs = vec![output("report", "report")]);
    world
}

#[tokio::test]
async fn every_exit_code_is_the_programs() {
    let codes = futures::stream::iter(1..=255).map(async |code: i32| {
        let ended = World::new(&format!("exit {code}")).await.run().await;
        assert_eq!((ended.code, told(&ended)), (code, (Program, None, format!("ExitCode{code}"))));
    });
    codes.buffer_unordered(8).collect::<Vec<()>>().await;
}

#[tokio::test]
async fn a_signal_of_its_own_is_the_programs() {
    for (script, code) in [
        ("kill -TERM $$", "Signal15"),
        ("kill -KILL $$", "Signal9"),
        ("kill -SEGV $$", "Signal11"),
        ("kill -HUP $$", "Signal1"),
        // The commonest ways to do so without meaning to.
        ("trap 'kill 0' EXIT; sleep 60 & exit 0", "Signal15"),
        ("sh -c 'kill -TERM $$'; exit $?", "ExitCode143"),
        ("sh -c 'kill -KILL $$'; exit $?", "ExitCode137"),
    ] {
        is(World::new(script).await, Program, code).await;
    }
}

#[tokio::test]
async fn a_program_that_stops_its_own_container_did_it_itself() {
    // Its parent is the agent, as process 1 is in a container.
    for script in ["kill -TERM $PPID; sleep 60", "kill -INT $PPID; while :; do sleep 0.05; done"] {
        let ended = World::new(script).await.run().await;
        assert_eq!(told(&ended), (Program, Some(StoppedBy::Inside), "Terminated".into()), "{}", ended.stderr);
        assert!(ended.termination.message.contains("a process of the container"), "{}", ended.termination.message);
    }
}

#[tokio::test]
async fn whoever_stops_the_pod_from_outside_is_the_platform() {
    for script in [
        "echo ready; exec sleep 60",
        "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done",
        "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done",
        r#"trap '"$ASYNCTASK_AGENT" fail --code Stopped --message m; exit 3' TERM; echo ready; while :; do sleep 0.05; done"#,
    ] {
        let running = World::new(script).await.start();
        running.says("ready").await;
        running.signal(Signal::SIGTERM);
        let ended = running.end().await;
        let (by, stopped, code) = told(&ended);
        assert_eq!((by, stopped), (Platform, Some(StoppedBy::Outside)), "{code}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn a_program_that_was_turned_away_from_a_guarded_stage_is_not_to_blame() {
    let world = World::new(r#""$ASYNCTASK_AGENT" stage Updating || exit $?"#).await;
    world.fail("/stage", 1, &Fault::Canceled);
    let ended = world.run().await;
    assert_eq!(told(&ended), (Platform, None, "Canceled".to_owned()), "{}", ended.stderr);
    is(World::new("exit 245").await, Program, "ExitCode245").await;
}

#[tokio::test]
async fn what_a_program_left_is_the_contract() {
    for (script, code, words) in [
        (r"touch 'a\\b'", "OutputRefused", "backslash"),
        (r"touch $(printf 'a\342\200\256b')", "OutputRefused", "control character"),
        ("touch $(printf 'a\\377')", "OutputRefused", "not UTF-8"),
        ("ln -s /etc/passwd x", "OutputRefused", "symbolic link"),
        ("mkfifo x", "OutputRefused", "FIFO"),
        ("d=$(printf '%0250d' 0); mkdir -p $d/$d/$d/$d/$d; touch $d/$d/$d/$d/$d/x", "OutputRefused", "1024 bytes"),
        ("touch $(printf 'u\\314\\210') $(printf '\\303\\274')", "OutputRefused", "two spellings"),
        ("cd ..; rmdir pages", "OutputMissing", "declared but not written"),
    ] {
        let ended = leaves(script).await.run().await;
        assert_eq!(told(&ended), (Contract, None, code.to_owned()), "{script}: {}", ended.stderr);
        assert!(ended.termination.message.contains(words), "{}", ended.termination.message);
        assert!(ended.calls("PUT store pages").is_empty(), "nothing is sent before all is known to be good");
    }
    let world = leaves("touch 1 2 3").await;
    world.work(|work| work.limits.files = 2);
    is(world, Contract, "TooManyOutputFiles").await;
    let world = leaves("touch 1 2").await;
    world.work(|work| work.outputs[0].one_file = true);
    is(world, Contract, "OutputRefused").await;
}

#[tokio::test]
async fn a_name_from_macos_is_stored_composed() {
    let ended = leaves("echo x > $(printf 'u\\314\\210bung.txt')").await.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.commit().files.iter().any(|file| file.path == "pages/\u{fc}bung.txt"), "{:?}", ended.commit());
}

#[tokio::test]
async fn a_command_that_cannot_be_started_is_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let commands = [
        "/reprot.sh".to_owned(),
        "python3.99".to_owned(),
        file("data", "text", 0o644),
        file("crlf", "#!/bin/sh\r\necho started\r\n", 0o755),
        file("foreign", "\u{7f}ELF of another machine", 0o755),
        folder.path().to_str().unwrap().to_owned(),
    ];
    for command in commands {
        let mut world = World::new("").await;
        world.command(&[&command]);
        let ended = world.run().await;
        assert_eq!(told(&ended), (Contract, None, "CommandNotStarted".to_owned()), "{command}: {}", ended.stderr);
        assert!(ended.termination.message.contains(&command), "{}", ended.termination.message);
    }
}

#[tokio::test]
async fn a_refusal_says_whose_failure_it_is() {
    for (status, word, by, code) in [
        (422, "InvalidPath", Contract, "OutputRefused"),
        (422, "InvalidMediaType", Contract, "OutputRefused"),
        (422, "ContentAltered", Platform, "UploadFailed"),
        (422, "InvalidDigest", Agent, "UploadFailed"),
        (403, "Forbidden", Platform, "UploadFailed"),
        (404, "NotFound", Platform, "UploadFailed"),
        (409, "Superseded", Platform, "UploadFailed"),
    ] {
        let world = one_file().await;
        world.fail("POST /agent/v1/files", 1, &Fault::Refused(status, word));
        is(world, by, code).await;
    }
    for (status, word, by) in
        [(422, "InvalidCommit", Contract), (422, "NotStored", Platform), (409, "Superseded", Platform)]
    {
        let world = one_file().await;
        world.fail("/commit", 1, &Fault::Refused(status, word));
        is(world, by, "CommitRefused").await;
    }
    for (status, word, by, code) in [
        (422, "InputMissing", PlatformForGood, "InputMissing"),
        (422, "TooManyFiles", Contract, "TooManyFiles"),
        (422, "BaseNotOneFile", Contract, "BaseNotOneFile"),
        (410, "ObjectNotFound", PlatformForGood, "ObjectNotFound"),
        (403, "Forbidden", Platform, "GatewayRefused"),
    ] {
        let world = one_file().await;
        world.fail("/assignment", 1, &Fault::Refused(status, word));
        is(world, by, code).await;
    }
}

#[tokio::test]
async fn a_store_that_refuses_is_the_platform_and_an_input_that_is_gone_is_gone_for_good() {
    let world = one_file().await;
    world.fail("PUT store report/0", 10, &Fault::Status(403));
    is(world, Platform, "UploadFailed").await;
    let world = one_file().await;
    world.give_input(&world.plain_store(), "archive", b"bytes");
    world.shared.lock().objects.clear();
    is(world, PlatformForGood, "InputMissing").await;
    let world = one_file().await;
    world.give_input(&world.plain_store(), "archive", b"bytes");
    world.work(|work| work.inputs[0].sha256 = "00".repeat(32));
    is(world, PlatformForGood, "InputInvalid").await;
}

#[tokio::test]
async fn what_is_emitted_and_no_item_is_the_contract() {
    for (script, code) in [
        ("echo name,mail", "InvalidItem"),
        ("echo '[{\"id\":1},{\"id\":2}]'", "InvalidItem"),
        ("printf '\"%02000000d\"' 0", "ItemTooLong"),
    ] {
        let world = World::new(&format!("{script} > \"$ASYNCTASK_EMIT\"; sleep 60")).await;
        let limits = serde_json::json!({"itemsPerShard": 10, "shards": 10, "items": 100, "lineBytes": 1 << 20});
        world.work(|work| work.emits = Some(serde_json::from_value(limits).unwrap()));
        if code == "InvalidItem" && script.contains('[') {
            // Whether it is all there is shows only at the end.
            let world = World::new(&format!("{script} > \"$ASYNCTASK_EMIT\"")).await;
            let limits = serde_json::json!({"itemsPerShard": 10, "shards": 10, "items": 100, "lineBytes": 1 << 20});
            world.work(|work| work.emits = Some(serde_json::from_value(limits).unwrap()));
            is(world, Contract, code).await;
            continue;
        }
        is(world, Contract, code).await;
    }
}

#[tokio::test]
async fn a_fenced_attempt_is_the_platforms() {
    let world = World::new("echo started").await;
    world.assign(Assignment::Stop { message: "superseded".into() });
    let ended = world.run().await;
    assert_eq!((ended.code, ended.termination.failed_by), (244, Some(Platform)));
}

// ---- what a program leaves running

#[tokio::test]
async fn writers_that_were_left_behind_are_waited_for() {
    let script = r#"
        { sleep 0.3; seq 1 3000 > "$ASYNCTASK_OUTPUTS/report"; } &
        { sleep 0.3; seq 1 50; sleep 0.3; seq 51 100; } > "$ASYNCTASK_EMIT" &
        exit 0"#;
    let world = World::new(script).await;
    let limits = serde_json::json!({"itemsPerShard": 10, "shards": 100, "items": 1000, "lineBytes": 1 << 20});
    world.work(|work| {
        work.outputs = vec![output("report", "report")];
        work.emits = Some(serde_json::from_value(limits).unwrap());
    });
    let ended = world.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.stored("report/0").lines().count(), 3000);
    let commit = ended.commit();
    assert_eq!((commit.emitted.unwrap().items, commit.warning), (100, None));
}

#[tokio::test]
async fn a_result_that_is_still_written_to_is_none_when_the_pod_is_asked_to_stop() {
    // One ends at the signal that is passed on to it, in the middle of its work; the other is there when its program ends for
    // the signal, and has said that all is done.
    let after = r#"
        { exec 3>"$ASYNCTASK_OUTPUTS/report"; echo half >&3; while kill -0 $$ 2>/dev/null; do sleep 0.01; done
          echo left; exec sleep 62; } &
        exit 0"#;
    let before = r#"
        trap '"$ASYNCTASK_AGENT" done; exit 0' TERM
        ( trap '' TERM; exec 3>"$ASYNCTASK_OUTPUTS/report"; echo half >&3; echo left; exec sleep 62 ) &
        while :; do sleep 0.01; done"#;
    // As the agent sees it, the first one's program may end before the signal or after.
    for (script, words) in [(after, "the pod was asked to stop"), (before, "left behind")] {
        let world = World::new(script).await;
        world.work(|work| work.outputs = vec![output("report", "report")]);
        let running = world.start();
        running.says("left").await;
        running.signal(Signal::SIGTERM);
        let ended = running.end().await;
        assert_eq!(told(&ended), (Platform, Some(StoppedBy::Outside), "Terminated".to_owned()), "{}", ended.stderr);
        assert!(ended.termination.message.contains(words), "{}", ended.termination.message);
    }
}

#[tokio::test]
async fn a_writer_that_does_not_end_is_a_failure() {
    let world = World::new(r#"{ exec sleep 60; } 3>"$ASYNCTASK_OUTPUTS/report" & sleep 0.2; exit 0"#).await;
    world.work(|work| {
        work.outputs = vec![output("report", "report")];
        work.limits.writer_seconds = 1;
    });
    let ended = world.run().await;
    assert_eq!(told(&ended), (Program, None, "WriterKilled".to_owned()), "{}", ended.stderr);
    assert!(ended.termination.message.contains("\"sleep\""), "{}", ended.termination.message);
}

#[tokio::test]
async fn anything_else_that_does_not_end_is_told_and_ended() {
    let world = World::new(r#"sleep 61 >/dev/null 2>&1 & echo text > "$ASYNCTASK_OUTPUTS/report""#).await;
    world.work(|work| {
        work.outputs = vec![output("report", "report")];
        work.limits.writer_seconds = 1;
    });
    let ended = world.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let warning = ended.commit().warning.expect("a warning");
    assert!(warning.contains("\"sleep\" still ran"), "{warning}");
    assert!(ended.stored("log/0").contains(&warning), "the log tells it too");
}
