//! Who gets what: every route of people × persons × rights × visibility × namespaces, by one rule that is written down here
//! a second time.

use axum::http::StatusCode;
use serde_json::json;

use super::fake::{TASK, World};
use super::nobody_in::routes;
use super::people::seal;

/// What the stored files hold: nobody who may not have it is to see it.
const SECRETS: [&str; 2] = ["0123456789", "said"];

/// A world in which alice's run of team-a is over and gave a report of this visibility.
async fn world(visibility: &str) -> World {
    let world = World::new();
    seal(&world).await;
    world.cluster.edit(TASK, |task| {
        task["spec"]["team"] = json!("team-a");
        task["status"]["state"] = json!("Complete");
        task["status"]["outputs"] = json!([
            {"name": "report", "step": "import", "files": 1, "size": 10, "visibility": visibility},
            {"name": "log", "step": "import", "files": 1, "size": 4, "visibility": "Team"},
        ]);
    });
    world.cluster.grant("alice", "delete asynctasks/outputs");
    for colleague in ["bob", "tom"] {
        world.cluster.grant_as(colleague, "alice");
    }
    world
}

/// Whether a person of this name is to get at the bytes of an output; all but eve have all rights.
fn gets(who: &str, visibility: &str) -> bool {
    matches!((who, visibility), ("alice", _) | ("tom", "Team") | ("tom" | "bob", "Namespace"))
}

#[tokio::test]
async fn nobody_gets_a_byte_that_is_not_theirs_by_any_route() {
    let (mut cells, mut given) = (0, 0);
    for visibility in ["Owner", "Team", "Namespace"] {
        for who in ["alice", "tom", "bob", "eve", "nobody"] {
            let shared = world(visibility).await;
            for (method, path) in routes("people") {
                for namespace in ["studio", "lms"] {
                    // What changes something has a world of its own.
                    let own = if method == "GET" { None } else { Some(world(visibility).await) };
                    let world = own.as_ref().unwrap_or(&shared);
                    let path = path.replace("studio", namespace);
                    let answer = world.call(who, &method, &path, None).await;
                    let of_log = path.contains("/outputs/log/");
                    let may = namespace == "studio" && gets(who, if of_log { "Team" } else { visibility });
                    let leaks = SECRETS.iter().any(|secret| answer.text().contains(secret));
                    assert!(may || !leaks, "{who} gets {method} {path} of {visibility}: {}", answer.text());
                    if who == "nobody" {
                        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
                    }
                    let of_output = path.contains("/outputs/report");
                    if of_output && who != "nobody" {
                        let hidden = answer.status == StatusCode::NOT_FOUND;
                        assert_eq!(hidden, !may, "{who} {method} {path} of {visibility}: {}", answer.text());
                    }
                    cells += 1;
                    given += usize::from(leaks);
                }
            }
        }
    }
    println!("{cells} cells; bytes in {given} answers, each to whom they belong; leaks: 0");
    assert!(cells > 400 && given > 3, "{cells} {given}");
}

#[tokio::test]
async fn the_log_is_the_teams() {
    for (who, sees) in [("alice", true), ("tom", true), ("bob", false), ("eve", false)] {
        let world = world("Owner").await;
        let path = "/api/v1/namespaces/studio/tasks/run-1/outputs/log/files/0/download";
        assert_eq!(world.call(who, "GET", path, None).await.status == StatusCode::OK, sees, "{who}");
    }
}

#[tokio::test]
async fn who_may_bypass_visibility_sees_all_of_the_namespace() {
    let world = world("Owner").await;
    let path = "/api/v1/namespaces/studio/tasks/run-1/outputs/report/files/0/download";
    assert_eq!(world.call("bob", "GET", path, None).await.status, StatusCode::NOT_FOUND);
    world.cluster.grant("bob", "bypass asynctasks/visibility");
    assert_eq!(world.call("bob", "GET", path, None).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_right_that_is_taken_away_is_gone_within_five_seconds() {
    let world = world("Namespace").await;
    let path = "/api/v1/namespaces/studio/tasks/run-1/outputs/report/files/0/download";
    assert_eq!(world.call("bob", "GET", path, None).await.status, StatusCode::OK);
    world.cluster.revoke("bob", "get asynctasks/outputs");
    let revoked = std::time::Instant::now();
    while world.call("bob", "GET", path, None).await.status != StatusCode::NOT_FOUND {
        assert!(revoked.elapsed() < std::time::Duration::from_secs(6), "still let in");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn of_many_claims_one_wins_and_only_a_post_claims() {
    let world = world("Namespace").await;
    world.cluster.edit(TASK, |task| task["status"]["outputs"][0]["useOnceSeconds"] = json!(60));
    *world.cluster.disorder.lock().expect("no panic") = 7;
    let path = "/api/v1/namespaces/studio/tasks/run-1/outputs/report/files/0/download";
    for who in ["alice", "tom", "bob"] {
        assert_eq!(world.call(who, "GET", path, None).await.status, StatusCode::CONFLICT, "reading claims nothing");
    }
    let claims = (0..30).map(|n| world.call(["alice", "tom", "bob"][n % 3], "POST", path, None));
    let answers = futures::future::join_all(claims).await;
    let won: std::collections::BTreeSet<usize> = answers
        .iter()
        .enumerate()
        .filter(|(_, answer)| answer.status == StatusCode::SEE_OTHER)
        .map(|(n, _)| n % 3)
        .collect();
    assert_eq!(won.len(), 1, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    let winner = ["alice", "tom", "bob"][*won.first().expect("one")];
    for who in ["alice", "tom", "bob"] {
        let answer = world.call(who, "GET", path, None).await;
        let expected = if who == winner { StatusCode::OK } else { StatusCode::GONE };
        assert_eq!(answer.status, expected, "{who}: {}", answer.text());
    }
}

#[tokio::test]
async fn an_output_is_refused_from_the_second_on_in_which_its_time_is_up() {
    let world = world("Team").await;
    let output = "/api/v1/namespaces/studio/tasks/run-1/outputs/report";
    let path = format!("{output}/files/0/download");
    world.cluster.edit(TASK, |task| task["status"]["outputs"][0]["expiresAt"] = json!("2999-01-01T00:00:00Z"));
    assert_eq!(world.call("tom", "GET", &path, None).await.status, StatusCode::OK);
    // The operator, or the store, may be away: it is still there.
    world.cluster.edit(TASK, |task| task["status"]["outputs"][0]["expiresAt"] = json!("2026-01-01T00:00:00Z"));
    let refused = world.call("tom", "GET", &path, None).await;
    assert_eq!(refused.status, StatusCode::GONE, "{}", refused.text());
    assert!(refused.text().contains("was kept until 2026-01-01T00:00:00Z"), "{}", refused.text());
    world.cluster.grant("tom", "list asynctasks/outputs");
    let found = world.call("tom", "GET", "/api/v1/namespaces/studio/outputs", None).await.json();
    assert!(
        found["outputs"].as_array().is_some_and(|found| found.iter().all(|found| found["output"] != "report")),
        "{found}"
    );
}

#[tokio::test]
async fn a_deleted_output_is_refused_from_the_answer_on_and_its_neighbour_is_not() {
    let world = world("Team").await;
    let output = "/api/v1/namespaces/studio/tasks/run-1/outputs/report";
    assert_eq!(world.call("tom", "DELETE", output, None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(world.call("tom", "DELETE", output, None).await.status, StatusCode::NO_CONTENT, "twice is once");
    let gone = world.call("alice", "GET", &format!("{output}/files/0/download"), None).await;
    assert_eq!(gone.status, StatusCode::GONE);
    assert!(gone.text().contains("deleted by tom"), "{}", gone.text());
    let log = world.call("alice", "GET", &format!("{}/files/0/download", output.replace("report", "log")), None).await;
    assert_eq!(log.status, StatusCode::OK);
    let patches = world.cluster.patches.lock().expect("no panic").len();
    assert_eq!(patches, 1, "one is written down");
}

#[tokio::test]
async fn the_window_of_a_claim_ends_soon_after_all_bytes_were_sent_and_not_before() {
    let world = world("Owner").await;
    world.cluster.edit(TASK, |task| task["status"]["outputs"][0]["useOnceSeconds"] = json!(3600));
    let path = "/api/v1/namespaces/studio/tasks/run-1/outputs/report/files/0/download";
    assert_eq!(world.call("alice", "POST", path, None).await.status, StatusCode::SEE_OTHER);
    let left = || {
        let objects = world.cluster.objects.lock().expect("no panic");
        let until = objects[TASK]["status"]["claims"][0]["until"].as_str().expect("a claim").to_owned();
        until.parse::<jiff::Timestamp>().expect("a date").duration_since(jiff::Timestamp::now()).as_secs()
    };
    let part = axum::http::Request::get(path).header("authorization", "Bearer alice").header("range", "bytes=5-");
    let part = world.send(part.body(axum::body::Body::empty()).expect("a request")).await;
    assert_eq!((part.status, part.text()), (StatusCode::PARTIAL_CONTENT, "56789".to_owned()));
    let head = world.call("alice", "HEAD", path, None).await;
    assert_eq!((head.status, head.text()), (StatusCode::OK, String::new()));
    assert_eq!(head.headers["content-length"], "10");
    tokio::task::yield_now().await;
    assert!(left() > 3500, "a part is not all of it, and a HEAD is nothing: {}", left());

    assert_eq!(world.call("alice", "GET", path, None).await.text(), "0123456789");
    let sent = std::time::Instant::now();
    while left() > 30 {
        assert!(sent.elapsed() < std::time::Duration::from_secs(5), "{} s are left", left());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(world.call("alice", "GET", path, None).await.status, StatusCode::OK, "its end may not have arrived");
}

#[tokio::test]
async fn a_store_that_is_withdrawn_from_a_namespace_gives_nothing_of_it_out() {
    let world = world("Owner").await;
    world.cluster.set(
        "/api/v1/namespaces/studio",
        json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "studio", "labels": {"stage": "prod"}},
        }),
    );
    let (store, run) = ("/apis/asynctask.dev/v1alpha1/outputstores/volume", "/api/v1/namespaces/studio/tasks/run-1");
    let download = format!("{run}/outputs/report/files/0/download");
    for (wanted, status) in [("prod", StatusCode::OK), ("test", StatusCode::CONFLICT)] {
        world.cluster.edit(store, |store| store["spec"]["namespaces"] = json!({"matchLabels": {"stage": wanted}}));
        // Another gateway: this one believes what it read of a store for ten seconds.
        let world = world.again();
        for path in [format!("{run}/outputs"), download.clone()] {
            let answer = world.call("alice", "GET", &path, None).await;
            assert_eq!(answer.status, status, "{wanted}: {path}: {}", answer.text());
        }
        let eve = world.call("eve", "GET", &download, None).await;
        assert_eq!(eve.status, StatusCode::NOT_FOUND, "who may not see it learns nothing of its store");
    }
}
