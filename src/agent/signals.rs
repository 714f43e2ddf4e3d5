//! SIGTERM and SIGINT: remembered for the agent, passed on to the program.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether somebody asked the pod to stop.
#[derive(Clone)]
pub(crate) struct Shutdown {
    told: watch::Receiver<bool>,
    group: Arc<AtomicI32>,
}

impl Shutdown {
    /// Listens from now on; the listener lives as long as the runtime.
    pub(crate) fn listen() -> io::Result<Self> {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let (tell, told) = watch::channel(false);
        let group = Arc::new(AtomicI32::new(0));
        let target = Arc::clone(&group);
        tokio::spawn(async move {
            loop {
                let came = tokio::select! {
                    Some(()) = term.recv() => Signal::SIGTERM,
                    Some(()) = int.recv() => Signal::SIGINT,
                    else => return,
                };
                // Remembered before it is passed on: a program that ends because of it is never taken for one that
                // ended by itself.
                tell.send_replace(true);
                pass_on(target.load(Ordering::SeqCst), came);
            }
        });
        Ok(Self { told, group })
    }

    /// From now on the process group of `leader` gets what the agent gets; what came before is caught up.
    pub(crate) fn pass_on_to(&self, leader: Pid) {
        self.group.store(leader.as_raw(), Ordering::SeqCst);
        if self.is_told() {
            pass_on(leader.as_raw(), Signal::SIGTERM);
        }
    }

    /// The program has ended: its number may belong to somebody else soon.
    pub(crate) fn pass_on_to_nobody(&self) {
        self.group.store(0, Ordering::SeqCst);
    }

    pub(crate) fn is_told(&self) -> bool {
        *self.told.borrow()
    }

    /// Waits for the first signal; at once if it has come already.
    pub(crate) async fn told(&self) {
        if self.told.clone().wait_for(|told| *told).await.is_err() {
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
