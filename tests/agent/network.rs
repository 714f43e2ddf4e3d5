//! Gateways and stores that are away, slow, forgetful or wrong.

use asynctask_contract::wire::FailedBy;
use nix::sys::signal::Signal;

use crate::servers::authority;
use crate::world::{Fault, SIGNATURE, World, output};

fn one_file() -> &'static str {
    r#"echo started; echo text > "$ASYNCTASK_OUTPUTS/report""#
}

async fn world() -> World {
    let world = World::new(one_file()).await;
    world.work(|work| work.outputs = vec![output("report", "report")]);
    world
}

#[tokio::test]
async fn a_gateway_that_is_away_is_waited_for_at_every_call() {
    let world = world().await;
    for call in ["/assignment", "/files", "/commit"] {
        world.fail(call, 3, &Fault::Status(503));
    }
    let ended = world.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.calls("/assignment").len(), 4);
    assert_eq!(ended.calls("/commit").len(), 4);
    assert!(ended.stderr.contains("waiting: ask for the assignment: as the test wishes"), "{}", ended.stderr);
    assert_eq!(ended.stored("report/0"), "text\n");
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_sent_again() {
    let world = world().await;
    world.fail("/commit", 1, &Fault::DoneBut(502));
    let ended = world.run().await;
    let commits = ended.calls("/commit");
    assert_eq!((ended.code, commits.len()), (0, 2));
    assert_eq!(commits[0].body, commits[1].body);
}

#[tokio::test]
async fn an_upload_whose_answer_was_lost_is_found_in_its_place() {
    let world = world().await;
    world.fail("PUT store report/0", 1, &Fault::DoneBut(500));
    let ended = world.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.calls("PUT store report/0").len(), 2, "the second one was answered with 412");
    assert_eq!(ended.commit().files[0].size, 5);
}

#[tokio::test]
async fn an_upload_address_that_ran_out_is_signed_anew() {
    let world = world().await;
    world.fail("PUT store report/0", 2, &Fault::Status(403));
    let ended = world.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.calls("/files").iter().filter(|call| call.body["output"] == "report").count(), 3);
}

#[tokio::test]
async fn a_part_that_was_refused_is_signed_anew() {
    let world = world().await;
    world.shared.lock().multipart_from = 5;
    world.shared.lock().part_size = 2;
    world.fail("PUT store parts/report/0/2", 1, &Fault::Status(403));
    world.fail("/files/complete", 1, &Fault::Status(503));
    let ended = world.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let mut complete = ended.calls("/files/complete");
    complete.retain(|call| call.body["file"]["output"] == "report");
    let parts = complete.last().unwrap().body["parts"].as_array().unwrap();
    let numbers: Vec<_> = parts.iter().map(|part| part["number"].clone()).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(ended.stored("parts/report/0/3"), "\n");
}

#[tokio::test]
async fn a_store_that_refuses_for_good_is_reported_without_its_secrets() {
    for status in [403, 404] {
        let world = world().await;
        world.fail("PUT store report/0", 10, &Fault::Status(status));
        let ended = world.run().await;
        let failure = ended.failure();
        assert_eq!((ended.code, failure.code.as_str()), (241, "UploadFailed"));
        assert!(failure.message.contains(&format!("the store answered {status} (AsPlanned)")), "{}", failure.message);
        // The world looks for secrets at each end; here once more by name, for it is what this test is about.
        assert!(!ended.stderr.contains(SIGNATURE) && !ended.stderr.contains("StringToSign"));
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let world = world().await;
    world.fail("PUT store report/0", 1, &Fault::Redirect);
    let ended = world.run().await;
    assert_eq!((ended.code, ended.failure().code.as_str()), (241, "UploadFailed"));
}

#[tokio::test]
async fn a_refused_commit_is_no_success_and_shows_the_gateways_reason() {
    for status in [403, 404, 409, 410, 422] {
        let world = world().await;
        world.fail("/commit", 1, &Fault::Status(status));
        let ended = world.run().await;
        assert_eq!(ended.code, 240);
        let by = match status {
            403 | 404 | 409 => FailedBy::Platform,
            410 => FailedBy::PlatformForGood,
            _ => FailedBy::Contract,
        };
        assert_eq!(ended.termination.failed_by, Some(by), "{status}");
        assert_eq!(ended.termination.code.as_deref(), Some("CommitRefused"));
        assert!(ended.termination.message.contains("as the test wishes"), "{}", ended.termination.message);
        assert!(!ended.termination.committed);
    }
}

#[tokio::test]
async fn a_gateway_that_does_not_know_the_pod_is_believed() {
    let world = world().await;
    world.fail("/assignment", 1, &Fault::Status(403));
    let ended = world.run().await;
    assert_eq!((ended.code, ended.failure().code.as_str(), ended.was_started()), (240, "GatewayRefused", false));
}

#[tokio::test]
async fn the_token_is_read_anew_for_each_call() {
    let world =
        World::new(r#"echo text > "$ASYNCTASK_OUTPUTS/report"; echo ready; read -r line < "$TMPDIR/../go""#).await;
    world.work(|work| work.outputs = vec![output("report", "report")]);
    let go = world.root.path().join("asynctask/work/go");
    std::fs::create_dir_all(go.parent().unwrap()).unwrap();
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let running = world.start();
    running.says("ready").await;
    running.world.give_token("token-two-9e77");
    std::fs::write(go, "go\n").unwrap();
    let ended = running.end().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(!ended.stderr.contains("token-one"));
}

#[tokio::test]
async fn a_token_that_stays_refused_is_given_up() {
    let world = world().await;
    world.shared.lock().token = "another".into();
    let ended = world.run().await;
    assert_eq!((ended.code, ended.was_started()), (240, false));
    assert!(ended.termination.message.contains("not valid any more"), "{}", ended.termination.message);
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let world = World::new(r#"cp "$ASYNCTASK_INPUTS/archive" "$ASYNCTASK_OUTPUTS/report""#).await;
    world.work(|work| work.outputs = vec![output("report", "report")]);
    let bytes: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
    world.give_input(&world.secure_store(), "archive", &bytes);
    world.fail("GET store", 1, &Fault::Half);
    let ended = world.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let ranges: Vec<_> = ended.calls("GET store").into_iter().map(|call| call.range).collect();
    assert_eq!((ranges.len(), &ranges[0]), (2, &None));
    assert!(ranges[1].as_ref().unwrap().starts_with("bytes="), "{ranges:?}");
    assert_eq!(ended.commit().files[0].size, 4_000_000);
}

#[tokio::test]
async fn a_download_address_that_ran_out_comes_anew_with_the_assignment() {
    let world = World::new(one_file()).await;
    world.give_input(&world.plain_store(), "archive", b"bytes");
    world.fail("GET store", 1, &Fault::Status(403));
    let ended = world.run().await;
    assert_eq!((ended.code, ended.calls("/assignment").len()), (0, 2), "{}", ended.stderr);
}

#[tokio::test]
async fn an_input_that_is_gone_is_reported() {
    let world = World::new(one_file()).await;
    world.give_input(&world.plain_store(), "archive", b"bytes");
    world.shared.lock().objects.clear();
    let ended = world.run().await;
    assert_eq!((ended.code, ended.failure().code.as_str(), ended.was_started()), (242, "InputMissing", false));
}

#[tokio::test]
async fn a_gateway_of_another_authority_gets_no_token() {
    let (foreign, _) = authority();
    let mut world = world().await;
    world.var("ASYNCTASK_GATEWAY_CA", &foreign);
    let running = world.start();
    running.says("certificate").await;
    running.signal(Signal::SIGTERM);
    let ended = running.end().await;
    assert_eq!((ended.code, ended.was_started(), ended.calls("").len()), (143, false, 0));
    assert!(ended.termination.message.contains("certificate"), "{}", ended.termination.message);
}

#[tokio::test]
async fn asked_to_stop_while_nobody_answers_it_stops() {
    let mut world = world().await;
    // Nobody listens at port 1.
    world.var("ASYNCTASK_GATEWAY_URL", "https://127.0.0.1:1");
    let running = world.start();
    running.says("Connection refused").await;
    running.signal(Signal::SIGTERM);
    let ended = running.end().await;
    assert_eq!((ended.code, ended.termination.code.as_deref()), (143, Some("Terminated")));
}

#[tokio::test]
async fn a_gateway_that_hangs_on_progress_never_holds_the_program_up() {
    let world = World::new(
        r#"i=0; while [ $i -lt 3000 ]; do echo '{"type":"progress","done":'$i'}' > "$ASYNCTASK_PROGRESS"; i=$((i+1)); done"#,
    )
    .await;
    world.fail("/progress", 1, &Fault::Hold(std::sync::Arc::default()));
    let ended = world.run().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.calls("/progress").len() < 5, "updates are coalesced");
}

#[tokio::test]
async fn asked_to_stop_while_the_commit_waits_it_says_so_before_the_grace_period_is_over() {
    let world = world().await;
    world.fail("/commit", 1000, &Fault::Status(503));
    world.fail("/failure", 1000, &Fault::Status(503));
    let running = world.start();
    running.says("waiting: publish the result").await;
    let asked = std::time::Instant::now();
    running.signal(Signal::SIGTERM);
    let ended = running.end().await;
    assert!(asked.elapsed() < std::time::Duration::from_secs(28), "the kubelet kills after 30 s");
    assert_eq!((ended.code, ended.termination.code.as_deref()), (240, Some("Terminated")));
    assert!(ended.termination.message.contains("publish the result"), "{}", ended.termination.message);
}
