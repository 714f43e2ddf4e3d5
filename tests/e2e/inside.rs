//! What a task's own program can reach with what lies in its pod: nothing but its own attempt.

use std::collections::BTreeMap;

use crate::stores::seaweed;
use crate::support::{Namespace, cli, steps, task, variable};

/// Tries it and writes the answers down. It has Python, the pod's token, and all that the agent knows.
const ATTACKS: &str = r#"
import base64, hashlib, json, os, ssl, urllib.error, urllib.parse, urllib.request

agent = dict(pair.split("=", 1) for pair in open("/proc/1/environ").read().split("\0") if "=" in pair)
gateway = agent["ASYNCTASK_GATEWAY_URL"].rstrip("/")
trusted = ssl.create_default_context(cadata=agent["ASYNCTASK_GATEWAY_CA"])
token = open("/var/run/secrets/asynctask.dev/token").read().strip()
namespace, answers = os.environ["ASYNCTASK_NAMESPACE"], {}

def send(what, method, url, body=None, headers={}, context=None):
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            answers[what], said = answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        answers[what], said = refused.code, refused.read()
    return said

def ask(what, method, path, body=None, bearer=token):
    headers = {"Authorization": "Bearer " + bearer, "Content-Type": "application/json"}
    return send(what, method, gateway + path, body and json.dumps(body).encode(), headers, trusted)

content = b"mine alone\n"
digest = hashlib.sha256(content)
def new(output="mine", path="mine.txt", seq=77):
    return {"output": output, "seq": seq, "path": path, "size": len(content), "sha256": digest.hexdigest(),
            "mediaType": "text/plain"}
signed = json.loads(ask("asked for", "POST", "/agent/v1/files", new()))["request"]
url, headers = signed["url"], {k: v for k, v in signed["headers"].items() if k != "content-length"}
plain = url.split("?")[0]
bucket = "/".join(plain.split("/")[:4])

send("another task's key", "PUT", url.replace(os.environ["ASYNCTASK_UID"], "00000000-0000-0000-0000-000000000000"), content, headers)
send("another file's key", "PUT", url.replace("/77?", "/78?"), content, headers)
send("more bytes", "PUT", url, content + b"!", headers)
send("fewer bytes", "PUT", url, content[1:], headers)
send("other bytes", "PUT", url, b"M" + content[1:], headers)
other = base64.b64encode(hashlib.sha256(b"M" + content[1:]).digest()).decode()
send("another checksum", "PUT", url, b"M" + content[1:], {**headers, "x-amz-checksum-sha256": other})
send("another type", "PUT", url, content, {**headers, "content-type": "text/html"})
send("to read with it", "GET", url)
send("to delete with it", "DELETE", url)
send("a longer life", "PUT", url.replace("X-Amz-Expires=", "X-Amz-Expires=9"), content, headers)
send("as asked", "PUT", url, content, headers)
send("again", "PUT", url, content, headers)
send("the store without a signature", "GET", plain)
send("the bucket's list", "GET", bucket + "?list-type=2")

ask("an output that is not declared", "POST", "/agent/v1/files", new(output="theirs"))
ask("a path out of the folder", "POST", "/agent/v1/files", new(path="../mine.txt"))
ask("a path with a line break", "POST", "/agent/v1/files", new(path="a\r\nb"))
ask("a commit of what is not stored", "POST", "/agent/v1/commit", {"files": [new(seq=78)]})
ask("with another token", "GET", "/agent/v1/assignment", bearer=token[:-4] + "AAAA")
ask("people's API", "GET", "/api/v1/namespaces/%s/tasks" % namespace)
blind = ssl.create_default_context()
blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
kubernetes = "https://kubernetes.default.svc/api/v1/namespaces/%s/secrets" % namespace
send("Kubernetes", "GET", kubernetes, context=blind)
send("Kubernetes with the token", "GET", kubernetes, headers={"Authorization": "Bearer " + token}, context=blind)

open(os.environ["ASYNCTASK_OUTPUTS"] + "/mine.txt", "wb").write(content)
json.dump(answers, open(os.environ["ASYNCTASK_OUTPUTS"] + "/answers.json", "w"))
"#;

#[test]
fn a_program_reaches_nothing_but_its_own_attempt() {
    let ns = Namespace::new("inside");
    let outputs = format!(
        "  store: {}\n  outputs: [{{name: mine, step: attack, path: mine.txt}}, {{name: answers, step: attack, path: \
         answers.json}}]",
        seaweed()
    );
    let python = variable("COURSE_OUTLINE_IMAGE");
    let shell = variable("HELLO_REPORT_IMAGE");
    let script = format!("python3 - <<'ATTACKS'{ATTACKS}ATTACKS\n");
    ns.define("attack", &steps("attack", &outputs, &[("attack", &script, "")]).replace(&shell, &python));
    ns.apply(&task("t", "attack")).ok();
    let status = ns.finished("t");
    assert_eq!(status["state"], "Complete", "{status:#}");

    let answers: BTreeMap<String, u16> =
        serde_json::from_str(&cli(&["-n", &ns.name, "outputs", "get", "t", "answers", "-o", "-"]).ok()).unwrap();
    println!("{answers:#?}");
    for (what, code) in &answers {
        match what.as_str() {
            "asked for" | "as asked" => assert_eq!(*code, 200, "{what}"),
            "again" => assert_eq!(*code, 412, "{what}"),
            "people's API" | "with another token" => assert_eq!(*code, 401, "{what}"),
            "a commit of what is not stored" | "an output that is not declared" => {
                assert!((400..500).contains(code), "{what}: {code}");
            }
            "other bytes" | "a longer life" => assert!(matches!(code, 400 | 403), "{what}: {code}"),
            what if what.starts_with("a path") => assert_eq!(*code, 422, "{what}"),
            what if what.starts_with("Kubernetes") => assert!(matches!(code, 401 | 403), "{what}: {code}"),
            what => assert_eq!(*code, 403, "{what}"),
        }
    }
    assert_eq!(answers.len(), 23);
    assert_eq!(cli(&["-n", &ns.name, "outputs", "get", "t", "mine", "-o", "-"]).ok(), "mine alone\n");
}
