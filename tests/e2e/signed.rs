//! Signed access: who gets a URL, for how long, and what the store refuses.

use std::time::Duration;

use crate::stores::{TTL, seaweed};
use crate::support::{Namespace, curl, host_ip, http, script, task, until};

const WRITES: &str = "echo the result > $ASYNCTASK_OUTPUTS/report.txt";
const REPORT: &str = "  outputs: [{name: report, step: work, path: report.txt, visibility: Namespace}]";

fn finished_run(topic: &str, store: Option<&str>) -> Namespace {
    let ns = Namespace::new(topic);
    let store = store.map_or_else(String::new, |name| format!("  store: {name}\n"));
    ns.define("writer", &script("writer", WRITES, &format!("{store}{REPORT}")));
    ns.apply(&task("t", "writer")).ok();
    assert_eq!(ns.finished("t")["state"], "Complete");
    ns
}

fn route(ns: &Namespace, task: &str) -> String {
    format!("/api/v1/namespaces/{}/tasks/{task}/outputs/report/files/0/download", ns.name)
}

#[test]
fn a_download_is_sent_to_the_store_and_its_url_soon_ends() {
    let ns = finished_run("signed", Some(seaweed()));
    let alice = ns.person("alice", Some("edit"));

    let answer = alice.http("GET", &route(&ns, "t"), &[]);

    // A signed URL is good for a GET only.
    let length = alice.http("HEAD", &route(&ns, "t"), &["-I"]);
    assert_eq!((length.status, length.header("content-length")), (200, Some("11")), "{length:?}");
    assert_eq!((answer.status, answer.body.as_str()), (303, ""), "{answer:?}");
    let url = answer.header("location").unwrap().to_owned();
    assert!(url.starts_with(&format!("http://{}", host_ip())), "not the store's address");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    let fetched = curl(&[&url]);
    assert_eq!((fetched.status, fetched.body.as_str()), (200, "the result\n"));
    assert!(fetched.header("content-disposition").unwrap().starts_with("attachment"));
    let started = std::time::Instant::now();
    until("the store refuses the URL", || (curl(&[&url]).status == 403).then_some(()));
    assert!(started.elapsed() < Duration::from_secs(TTL + 10));
}

#[test]
fn on_a_filesystem_store_the_gateway_streams_and_serves_ranges() {
    let ns = finished_run("proxied", None);
    let alice = ns.person("alice", Some("edit"));
    let whole = alice.http("GET", &route(&ns, "t"), &[]);
    assert_eq!((whole.status, whole.body.as_str()), (200, "the result\n"), "{whole:?}");
    let length = alice.http("HEAD", &route(&ns, "t"), &["-I"]);
    assert_eq!((length.status, length.header("content-length")), (200, Some("11")), "{length:?}");
    let part = alice.http("GET", &route(&ns, "t"), &["-H", "Range: bytes=4-9"]);
    assert_eq!((part.status, part.body.as_str()), (206, "result"), "{part:?}");
}

#[test]
fn without_a_token_401_and_without_the_right_as_if_there_were_no_task() {
    let ns = finished_run("rights", None);
    for bearer in [&[][..], &["-H", "Authorization: Bearer nothing"]] {
        assert_eq!(http("GET", &route(&ns, "t"), bearer).status, 401);
    }
    // `view` may see tasks, but not what they gave back.
    let viewer = ns.person("viewer", Some("view"));
    let forbidden = viewer.http("GET", &route(&ns, "t"), &[]);
    let missing = viewer.http("GET", &route(&ns, "absent"), &[]);
    assert_eq!(forbidden.status, 404);
    assert_eq!(forbidden.body.replace("\"t\"", "?"), missing.body.replace("\"absent\"", "?"));
}

#[test]
fn who_has_lost_the_right_gets_no_new_url_after_five_seconds() {
    let ns = finished_run("revoked", Some(seaweed()));
    let bob = ns.person("bob", Some("edit"));
    let status = || bob.http("GET", &route(&ns, "t"), &[]).status;
    assert_eq!(status(), 303);
    ns.kubectl(&["delete", "rolebinding", "bob"]).ok();
    let revoked = std::time::Instant::now();
    until("no new URL is given", || (status() == 404).then_some(()));
    println!("no new URL {:.1} s after the right was gone", revoked.elapsed().as_secs_f64());
    // What was decided before is believed for five seconds; asking takes its time.
    assert!(revoked.elapsed() < Duration::from_secs(6), "{:?}", revoked.elapsed());
}

#[test]
fn the_store_refuses_an_upload_that_is_shorter_or_altered() {
    let ns = Namespace::new("altered");
    ns.example("course-outline", Some(seaweed()));
    let alice = ns.person("alice", Some("edit"));
    // SHA-256 of "hello".
    let digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let body = format!(
        r#"{{"definition":"course-outline","input":"archive","size":5,"sha256":"{digest}","mediaType":"application/gzip"}}"#
    );
    let path = format!("/api/v1/namespaces/{}/uploads", ns.name);
    let started = alice.http("POST", &path, &["-H", "Content-Type: application/json", "-d", &body]);
    assert!(started.status < 300, "{started:?}");
    let started = started.json();
    let request = &started["plan"]["request"];
    let url = request["url"].as_str().unwrap();
    let headers: Vec<String> = request["headers"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| !name.eq_ignore_ascii_case("content-length"))
        .flat_map(|(name, value)| ["-H".to_owned(), format!("{name}: {}", value.as_str().unwrap())])
        .collect();
    let put = |content: &str| {
        let mut args: Vec<&str> = vec!["-X", "PUT", url, "--data-binary", content];
        args.extend(headers.iter().map(String::as_str));
        curl(&args).status
    };
    assert!((400..500).contains(&put("hell")), "shorter");
    assert!((400..500).contains(&put("jello")), "altered");
    let id = started["id"].as_str().unwrap();
    let complete = format!("{path}/{id}/complete");
    let early = alice.http("POST", &complete, &["-H", "Content-Type: application/json", "-d", "{}"]);
    assert!((400..500).contains(&early.status), "complete without its bytes: {early:?}");
    assert_eq!(put("hello"), 200);
    assert!(alice.http("POST", &complete, &["-H", "Content-Type: application/json", "-d", "{}"]).status < 300);
}
