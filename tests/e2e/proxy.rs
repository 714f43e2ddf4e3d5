//! The command line in an office: behind a proxy, in the ways in which kubectl knows one.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::{Namespace, host_ip, kubectl, run, script, task};

/// A proxy that connects to whatever it is asked for, and remembers to what.
struct Proxy {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    refused: Arc<AtomicUsize>,
}

impl Proxy {
    fn open() -> Self {
        let listener = TcpListener::bind((host_ip(), 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, refused) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default());
        let (kept, counted) = (Arc::clone(&asked), Arc::clone(&refused));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (kept, counted) = (Arc::clone(&kept), Arc::clone(&counted));
                std::thread::spawn(move || {
                    if tunnel(&client, &kept).is_none() {
                        counted.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { url, asked, refused }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

/// Passes bytes both ways until one side ends.
fn tunnel(client: &TcpStream, asked: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut head = String::new();
    reader.read_line(&mut head).ok()?;
    let target = head.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
    let mut line = String::new();
    while reader.read_line(&mut line).ok()? > 2 {
        line.clear();
    }
    asked.lock().unwrap().push(target.clone());
    let server = TcpStream::connect(&target).ok()?;
    (&*client).write_all(b"HTTP/1.1 200 Connected\r\n\r\n").ok()?;
    let (mut up, mut answers) = (server.try_clone().ok()?, server);
    let back = client.try_clone().ok()?;
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut answers, &mut &back);
        let _ = back.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut reader, &mut up);
    let _ = up.shutdown(Shutdown::Both);
    Some(())
}

/// What each verb says, by the environment.
fn verbs(ns: &Namespace, environment: &[(&str, &str)], kubeconfig: Option<&str>) -> Vec<(String, i32, String)> {
    let all: [&[&str]; 6] = [
        &["list"],
        &["status", "t"],
        &["logs", "t"],
        &["outputs", "ls", "t"],
        &["outputs", "get", "t", "a", "-o", "-"],
        &["history", "t"],
    ];
    let of = |verb: &[&str]| {
        let mut command = Command::new("kubectl");
        command.arg("asynctask").args(["-n", &ns.name]).args(verb);
        for name in ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command.envs(environment.iter().copied());
        if let Some(kubeconfig) = kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        let said = run(&mut command, None);
        (verb.join(" "), said.code, format!("{}{}", said.out, said.err))
    };
    all.iter().map(|verb| of(verb)).collect()
}

#[test]
fn each_verb_works_through_the_proxies_that_kubectl_knows() {
    let ns = Namespace::new("office");
    ns.define(
        "quick",
        &script("quick", "echo said; echo given > $ASYNCTASK_OUTPUTS/a", "  outputs: [{name: a, step: work, path: a}]"),
    );
    ns.apply(&task("t", "quick")).ok();
    assert_eq!(ns.finished("t")["state"], "Complete");
    let mut config: Value =
        serde_json::from_str(&kubectl(&["config", "view", "--raw", "--minify", "-o", "json"]).ok()).unwrap();
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap().trim_start_matches("https://").to_owned();
    let host = server.split(':').next().unwrap().to_owned();
    assert!(!host.starts_with("127."), "no proxy is asked for {host}");
    let (proxy, nobody) = (Proxy::open(), "http://127.0.0.1:9");

    println!("| environment | verbs that work | connections through the proxy |\n|---|---|---|");
    let with_proxy_url = std::env::temp_dir().join("office.kubeconfig");
    for (what, environment, kubeconfig, through) in [
        ("none", vec![], false, false),
        ("HTTPS_PROXY", vec![("HTTPS_PROXY", proxy.url.as_str())], false, true),
        ("https_proxy", vec![("https_proxy", proxy.url.as_str())], false, true),
        (
            "HTTPS_PROXY that nobody answers at, NO_PROXY names the server",
            vec![("HTTPS_PROXY", nobody), ("NO_PROXY", &host)],
            false,
            false,
        ),
        ("the same in small letters", vec![("https_proxy", nobody), ("no_proxy", &host)], false, false),
        ("proxy-url of the kubeconfig, NO_PROXY names the server", vec![("NO_PROXY", &host)], true, true),
        ("proxy-url of the kubeconfig, HTTPS_PROXY that nobody answers at", vec![("HTTPS_PROXY", nobody)], true, true),
    ] {
        config["clusters"][0]["cluster"]["proxy-url"] = if kubeconfig { json!(proxy.url) } else { json!(null) };
        std::fs::write(&with_proxy_url, config.to_string()).unwrap();
        proxy.take();
        let said = verbs(&ns, &environment, Some(with_proxy_url.to_str().unwrap()));
        let asked = proxy.take();
        println!(
            "| {what} | {} of {} | {} |",
            said.iter().filter(|(_, code, _)| *code == 0).count(),
            said.len(),
            asked.len()
        );
        for (verb, code, text) in &said {
            assert_eq!(*code, 0, "{what}: {verb}: {text}");
        }
        assert_eq!(!asked.is_empty(), through, "{what}: {asked:?}");
        assert!(asked.iter().all(|target| *target == server), "nothing but the API server goes through it: {asked:?}");
    }
    let said = verbs(&ns, &[("HTTPS_PROXY", nobody)], None);
    assert!(said.iter().all(|(_, code, _)| *code != 0), "without NO_PROXY it is used: {said:?}");
    assert_eq!(proxy.refused.load(Ordering::SeqCst), 0);
}
