//! Processes that the program left behind when it ended: a shell waits neither for `… > >(gzip > out.gz)` nor for `… &`, and
//! a result without what they still write would be a part that looks whole.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long those may go on that write to nothing of ours now: the end of a pipe may open its file last.
const OTHERS: Duration = Duration::from_secs(5);
/// Between two looks, at first and at most.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_millis(500);
/// So many are named.
const NAMED: usize = 3;
/// Access mode in the flags of an open file: anything but reading alone.
const WRITES: u32 = 0o3;

/// Those that were not waited for any longer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Killed {
    /// Names of those that had something of ours open for writing.
    writers: Vec<String>,
    /// Names of the others.
    others: Vec<String>,
}

/// Waits until no descendant of this process is left: those that write to a watched path have `limit`. Dropping the future
/// loses nothing.
pub(crate) async fn wait(watched: &[PathBuf], limit: Duration) -> Killed {
    let began = Instant::now();
    // What a process has open is told by its real name.
    let watched: Vec<PathBuf> = watched.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
    let mut look = LOOK;
    loop {
        let left = left(&watched);
        let patience = if left.iter().any(|process| process.writes != Writes::Not) { limit } else { OTHERS.min(limit) };
        if left.is_empty() || began.elapsed() >= patience {
            return Killed::of(left);
        }
        sleep(look).await;
        look = (look * 2).min(LOOK_MAX);
    }
}

impl Killed {
    fn of(left: Vec<Process>) -> Self {
        let mut killed = Self::default();
        for Process { name, writes } in left {
            if writes == Writes::Ours { killed.writers.push(name) } else { killed.others.push(name) }
        }
        killed
    }

    /// Whether one had something of ours open for writing.
    pub(crate) fn wrote(&self) -> bool {
        !self.writers.is_empty()
    }

    /// Whether the result may be whole: an error says why not, a warning what else there is to know.
    pub(crate) fn judge(&self) -> Result<Option<String>, String> {
        if self.wrote() {
            return Err(format!(
                "{} still wrote to $ASYNCTASK_OUTPUTS or $ASYNCTASK_EMIT long after the program had ended, and was ended: what \
                 it wrote is not whole. Let the program wait for what it starts (`wait` in a shell)",
                listed(&self.writers)
            ));
        }
        Ok((!self.others.is_empty()).then(|| {
            format!(
                "{} still ran when the program had ended, and was ended: let the program end or await what it starts",
                listed(&self.others)
            )
        }))
    }
}

/// Their names are the program's own words, so they are shown escaped.
fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(NAMED).map(|name| format!("{name:?}")).collect();
    let more = names.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let what = if names.len() == 1 { "process" } else { "each of the processes" };
    format!("{what} {}{more}", shown.join(", "))
}

struct Process {
    name: String,
    writes: Writes,
}

/// Whether a process has something below a watched path open for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    Ours,
    Not,
    /// It does not let us look: it has the time of one that does, and is not blamed for what nobody saw.
    Unknown,
}

fn left(watched: &[PathBuf]) -> Vec<Process> {
    living().into_iter().map(|(pid, name)| Process { name, writes: writes(pid, watched) }).collect()
}

/// Descendants of this process that have not ended. As PID 1, or as the reaper of its descendants, it is an ancestor of all
/// that the program started, however often that forked.
fn living() -> Vec<(u32, String)> {
    let own = std::process::id();
    let all: HashMap<u32, Stat> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, Stat::read(pid)?)))
        .collect();
    let parent = |pid: &u32| all.get(pid).map(|stat| stat.parent);
    let ours = |pid: u32| std::iter::successors(Some(pid), parent).skip(1).take(all.len()).any(|above| above == own);
    let living = all.iter().filter(|(pid, stat)| !stat.ended && ours(**pid));
    living.map(|(pid, stat)| (*pid, stat.name.clone())).collect()
}

struct Stat {
    name: String,
    parent: u32,
    /// It waits only for somebody to take note of its end.
    ended: bool,
}

impl Stat {
    /// `/proc/<pid>/stat`: number, name in brackets, state, number of the parent. The name may hold anything.
    fn read(pid: u32) -> Option<Self> {
        let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let (head, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let (state, parent) = (fields.next()?, fields.next()?.parse().ok()?);
        let name = head.split_once('(').map_or("", |(_, name)| name).to_owned();
        Some(Self { name, parent, ended: matches!(state, "Z" | "X") })
    }
}

fn writes(pid: u32, watched: &[PathBuf]) -> Writes {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return if Path::new(&format!("/proc/{pid}")).exists() { Writes::Unknown } else { Writes::Not };
    };
    let to_ours = open.flatten().any(|file| {
        let target = fs::read_link(file.path()).unwrap_or_default();
        watched.iter().any(|path| target.starts_with(path)) && for_writing(pid, &file.file_name().to_string_lossy())
    });
    if to_ours { Writes::Ours } else { Writes::Not }
}

fn for_writing(pid: u32, descriptor: &str) -> bool {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & WRITES != 0)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn shell(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).spawn().unwrap()
    }

    /// Of this process all tests' children are descendants, so only the own one is looked for.
    fn of(child: &Child, watched: &Path) -> Writes {
        writes(child.id(), &[watched.to_owned()])
    }

    #[test]
    fn a_writer_is_told_from_a_reader_and_from_one_that_writes_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        let inside = root.join("outputs");
        fs::create_dir(&inside).unwrap();
        fs::write(inside.join("old"), "x").unwrap();
        let place = inside.display();
        let mut children = [
            shell(&format!("exec 3>{place}/new; exec sleep 60")),
            shell(&format!("exec 3<{place}/old; exec sleep 60")),
            shell(&format!("exec 3>{}; exec sleep 60", root.join("other").display())),
        ];
        let asleep = |child: &Child| Stat::read(child.id()).is_some_and(|stat| stat.name == "sleep");
        while !children.iter().all(asleep) {
            std::thread::yield_now();
        }
        let found = children.each_ref().map(|child| of(child, &inside));
        let seen = left(&[]).len() >= 3;
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!((found, seen), ([Writes::Ours, Writes::Not, Writes::Not], true));
    }

    #[test]
    fn a_writer_that_was_ended_is_a_failure_and_any_other_a_warning() {
        let of = |writers: &[&str], others: &[&str]| {
            let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
            Killed { writers: names(writers), others: names(others) }.judge()
        };
        assert_eq!(of(&[], &[]), Ok(None));
        assert!(of(&["gzip"], &["sleep"]).unwrap_err().starts_with("process \"gzip\" still wrote"));
        let unseen = Killed::of(vec![Process { name: "sshd".into(), writes: Writes::Unknown }]);
        assert!(unseen.judge().unwrap().unwrap().contains("sshd"), "nobody saw it write");
        let many = of(&[], &["a\u{1b}", "b", "c", "d"]).unwrap().unwrap();
        assert!(many.starts_with(r#"each of the processes "a\u{1b}", "b", "c" and 1 more still ran"#), "{many}");
    }
}
