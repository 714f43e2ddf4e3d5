//! How an attempt ends: the exit code, the report, the termination message.

use asynctask_contract::wire::Assignment;
use nix::sys::signal::Signal;

use crate::world::{World, output};

#[tokio::test]
async fn a_fenced_attempt_does_not_start() {
    let world = World::new("echo started").await;
    world.assign(Assignment::Stop { message: "the run was cancelled".into() });
    let ended = world.run().await;
    assert_eq!(ended.code, 244);
    assert!(!ended.was_started());
    assert_eq!(ended.calls("POST").len(), 0, "it has nothing to report");
    assert_eq!((ended.termination.outcome.as_str(), ended.termination.committed), ("Fenced", false));
    assert!(ended.stderr.contains("the run was cancelled") && ended.termination.message.contains("cancelled"));
}

#[tokio::test]
async fn what_is_committed_already_is_not_run_again() {
    let world = World::new("echo started").await;
    world.assign(Assignment::AlreadyCommitted);
    let ended = world.run().await;
    assert_eq!((ended.code, ended.was_started(), ended.calls("POST").len()), (0, false, 0));
    assert_eq!((ended.termination.outcome.as_str(), ended.termination.committed), ("AlreadyCommitted", true));
}

#[tokio::test]
async fn the_authors_words_are_reported_with_the_programs_exit_code() {
    let ended = World::new(
        r#"echo working; "$ASYNCTASK_AGENT" stage Verifying
        "$ASYNCTASK_AGENT" fail --code InvalidCourse --message 'course.xml is missing; export it again' --link https://docs.example/x
        exit 70"#,
    )
    .await
    .run()
    .await;
    let failure = ended.failure();
    assert_eq!((ended.code, failure.exit_code, failure.code.as_str()), (70, 70, "InvalidCourse"));
    assert_eq!(failure.message, "course.xml is missing; export it again");
    assert_eq!(
        (failure.link.as_deref(), failure.stage.as_deref()),
        (Some("https://docs.example/x"), Some("Verifying"))
    );
    assert_eq!(failure.log_tail, "working\n");
    let log = failure.log.expect("the log is stored");
    assert_eq!((log.output.as_str(), ended.stored("log/0").as_str()), ("log", "working\n"));
    assert_eq!(
        (ended.termination.outcome.as_str(), ended.termination.code.as_deref()),
        ("Failed", Some("InvalidCourse"))
    );
    assert!(!ended.termination.committed);
}

#[tokio::test]
async fn a_failure_that_was_announced_is_one_even_with_exit_code_0() {
    let ended = World::new(r#""$ASYNCTASK_AGENT" fail --code Broken --message m; exit 0"#).await.run().await;
    assert_eq!((ended.code, ended.failure().code.as_str()), (1, "Broken"));
}

#[tokio::test]
async fn a_bare_failure_says_the_last_words_of_the_program() {
    let ended = World::new("echo >&2 'Traceback'; echo >&2 \"KeyError: 'course'\"; echo out; exit 3").await.run().await;
    let failure = ended.failure();
    assert_eq!((ended.code, failure.code.as_str()), (3, "ExitCode3"));
    assert!(failure.message.ends_with("KeyError: 'course'"), "{}", failure.message);
}

#[tokio::test]
async fn a_program_that_is_killed_ends_with_128_and_the_signal() {
    let ended = World::new("kill -9 $$").await.run().await;
    let failure = ended.failure();
    assert_eq!((ended.code, failure.exit_code, failure.code.as_str()), (137, 137, "Signal9"));
    assert!(failure.message.contains("memory limit"), "{}", failure.message);
}

#[tokio::test]
async fn a_program_that_exits_0_because_it_was_asked_to_stop_is_no_success() {
    let world = World::new(
        r#"trap 'echo bye; exit 0' TERM; echo half > "$ASYNCTASK_OUTPUTS/report"; echo ready; while :; do sleep 0.05; done"#,
    )
    .await;
    world.work(|work| work.outputs = vec![output("report", "report")]);
    let running = world.start();
    running.says("ready").await;
    running.signal(Signal::SIGTERM);
    let ended = running.end().await;
    let failure = ended.failure();
    assert_eq!((ended.code, failure.code.as_str()), (143, "Terminated"));
    // The shell may add a word about its own `sleep`, which got the signal too.
    let log = ended.stored("log/0");
    assert!(log.starts_with("ready\n") && log.contains("bye\n"), "the log is kept all the same: {log}");
    assert_eq!(ended.calls("store report").len(), 0);
}

#[tokio::test]
async fn a_program_that_says_done_is_published_although_it_was_asked_to_stop() {
    let world = World::new(
        r#"trap '"$ASYNCTASK_AGENT" done; exit 0' TERM; echo whole > "$ASYNCTASK_OUTPUTS/report"; echo ready
        while :; do sleep 0.05; done"#,
    )
    .await;
    world.work(|work| work.outputs = vec![output("report", "report")]);
    let running = world.start();
    running.says("ready").await;
    running.signal(Signal::SIGTERM);
    let ended = running.end().await;
    assert_eq!((ended.code, ended.stored("report/0").as_str()), (0, "whole\n"), "{}", ended.stderr);
    assert_eq!(ended.commit().files.len(), 2);
}

#[tokio::test]
async fn a_program_that_ignores_nothing_dies_of_the_signal() {
    let running = World::new("echo ready; exec sleep 1000").await.start();
    running.says("ready").await;
    running.signal(Signal::SIGINT);
    let ended = running.end().await;
    assert_eq!((ended.code, ended.failure().code.as_str()), (130, "Terminated"));
}

#[tokio::test]
async fn an_output_that_was_not_written_is_named() {
    let world = World::new("true").await;
    world.work(|work| work.outputs = vec![output("report", "out/report.json")]);
    let ended = world.run().await;
    let failure = ended.failure();
    assert_eq!((ended.code, failure.code.as_str()), (243, "OutputMissing"));
    assert!(
        failure.message.contains("\"report\"") && failure.message.contains("out/report.json"),
        "{}",
        failure.message
    );
    assert_eq!(ended.termination.message, failure.message);
}

#[tokio::test]
async fn a_link_is_no_output_and_its_target_stays_where_it_is() {
    let world = World::new(r#"mkdir "$ASYNCTASK_OUTPUTS/pages"; ln -s /etc/passwd "$ASYNCTASK_OUTPUTS/pages/x""#).await;
    world.work(|work| work.outputs = vec![output("pages", "pages")]);
    let ended = world.run().await;
    let failure = ended.failure();
    assert_eq!((ended.code, failure.code.as_str()), (243, "OutputRefused"));
    assert!(failure.message.contains("pages/x") && failure.message.contains("symbolic link"), "{}", failure.message);
    assert_eq!(ended.calls("PUT store").len(), 0);
}

#[tokio::test]
async fn too_many_files_are_refused_before_one_is_sent() {
    let world =
        World::new(r#"mkdir "$ASYNCTASK_OUTPUTS/d"; for i in 1 2 3 4; do : > "$ASYNCTASK_OUTPUTS/d/$i"; done"#).await;
    world.work(|work| {
        work.outputs = vec![output("d", "d")];
        work.limits.files = 3;
    });
    let ended = world.run().await;
    assert_eq!((ended.code, ended.failure().code.as_str()), (243, "TooManyOutputFiles"));
    assert_eq!(ended.calls("PUT store").len(), 0);
}

#[tokio::test]
async fn a_command_that_is_not_there_is_named() {
    let mut world = World::new("").await;
    world.command(&["/no/such/program", "--flag"]);
    let ended = world.run().await;
    let failure = ended.failure();
    assert_eq!((ended.code, failure.code.as_str()), (127, "CommandNotStarted"));
    assert!(failure.message.contains("/no/such/program"), "{}", failure.message);
}

#[tokio::test]
async fn an_input_that_is_not_what_was_uploaded_stops_everything() {
    let world = World::new("echo started").await;
    world.give_input(&world.plain_store(), "archive", b"the right bytes");
    world.work(|work| work.inputs[0].sha256 = "00".repeat(32));
    let ended = world.run().await;
    let failure = ended.failure();
    assert_eq!((ended.code, failure.code.as_str(), ended.was_started()), (242, "InputInvalid", false));
    assert!(failure.message.contains("\"archive\""), "{}", failure.message);
    assert_eq!(ended.calls("GET store").len(), 2, "a flipped bit is given a second chance");
}

#[tokio::test]
async fn an_input_of_another_size_stops_everything() {
    for size in [3, 300] {
        let world = World::new("echo started").await;
        world.give_input(&world.plain_store(), "archive", b"the right bytes");
        world.work(|work| work.inputs[0].size = size);
        let ended = world.run().await;
        assert_eq!((ended.code, ended.failure().code.as_str(), ended.was_started()), (242, "InputInvalid", false));
    }
}

#[tokio::test]
async fn an_agent_that_nobody_set_up_says_what_is_missing() {
    let mut world = World::new("echo started").await;
    world.var("ASYNCTASK_GATEWAY_CA", "");
    let ended = world.run().await;
    assert_eq!(ended.code, 243);
    assert!(ended.stderr.contains("ASYNCTASK_GATEWAY_CA is not set"), "{}", ended.stderr);
    let mut world = World::new("echo started").await;
    world.var("ASYNCTASK_GATEWAY_URL", "http://127.0.0.1:1");
    let ended = world.run().await;
    assert_eq!(ended.code, 243);
    assert!(ended.stderr.contains("never sent in the clear"), "{}", ended.stderr);
}
