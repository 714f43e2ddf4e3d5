//! The first oracle: a server that each program tells that it begins. What it heard is what ran, whatever the objects
//! say.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// Lines `namespace task step attempt`, in the order they came.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    pub(crate) address: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Ledger {
    /// Listens where pods reach this machine.
    pub(crate) fn open(ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let ledger = Self { address: listener.local_addr().unwrap(), lines: Arc::default() };
        let lines = Arc::clone(&ledger.lines);
        std::thread::spawn(move || {
            // Each on its own: a pod that is gone before it has said its line must not keep the others waiting.
            for connection in listener.incoming().flatten() {
                let lines = Arc::clone(&lines);
                std::thread::spawn(move || {
                    if let Err(error) = enter(connection, &lines) {
                        println!("the ledger missed a line: {error}");
                    }
                });
            }
        });
        ledger
    }

    /// What the programs of a namespace said, in the order they said it.
    pub(crate) fn lines(&self, namespace: &str) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let before = format!("{namespace} ");
        lines.iter().filter_map(|line| line.strip_prefix(&before)).map(str::to_owned).collect()
    }

    /// How often each `task step attempt` of a namespace began.
    pub(crate) fn runs(&self, namespace: &str) -> BTreeMap<String, usize> {
        let mut runs = BTreeMap::new();
        for run in self.lines(namespace) {
            *runs.entry(run).or_default() += 1;
        }
        runs
    }
}

/// One line; the program goes on when it is written down, and learns the how many-th of its kind it is.
fn enter(mut connection: TcpStream, lines: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new(connection.try_clone()?).read_line(&mut line)?;
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    lines.push(line.trim().to_owned());
    let times = lines.iter().filter(|said| *said == line.trim()).count();
    writeln!(connection, "written {times}")
}
