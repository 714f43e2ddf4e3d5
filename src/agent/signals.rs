//! SIGTERM and SIGINT: the agent remembers who sent them, and passes them on to the program.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use tokio::sync::watch;

use asynctask_contract::wire::StoppedBy;

/// Links of a chain of parents that are followed.
const ANCESTORS: usize = 64;

/// Whether somebody asked the pod to stop, and who.
#[derive(Clone)]
pub(crate) struct Shutdown {
    stopped: watch::Receiver<Option<StoppedBy>>,
    group: Arc<AtomicI32>,
}

impl Shutdown {
    /// Listens from now on, as long as the process lives.
    pub(crate) fn listen() -> io::Result<Self> {
        let mut signals = SignalsInfo::<WithOrigin>::new([SIGTERM, SIGINT])?;
        let (tell, stopped) = watch::channel(None);
        let group = Arc::new(AtomicI32::new(0));
        let target = Arc::clone(&group);
        thread::Builder::new().name("signals".into()).spawn(move || {
            for came in signals.forever() {
                let inside = came.process.is_some_and(|sender| is_inside(sender.pid));
                let by = if inside { StoppedBy::Inside } else { StoppedBy::Outside };
                // Remembered before it is passed on: a program that ends because of it is never taken for one that ended
                // by itself. Whoever is outside has the last word.
                tell.send_if_modified(|known| {
                    let news = known.is_none() || (*known == Some(StoppedBy::Inside) && !inside);
                    if news {
                        *known = Some(by);
                    }
                    news
                });
                let signal = if came.signal == SIGINT { Signal::SIGINT } else { Signal::SIGTERM };
                pass_on(target.load(Ordering::SeqCst), signal);
            }
        })?;
        Ok(Self { stopped, group })
    }

    /// From now on the process group of `leader` gets what the agent gets; what came before is caught up.
    pub(crate) fn pass_on_to(&self, leader: Pid) {
        self.group.store(leader.as_raw(), Ordering::SeqCst);
        if self.stopped_by().is_some() {
            pass_on(leader.as_raw(), Signal::SIGTERM);
        }
    }

    /// The program has ended: its number may belong to somebody else soon.
    pub(crate) fn pass_on_to_nobody(&self) {
        self.group.store(0, Ordering::SeqCst);
    }

    /// Who asked the pod to stop, if anybody did.
    pub(crate) fn stopped_by(&self) -> Option<StoppedBy> {
        *self.stopped.borrow()
    }

    /// Whether somebody outside of the container asked for it: then there is little time left.
    pub(crate) fn is_told(&self) -> bool {
        self.stopped_by() == Some(StoppedBy::Outside)
    }

    /// Waits until [`Shutdown::is_told`].
    pub(crate) async fn told(&self) {
        let outside = |stopped: &Option<StoppedBy>| *stopped == Some(StoppedBy::Outside);
        if self.stopped.clone().wait_for(outside).await.is_err() {
            // The listener is gone: nobody can tell us any more.
            std::future::pending().await
        }
    }
}

fn pass_on(group: i32, signal: Signal) {
    // 0 would be the agent's own group. A group that is gone already needs nothing.
    if group > 0 {
        let _ = killpg(Pid::from_raw(group), signal);
    }
}

/// Whether a sender is a process of this container. The kubelet and its runtime are in another PID namespace, from where
/// a sender has no number here. Where several containers share a namespace only descendants are ours.
fn is_inside(sender: i32) -> bool {
    let own = std::process::id();
    sender > 0 && (own == 1 || descends(sender, i32::try_from(own).unwrap_or_default()))
}

fn descends(process: i32, from: i32) -> bool {
    let parents = std::iter::successors(Some(process), |process| parent(*process));
    parents.take(ANCESTORS).any(|ancestor| ancestor == from)
}

/// Of `/proc/<pid>/stat`; the name in it may hold anything, brackets included.
fn parent(process: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok().filter(|parent| *parent > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_descendant_is_inside() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let started = i32::try_from(child.id()).unwrap();
        let found = (descends(started, own), descends(own, started), descends(1, own));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, (true, false, false));
    }
}
