//! What an author's program meets: helper commands, processes, the installed copy.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::world::{Fault, State, World, binary, output};

fn agent(arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).env_remove("ASYNCTASK_PROGRESS").output().unwrap()
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn helpers_outside_of_a_task_say_so() {
    for arguments in [
        &["stage", "x"][..],
        &["progress", "1"],
        &["item-failed", "1"],
        &["skip"],
        &["fail", "--code", "C", "--message", "m"],
        &["done"],
    ] {
        let (code, said) = said(&agent(arguments));
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("ASYNCTASK_PROGRESS is not set: this command works only inside a running task"),
            "{said}"
        );
    }
}

#[test]
fn helpers_called_wrongly_are_a_usage_error() {
    for (arguments, part) in [
        (&["fail", "--code", "not a word", "--message", "m"][..], "InvalidCourse"),
        (&["fail", "--code", "C", "--message", "m", "--link", "javascript:x"], "https://"),
        (&["progress", "--", "-1"], "counted from 0"),
        (&["progress", "three"], "three"),
        (&["item-failed", "{id:7}"], "the item is not JSON"),
        (&["item-failed", "7", "--reason", "not a word"], "InvalidCourse"),
        (&["skip", "some"], "some"),
    ] {
        let (code, said) = said(&agent(arguments));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn the_version_is_told() {
    let told = String::from_utf8(agent(&["version"]).stdout).unwrap();
    assert_eq!(told, format!("asynctask-agent {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_agent_installs_itself_and_the_copy_runs() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("asynctask-agent");
    for destination in [folder.path(), &target] {
        let (code, said) = said(&agent(&["install", destination.to_str().unwrap()]));
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(Command::new(&target).arg("version").output().unwrap().status.success());
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside the copy");
    let (code, said) = said(&agent(&["install", "/no/such/folder/agent"]));
    assert_eq!(code, Some(1));
    assert!(said.contains("/no/such/folder/agent"), "{said}");
}

#[tokio::test]
async fn a_misspelt_stage_is_a_usage_error_with_the_right_names() {
    let ended = World::new(r#""$ASYNCTASK_AGENT" stage Verifing; echo "code $?""#).await.run().await;
    assert_eq!((ended.code, ended.stdout.as_str(), ended.calls("/stage").len()), (0, "code 2\n", 0));
    assert!(
        ended.stderr.contains("\"Verifing\"") && ended.stderr.contains("Unpacking, Verifying, Updating"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn lines_written_to_the_fifo_without_the_helper_count() {
    let ended = World::new(
        r#"echo '{"type":"stage","stage":"Verifying"}' > "$ASYNCTASK_PROGRESS"
        echo nonsense > "$ASYNCTASK_PROGRESS"
        echo '{"type":"fail","code":"Full","message":"the disk is full"}' > "$ASYNCTASK_PROGRESS"; exit 9"#,
    )
    .await
    .run()
    .await;
    let failure = ended.failure();
    assert_eq!((ended.code, failure.code.as_str(), failure.stage.as_deref()), (9, "Full", Some("Verifying")));
    assert!(ended.stderr.contains("ASYNCTASK_PROGRESS is not understood"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_message_longer_than_a_pipe_takes_is_shortened() {
    let ended =
        World::new(r#""$ASYNCTASK_AGENT" fail --code Long --message "$(printf 'é%.0s' $(seq 1 9000))"; exit 1"#)
            .await
            .run()
            .await;
    let failure = ended.failure();
    assert_eq!(failure.code, "Long");
    assert!(failure.message.len() > 500 && failure.message.chars().all(|c| c == 'é'));
}

#[tokio::test]
async fn updates_keep_their_pace_and_the_last_one_arrives() {
    let ended = World::new(
        r#"i=0; while [ $i -le 500 ]; do echo '{"type":"progress","done":'$i'}' > "$ASYNCTASK_PROGRESS"; i=$((i+1)); done"#,
    )
    .await
    .run()
    .await;
    let updates = ended.calls("/progress");
    assert!(updates.len() <= 3, "{} updates", updates.len());
    assert_eq!(updates.last().unwrap().body["done"], 500);
}

#[tokio::test]
async fn orphans_are_reaped_and_stragglers_do_not_outlive_the_program() {
    let world = World::new(
        r#"for i in 1 2 3 4 5 6 7 8; do (sh -c 'echo $$ >> "$ASYNCTASK_OUTPUTS/pids"' &) ; done
        (sh -c 'echo $$ >> "$ASYNCTASK_OUTPUTS/pids"; exec sleep 1000' &)
        while [ "$(wc -l < "$ASYNCTASK_OUTPUTS/pids")" != 9 ]; do :; done 2>/dev/null"#,
    )
    .await;
    world.work(|work| work.outputs = vec![output("pids", "pids")]);
    let release = Arc::new(Notify::new());
    world.fail("/commit", 1, &Fault::Hold(Arc::clone(&release)));
    let running = world.start();
    let committing = |state: &mut State| state.calls.iter().any(|call| call.what.contains("/commit")).then_some(());
    running.world.shared.until("it commits", committing).await;
    let pids = String::from_utf8(running.world.shared.lock().objects["pids/0"].bytes.clone()).unwrap();
    let pids: Vec<&str> = pids.lines().collect();
    assert_eq!(pids.len(), 9);
    // A process that was killed takes a moment to go.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while pids.iter().any(|pid| std::path::Path::new("/proc").join(pid).exists()) {
        if std::time::Instant::now() >= deadline {
            running.world.shared.ran_out(&format!("no zombie or straggler is left: {}", alive(&pids)));
        }
        tokio::task::yield_now().await;
    }
    release.notify_one();
    assert_eq!(running.end().await.code, 0);
}

/// What is left of some processes: name, state and parent of each.
fn alive(pids: &[&str]) -> String {
    let stats = pids.iter().filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    stats.map(|stat| stat.split(' ').take(4).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("; ")
}

const ENTER: &str = r#""$ASYNCTASK_AGENT" stage Updating; echo "code $?""#;

#[tokio::test]
async fn a_guarded_stage_is_entered_only_once_the_gateway_has_answered() {
    let world = World::new(&format!("{ENTER}; \"$ASYNCTASK_AGENT\" progress 1")).await;
    let release = Arc::new(Notify::new());
    world.fail("/stage", 2, &Fault::Status(503));
    world.fail("/stage", 1, &Fault::Hold(Arc::clone(&release)));
    let running = world.start();
    let third =
        |state: &mut State| (state.calls.iter().filter(|c| c.what.contains("/stage")).count() == 3).then_some(());
    running.world.shared.until("the gateway is asked for the third time", third).await;
    release.notify_one();
    let ended = running.end().await;
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "code 0\n"), "{}", ended.stderr);
    let calls = ended.calls("POST /agent/v1/");
    let before: Vec<_> = calls.iter().take_while(|call| !call.what.contains("/progress")).collect();
    assert!(before.iter().filter(|call| call.body["stage"] == "Updating").count() >= 3, "{calls:?}");
    assert_eq!(ended.termination.stage.as_deref(), Some("Updating"));
}

#[tokio::test]
async fn a_guarded_stage_of_a_run_that_is_to_be_cancelled_is_not_entered() {
    let world = World::new(ENTER).await;
    world.fail("/stage", 1, &Fault::Canceled);
    let ended = world.run().await;
    assert_eq!(ended.stdout, "code 245\n", "{}", ended.stderr);
    assert!(ended.stderr.contains("\"Updating\" is not entered: ") && ended.stderr.contains("to be cancelled"));
    assert_eq!((ended.calls("/stage").len(), ended.termination.stage.clone()), (1, None));
}

#[tokio::test]
async fn a_refused_guarded_stage_is_an_error_of_its_own() {
    let world = World::new(ENTER).await;
    world.fail("/stage", 1, &Fault::Status(409));
    let ended = world.run().await;
    assert_eq!(ended.stdout, "code 1\n", "{}", ended.stderr);
    assert!(ended.stderr.contains("do not go on as if it were"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_guarded_stage_cannot_be_entered_by_a_line_in_the_fifo() {
    let ended = World::new(r#"echo '{"type":"stage","stage":"Updating"}' > "$ASYNCTASK_PROGRESS""#).await.run().await;
    assert_eq!((ended.code, ended.calls("/stage").len(), ended.termination.stage.clone()), (0, 0, None));
    assert!(ended.stderr.contains("is guarded and was not entered"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_folder_of_an_earlier_step_appears_under_the_inputs_name() {
    let world = World::new(r#"cd "$ASYNCTASK_INPUTS" && find . -type f | sort && cat pages/b/c.txt"#).await;
    for (name, path) in [("one", "pages/a.txt"), ("two", "pages/b/c.txt")] {
        world.give_input(&world.plain_store(), name, path.as_bytes());
        world.work(|work| {
            let input = work.inputs.last_mut().unwrap();
            (input.name, input.path) = ("pages".into(), Some(path.into()));
        });
    }
    let ended = world.run().await;
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "./pages/a.txt\n./pages/b/c.txt\npages/b/c.txt"));
}
