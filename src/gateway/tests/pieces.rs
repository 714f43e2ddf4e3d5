//! The files of a fan-out as people see them: kept apart, put together, or segment by segment.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::fake::{TASK, World};
use super::shards::{run, say, seal, seal_send, world};
use asynctask_storage::Digest;

const RUN: &str = "/api/v1/namespaces/studio/tasks/run-1";

async fn get(world: &World, below: &str) -> Value {
    let answer = world.call("alice", "GET", &format!("{RUN}/{below}"), None).await;
    assert_eq!(answer.status, StatusCode::OK, "{below}: {}", answer.text());
    answer.json()
}

/// Status and title of what is refused.
async fn refused(world: &World, below: &str) -> (StatusCode, String) {
    let answer = world.call("alice", "GET", &format!("{RUN}/{below}"), None).await;
    (answer.status, answer.json()["title"].as_str().expect("a title").to_owned())
}

fn names(list: &Value) -> Vec<(&str, &str)> {
    let outputs = list["outputs"].as_array().expect("a list");
    outputs
        .iter()
        .map(|output| (output["name"].as_str().expect("a name"), output["step"].as_str().expect("a step")))
        .collect()
}

/// Seals the planner, whose file is the base.
async fn planned(world: &World) {
    let digest = seal(world, "task-uid", "plan", &[("intro", "to,state\nfirst,sent\n")]).await;
    say(world, "plan", &json!({"state": "Complete", "manifest": digest}));
}

#[tokio::test]
async fn what_is_put_together_is_shown_whole_and_what_is_kept_apart_in_the_order_of_the_shards() {
    let world = world();
    seal_send(&world, "task-uid").await;
    let early = get(&world, "outputs").await;
    assert_eq!(names(&early), [("pages", "send")], "segments are no output, and logs are asked for by shard");
    let pages = &early["outputs"][0];
    assert_eq!((&pages["count"], &pages["more"]), (&json!(8), &Value::Null));
    let paths: Vec<&Value> = pages["files"].as_array().expect("a list").iter().map(|file| &file["path"]).collect();
    assert_eq!((paths.len(), paths[0], paths[7]), (8, &json!("1/pages/0.txt"), &json!("4/pages/3.txt")));
    let sizes = pages["files"].as_array().expect("a list").iter().map(|file| file["size"].as_u64().expect("bytes"));
    assert_eq!(pages["size"], json!(sizes.sum::<u64>()));
    // The fifth file is the first one on the last page.
    for (number, content) in [(0, "page 1.0"), (3, "page 3.2"), (4, "page 4.0"), (7, "page 4.3")] {
        let path = format!("{RUN}/outputs/pages/files/{number}/download");
        assert_eq!(world.call("alice", "GET", &path, None).await.text(), content);
    }
    let beyond = refused(&world, "outputs/pages/files/8/download").await;
    assert_eq!(beyond.0, StatusCode::NOT_FOUND);

    let digest = seal(&world, "task-uid", "assemble-send", &[("sent", "all"), ("failures", "")]).await;
    say(&world, "assemble-send", &json!({"state": "Complete", "manifest": digest}));
    let whole = get(&world, "outputs").await;
    let expected = [("sent", "assemble-send"), ("failures", "assemble-send"), ("pages", "send")];
    assert_eq!(names(&whole), expected);
    let sent = world.call("alice", "GET", &format!("{RUN}/outputs/sent/files/0/download"), None).await;
    assert_eq!(sent.text(), "all");
}

#[tokio::test]
async fn a_list_names_a_thousand_files_of_an_output_and_says_that_there_are_more() {
    let world = world();
    let digest = seal(&world, "task-uid", "plan", &[("intro", "x"); 1001]).await;
    say(&world, "plan", &json!({"state": "Complete", "manifest": digest}));
    let list = get(&world, "outputs").await;
    let intro = &list["outputs"][0];
    assert_eq!((&intro["count"], &intro["more"], &intro["size"]), (&json!(1001), &json!(true), &json!(1001)));
    assert_eq!(intro["files"].as_array().map(Vec::len), Some(1000));
    let last = world.call("alice", "GET", &format!("{RUN}/outputs/intro/files/1000/download"), None).await;
    assert_eq!(last.text(), "x");
}

#[tokio::test]
async fn who_takes_the_segments_gets_what_the_assembled_file_is_made_of() {
    let world = world();
    planned(&world).await;
    seal_send(&world, "task-uid").await;
    let list = get(&world, "outputs/sent/segments").await;
    let about = ["output", "step", "header", "count", "continue"].map(|field| list[field].clone());
    assert_eq!(about, [json!("sent"), json!("send"), json!(true), json!(5), Value::Null]);
    let segments = list["segments"].as_array().expect("a list");
    let shards: Vec<&Value> = segments.iter().map(|segment| &segment["shard"]).collect();
    assert_eq!(shards, [&Value::Null, &json!(0), &json!(1), &json!(3), &json!(4)], "the base, and not the failed one");
    let (mut read, mut size) = (Vec::new(), 0);
    for segment in segments {
        let path = format!("{RUN}/outputs/sent/segments/{}/download", segment["number"]);
        let got = world.call("alice", "GET", &path, None).await;
        assert_eq!(segment["sha256"], Digest::of(&got.body).to_string(), "{segment}");
        assert_eq!(segment["size"], json!(got.body.len()));
        size += got.body.len();
        read.push(got.text());
    }
    assert_eq!(list["size"], json!(size));
    let (first, last) = ("to,state\nfirst,sent\n", "to,state\n4,sent\n");
    assert_eq!((read[0].as_str(), read[4].as_str()), (first, last));
    assert_eq!(refused(&world, "outputs/sent/segments/5/download").await.0, StatusCode::NOT_FOUND);
    let ticket = world.call("alice", "POST", &format!("{RUN}/outputs/sent/segments/1/download"), None).await;
    assert_eq!(ticket.status, StatusCode::SEE_OTHER);

    // Nothing was appended to this one, and it has no base.
    let none = get(&world, "outputs/failures/segments").await;
    assert_eq!((&none["count"], &none["header"], &none["segments"]), (&json!(0), &json!(false), &json!([])));
}

#[tokio::test]
async fn segments_are_listed_page_by_page() {
    let world = world();
    planned(&world).await;
    seal_send(&world, "task-uid").await;
    let (mut numbers, mut next, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let list = get(&world, &format!("outputs/sent/segments?limit=2{next}")).await;
        let here = list["segments"].as_array().expect("a list");
        assert!((1..=2).contains(&here.len()), "{list}");
        numbers.extend(here.iter().map(|segment| (segment["number"].as_u64(), segment["shard"].as_u64())));
        pages += 1;
        match list["continue"].as_str() {
            Some(token) => next = format!("&continue={token}"),
            None => break,
        }
    }
    let expected = [(0, None), (1, Some(0)), (2, Some(1)), (3, Some(3)), (4, Some(4))];
    assert_eq!((numbers, pages), (expected.map(|(number, shard)| (Some(number), shard)).to_vec(), 3));
    let behind = get(&world, "outputs/sent/segments?continue=9").await;
    assert_eq!((&behind["segments"], &behind["continue"]), (&json!([]), &Value::Null));
    for wrong in ["limit=0", "limit=501", "continue=x", "continue=-1", "what=1"] {
        let (status, _) = refused(&world, &format!("outputs/sent/segments?{wrong}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn what_has_no_segments_says_why() {
    let world = world();
    planned(&world).await;
    run(&world, "worker", "send", Some(0));
    let early = refused(&world, "outputs/sent/segments").await;
    assert_eq!(early, (StatusCode::CONFLICT, "NotSealed".to_owned()));
    assert_eq!(refused(&world, "outputs/sent/segments/0/download").await, early, "the base alone is no part of it yet");
    let apart = (StatusCode::UNPROCESSABLE_ENTITY, "NotAppended".to_owned());
    for output in ["intro", "pages"] {
        assert_eq!(refused(&world, &format!("outputs/{output}/segments")).await, apart, "{output}");
    }
    assert_eq!(refused(&world, "outputs/nothing/segments").await.0, StatusCode::NOT_FOUND);
    say(&world, "send", &json!({"state": "Failed"}));
    assert_eq!(refused(&world, "outputs/sent/segments").await, early);
    // No items: the base is all there is.
    say(&world, "send", &json!({"state": "Skipped"}));
    assert_eq!(get(&world, "outputs/sent/segments").await["count"], 1);
    world.cluster.edit(TASK, |task| task["status"]["store"] = Value::Null);
    assert_eq!(refused(&world, "outputs/sent/segments").await, early);
}

#[tokio::test]
async fn without_a_base_the_first_segment_is_that_of_the_first_shard() {
    let world = world();
    seal_send(&world, "task-uid").await;
    let list = get(&world, "outputs/sent/segments?limit=1").await;
    assert_eq!((&list["count"], &list["segments"][0]["shard"]), (&json!(4), &json!(0)));
}

#[tokio::test]
async fn segments_are_bytes_and_need_the_right_to_outputs() {
    let world = world();
    planned(&world).await;
    seal_send(&world, "task-uid").await;
    world.cluster.grant("bob", "get asynctasks");
    for below in ["outputs/sent/segments", "outputs/sent/segments/0/download"] {
        let answer = world.call("bob", "GET", &format!("{RUN}/{below}"), None).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{below}");
    }
}

#[tokio::test]
async fn segments_that_were_taken_over_are_read_where_they_were_written() {
    let world = world();
    let digest = seal_send(&world, "first-uid").await;
    let adopted = json!({"name": "run-0", "uid": "first-uid"});
    say(&world, "send", &json!({"state": "Complete", "manifest": digest, "adopted": adopted}));
    let list = get(&world, "outputs/sent/segments").await;
    assert_eq!(list["count"], 4);
    let got = world.call("alice", "GET", &format!("{RUN}/outputs/sent/segments/2/download"), None).await;
    assert_eq!(got.text(), "to,state\n3,sent\n");
}
