//! An output for one use, claimed by many while the gateway is killed.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::component::{back, process};
use crate::outputs::{download, output, writer};
use crate::support::{Namespace, Person, SYSTEM, kubectl, run, stored, task, until};

/// For a gateway that was killed a moment ago: a connection to a pod that is gone would hang for minutes.
const PATIENT: &[&str] =
    &["--connect-timeout", "3", "--retry", "60", "--retry-all-errors", "--retry-delay", "1", "--max-time", "120"];

#[test]
fn of_fifty_claims_one_person_wins_while_the_gateway_is_killed() {
    let ns = Namespace::new("once");
    let once = "visibility: Namespace, retention: {useOnce: {window: 120s}}";
    ns.define("once", &writer("once", &[("secret", once)], ""));
    ns.apply(&task("t", "once")).ok();
    assert_eq!(ns.finished("t")["state"], "Complete");
    let people: Vec<Person> = (0..5).map(|n| ns.person(&format!("p{n}"), Some("edit"))).collect();
    let path = download(&ns, "t", "secret");
    // Neither reading nor asking what there is uses it up.
    for person in &people {
        assert_eq!(person.http("GET", &path, &[]).status, 409);
        assert_eq!(person.http("HEAD", &path, &["-I"]).status, 409);
        assert_eq!(person.http("GET", &format!("/api/v1/namespaces/{}/tasks/t/outputs", ns.name), &[]).status, 200);
    }
    assert!(ns.status("t")["claims"].is_null());

    let answers: Vec<(usize, u16)> = std::thread::scope(|scope| {
        let ask = |n: usize| {
            let (person, path) = (&people[n % 5], &path);
            let json = [&["-H", "Accept: application/json"], PATIENT].concat();
            scope.spawn(move || (n % 5, person.http("POST", path, &json).status))
        };
        let asked: Vec<_> = (0..50).map(ask).collect();
        let pid = until("the gateway runs", || process("gateway"));
        run(Command::new("kill").args(["-9", &pid]), None).ok();
        // Another pod at once: a container that was killed before waits longer each time.
        kubectl(&["-n", SYSTEM, "delete", "pods", "-l", "app.kubernetes.io/component=gateway", "--wait=false"]).ok();
        asked.into_iter().map(|answer| answer.join().unwrap()).collect()
    });
    back("gateway");
    let mut won: BTreeMap<usize, usize> = BTreeMap::new();
    for (person, status) in &answers {
        assert!([200, 410].contains(status), "{answers:?}");
        *won.entry(*person).or_default() += usize::from(*status == 200);
    }
    won.retain(|_, times| *times > 0);
    let claims = ns.status("t")["claims"].clone();
    assert_eq!((won.len(), claims.as_array().map(Vec::len)), (1, Some(1)), "{answers:?} {claims}");
    let winner = &people[*won.keys().next().unwrap()];
    println!("50 claims, {} answers for the winner, {claims}", won.values().sum::<usize>());

    assert_eq!(winner.http("GET", &path, PATIENT).body, "secret\n", "again within the window");
    let status = until("it is gone", || {
        let status = ns.status("t");
        (!output(&status, "secret")["gone"].is_null()).then_some(status)
    });
    assert_eq!(output(&status, "secret")["gone"]["why"], "Used");
    // All of it went through the gateway, so the window ended soon after, and not two minutes after the claim.
    let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let kept = time(&output(&status, "secret")["gone"]["at"]).duration_since(time(&claims[0]["at"])).as_secs();
    println!("deleted {kept} s after the claim");
    assert!((30..110).contains(&kept), "{kept} s");
    let uid = ns.get("asynctask", "t")["metadata"]["uid"].as_str().unwrap().to_owned();
    assert!(stored(&uid).iter().all(|path| !path.to_string_lossy().contains("/files/secret/")));
    assert_eq!(winner.http("GET", &path, PATIENT).status, 410);
}
