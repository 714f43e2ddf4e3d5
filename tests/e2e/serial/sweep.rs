//! What nobody needs any more is swept, with little patience.

use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use crate::outputs::{files, writer};
use crate::support::{Namespace, Upgraded, root, script, stored, task, until};

#[test]
fn what_is_left_over_is_swept_and_nothing_else() {
    let ns = Namespace::new("swept");
    ns.example("course-outline", None);
    ns.define("writer", &writer("writer", &[("report", "")], ""));
    let alice = ns.person("alice", Some("edit"));
    let begin = || {
        let body = format!(
            r#"{{"definition":"course-outline","input":"archive","size":5,"sha256":"{}","mediaType":"application/gzip"}}"#,
            "0".repeat(64)
        );
        let path = format!("/api/v1/namespaces/{}/uploads", ns.name);
        let begun = alice.http("POST", &path, &["-H", "Content-Type: application/json", "-d", &body]);
        assert_eq!(begun.status, 201, "{begun:?}");
        begun.json()["id"].as_str().unwrap().to_owned()
    };
    let (unused, used) = (begin(), begin());
    let waiting = task("waiting", "course-outline")
        .replace("name: course-outline}", &format!("name: course-outline}}, inputs: {{archive: {{upload: {used}}}}}"));
    alice.kubectl(&["-n", &ns.name, "apply", "-f", "-"], Some(&waiting)).ok();
    for name in ["kept", "gone"] {
        ns.apply(&task(name, "writer")).ok();
        assert_eq!(ns.finished(name)["state"], "Complete");
    }
    let uid = |name: &str| ns.get("asynctask", name)["metadata"]["uid"].as_str().unwrap().to_owned();
    let (kept, gone) = (uid("kept"), uid("gone"));
    let of_kept = files(&kept);
    let late = std::path::PathBuf::from(files(&gone)[0].to_string_lossy().into_owned());
    ns.kubectl(&["delete", "asynctask", "gone", "--timeout=60s"]).ok();
    // A signed request that was handed out before is sent now; the pod's user writes as the operator's does.
    let owner = std::fs::metadata(&of_kept[0]).unwrap();
    for folder in
        late.ancestors().take_while(|folder| !folder.ends_with(&ns.name)).collect::<Vec<_>>().into_iter().rev()
    {
        if folder == late { std::fs::write(folder, "late") } else { std::fs::create_dir_all(folder) }.unwrap();
        std::os::unix::fs::chown(folder, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    assert_eq!((files(&gone).len(), stored(&unused).len()), (1, 1));
    // Here upload and history have their time, a second.
    let brief = "  inputs: [{name: text, required: true}]\n  parameters: {type: object, properties: {who: {type: string}}}\n  \
                 retention: {inputs: 1s, history: 1s, historyParameters: Drop}\n";
    ns.define("brief", &script("brief", "cat $ASYNCTASK_INPUTS/text", brief));
    let text = format!("text={}", root().join("README.md").display());
    alice.cli(&["run", "brief", "--name", "brief", "--input", &text, "-p", "who=ada", "--wait"]).ok();
    let upload = ns.get("asynctask", "brief")["spec"]["inputs"]["text"]["upload"].as_str().unwrap().to_owned();
    let brief = uid("brief");
    let history = || stored(&brief).into_iter().find(|path| path.to_string_lossy().contains("/_history/"));
    let record = until("the history record is there", || std::fs::read_to_string(history()?).ok());
    let record: Value = serde_json::from_str(&record).unwrap();
    let owner = format!("system:serviceaccount:{}:alice", ns.name);
    assert_eq!((&record["spec"]["owner"], &record["spec"]["parameters"]), (&owner.into(), &Value::Null));
    assert!(!stored(&upload).is_empty());

    let _soon = Upgraded::set("sweepAfter", "4s");
    until("what came late is swept", || files(&gone).is_empty().then_some(()));
    until("the upload nobody uses is swept", || stored(&unused).is_empty().then_some(()));
    until("the upload of a run that is complete is swept", || stored(&upload).is_empty().then_some(()));
    assert!(history().is_some(), "the run is there");
    ns.kubectl(&["delete", "asynctask", "brief", "--timeout=60s"]).ok();
    until("its history is swept once it is gone", || stored(&brief).is_empty().then_some(()));

    assert_eq!(stored(&used).len(), 1, "a run names it");
    assert_eq!(files(&kept), of_kept);
    assert!(!stored(&gone).is_empty(), "the history stays");
}
