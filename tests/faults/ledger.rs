//! The first oracle: a server that each program tells that it begins. What it heard is what ran, whatever the objects
//! say. It may keep a program waiting for its answer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Lines `namespace task step attempt`, in the order they came.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    pub(crate) address: SocketAddr,
    lines: Arc<Mutex<Vec<Line>>>,
    held: Arc<Held>,
}

/// What somebody said; whoever was not answered says it again under the same id.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    id: String,
    said: String,
}

/// Lines whose programs wait.
#[derive(Debug, Default)]
struct Held {
    lines: Mutex<BTreeSet<String>>,
    changed: Condvar,
}

impl Held {
    fn wait(&self, line: &str) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.changed.wait_while(lines, |lines| lines.contains(line));
        drop(free.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Ledger {
    /// Listens where pods reach this machine.
    pub(crate) fn open(ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let ledger = Self { address, lines: Arc::default(), held: Arc::default() };
        let (lines, held) = (Arc::clone(&ledger.lines), Arc::clone(&ledger.held));
        std::thread::spawn(move || {
            // Each on its own: a pod that is gone before it has said its line must not keep the others waiting.
            for connection in listener.incoming().flatten() {
                let (lines, held) = (Arc::clone(&lines), Arc::clone(&held));
                std::thread::spawn(move || {
                    if let Err(error) = enter(connection, &lines, &held) {
                        println!("the ledger missed a line: {error}");
                    }
                });
            }
        });
        ledger
    }

    /// A program that says this line of a namespace gets no answer until [`Self::release`].
    pub(crate) fn hold(&self, namespace: &str, line: &str) {
        let mut lines = self.held.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.insert(format!("{namespace} {line}"));
    }

    /// All programs go on.
    pub(crate) fn release(&self) {
        self.held.lines.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.held.changed.notify_all();
    }

    /// What the programs of a namespace said, in the order they said it.
    pub(crate) fn lines(&self, namespace: &str) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let before = format!("{namespace} ");
        lines.iter().filter_map(|line| line.said.strip_prefix(&before)).map(str::to_owned).collect()
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
fn enter(mut connection: TcpStream, lines: &Mutex<Vec<Line>>, held: &Held) -> std::io::Result<()> {
    let mut text = String::new();
    BufReader::new(connection.try_clone()?).read_line(&mut text)?;
    let Some((id, said)) = text.trim().split_once(' ') else {
        return Err(std::io::Error::other(format!("{text:?} is cut off")));
    };
    let times = {
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = Line { id: id.to_owned(), said: said.to_owned() };
        if lines.contains(&line) {
            println!("the ledger is told again: {text}");
        } else {
            lines.push(line);
        }
        lines.iter().filter(|line| line.said == said).count()
    };
    held.wait(said);
    writeln!(connection, "written {times}")
}
