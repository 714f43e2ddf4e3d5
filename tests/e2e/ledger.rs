//! A ledger: every program of a test writes down what it does, with an HTTP request to this machine.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use crate::support::host_ip;

/// Lines in the order they came.
#[derive(Clone)]
pub(crate) struct Ledger {
    lines: Arc<Mutex<Vec<String>>>,
    address: String,
}

impl Ledger {
    /// Listens until the process ends.
    pub(crate) fn open() -> Self {
        let listener = TcpListener::bind((host_ip(), 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Each in a thread of its own: a pod that is killed half way through its line holds up no other.
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || {
                    // To the empty line: what is left unread when the stream is closed resets it, and the program fails.
                    let lines = BufReader::new(&stream).lines().map_while(Result::ok);
                    let request = lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
                    let Some(line) = request.split_whitespace().nth(1) else { return };
                    let line = line.trim_start_matches('/').to_owned();
                    let nth = {
                        let mut lines = kept.lock().unwrap();
                        lines.push(line.clone());
                        lines.iter().filter(|other| **other == line).count()
                    };
                    let _ = write!(&stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{nth}\n");
                });
            }
        });
        Self { lines, address }
    }

    /// Shell that writes a line; it may hold variables.
    pub(crate) fn write(&self, line: &str) -> String {
        format!("{} >/dev/null", self.ask(line))
    }

    /// Shell that stands for a number: it writes a line, and is how often the line was written by now.
    pub(crate) fn count(&self, line: &str) -> String {
        format!("$({} | tail -n 1)", self.ask(line))
    }

    fn ask(&self, line: &str) -> String {
        let (host, port) = self.address.rsplit_once(':').unwrap();
        format!(
            r#"bash -c 'exec 3<>/dev/tcp/{host}/{port} && printf "GET /%s HTTP/1.0\r\n\r\n" "$1" >&3 && cat <&3' - "{line}""#
        )
    }

    /// The lines that begin with this.
    pub(crate) fn lines(&self, start: &str) -> Vec<String> {
        self.lines.lock().unwrap().iter().filter(|line| line.starts_with(start)).cloned().collect()
    }
}
