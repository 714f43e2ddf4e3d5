//! Callers who want to wear the gateway out: nobody else notices, and its memory does not.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::component::{forget, peak, process};
use crate::support::{Namespace, gateway_address, gateway_ca, gateway_url, http, run};

/// How much more memory, in KiB, the gateway may need for all of them: their connections.
const MORE: u64 = 24 << 10;
/// Connections that stay open and say little.
const SLOW: usize = 300;

/// Opens connections, each with half a request of somebody with a good token, says so, and stays until it is ended.
const HOLD: &str = r#"
import socket, ssl, sys
address, ca, token, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
context, held = ssl.create_default_context(cafile=ca), []
context.check_hostname = False
for _ in range(count):
    connection = context.wrap_socket(socket.create_connection((address, 443)))
    head = f"POST /api/v1/namespaces/default/tasks HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n"
    connection.sendall((head + "Content-Type: application/json\r\nContent-Length: 200000\r\n\r\n{").encode())
    held.append(connection)
print("held", flush=True)
sys.stdin.read()
"#;

#[test]
fn whoever_floods_the_gateway_is_refused_or_waits_and_nobody_else_does() {
    let ns = Namespace::new("flood");
    let alice = ns.person("alice", Some("edit"));
    let tasks = format!("/api/v1/namespaces/{}/tasks", ns.name);
    assert_eq!(alice.http("GET", &tasks, &[]).status, 200);
    let gateway = process("gateway").unwrap();
    forget(&gateway);
    let before = peak(&gateway).unwrap();

    // Two gigabytes of somebody without a credential: refused before they are sent.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large");
    std::fs::File::create(&file).unwrap().set_len(2 << 30).unwrap();
    let began = Instant::now();
    let refused = http("POST", &tasks, &["-T", file.to_str().unwrap(), "-H", "Content-Type: application/json"]);
    assert_eq!(refused.status, 401, "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());

    // And who does not wait for the answer has the connection cut.
    let rude = folder.path().join("rude");
    std::fs::write(&rude, format!("request = \"POST\"\nupload-file = \"{}\"\nheader = \"Expect:\"\n", file.display()))
        .unwrap();

    // Ten thousand headers, and some of eight kilobytes: neither are read to their end.
    let many = folder.path().join("many");
    let headers: String = (0..10_000).map(|n| format!("header = \"X-{n}: {n}\"\n")).collect();
    std::fs::write(&many, headers).unwrap();
    let long = folder.path().join("long");
    let headers: String = (0..90).map(|n| format!("header = \"X-{n}: {}\"\n", "x".repeat(8 << 10))).collect();
    std::fs::write(&long, headers).unwrap();
    for (config, status) in [(&rude, "401"), (&many, "431"), (&long, "431")] {
        let mut command = Command::new("curl");
        command.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20", "--cacert"]).arg(gateway_ca());
        command.args(["--resolve", gateway_address(), "--config"]).arg(config).arg(format!("{}{tasks}", gateway_url()));
        let said = run(&mut command, None);
        println!("{}: {} (curl ends with {})", config.display(), said.out, said.code);
        // Refused, or the connection was cut while curl still sent; not read to its end.
        assert!(said.out == status || said.out == "000" && said.code != 28, "{}: {}", said.out, said.err);
    }

    // Many who begin a request and do not go on.
    let mut hold = Command::new("python3");
    let (_, address) = gateway_address().rsplit_once(':').unwrap();
    hold.args(["-c", HOLD, address]).arg(gateway_ca()).args([&alice.token, &SLOW.to_string()]);
    let mut hold = hold.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(hold.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    let began = Instant::now();
    assert_eq!(alice.http("GET", &tasks, &[]).status, 200);
    assert!(began.elapsed() < Duration::from_secs(5), "others wait: {:?}", began.elapsed());
    let after = peak(&gateway).unwrap();
    hold.kill().unwrap();
    hold.wait().unwrap();
    println!("{before} KiB before, {after} KiB at most; {SLOW} connections held");
    assert!(after <= before + MORE, "{before} KiB before, {after} KiB at most");
    assert_eq!(process("gateway").unwrap(), gateway, "it was not started again");
}
