//! Follows a run until it ends.

use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use kube::runtime::{WatchStreamExt, watcher};

use super::cluster::{ClusterError, is_transient, watch_failure, why};
use super::connect::Session;
use super::exit::Exit;
use super::render;
use super::terminal::{Canvas, PrintError, is_terminal, print, say, view};
use asynctask_api::AsyncTask;

/// A run that cannot be followed any further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    /// The API server says no.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Somebody deleted it.
    #[error("AsyncTask {0:?} was deleted before it ended")]
    Deleted(String),
    /// Nobody reads.
    #[error(transparent)]
    Print(#[from] PrintError),
}

/// What is shown on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// The plan, drawn over itself on a terminal; elsewhere a line per change.
    Changes,
    /// Nothing.
    Nothing,
}

/// The run's end, or the time-out's.
#[derive(Debug)]
pub(crate) struct Followed {
    /// For the shell.
    pub(crate) exit: Exit,
    /// The task as it was seen last.
    pub(crate) task: Option<AsyncTask>,
}

/// Follows the run `name` until it ends or `timeout` has passed.
pub(crate) async fn follow(
    session: &Session,
    name: &str,
    show: Show,
    timeout: Option<Duration>,
) -> Result<Followed, FollowError> {
    let mut seen = None;
    let ended = until_ended(session, name, show, &mut seen);
    let exit = match timeout {
        None => ended.await?,
        Some(limit) => match tokio::time::timeout(limit, ended).await {
            Ok(exit) => exit?,
            Err(_) => {
                say(&format!("AsyncTask {name:?} has not ended within {limit:?}; it goes on"));
                Exit::Timeout
            }
        },
    };
    Ok(Followed { exit, task: seen })
}

async fn until_ended(
    session: &Session,
    name: &str,
    show: Show,
    seen: &mut Option<AsyncTask>,
) -> Result<Exit, FollowError> {
    // Read once, so that a missing name or right is told in the API server's words at once.
    let first = session.tasks().get(name).await.map_err(ClusterError::on(format!("read AsyncTask {name:?}")))?;
    let mut changes = watcher::watch_object(session.tasks(), name).default_backoff().boxed();
    let mut page = Page::new(show);
    page.show(&first)?;
    *seen = Some(first);
    loop {
        if let Some(exit) = seen.as_ref().and_then(exit_of) {
            page.end()?;
            return Ok(exit);
        }
        tokio::select! {
            // The stream has no end: a watch that breaks begins anew.
            Some(change) = changes.next() => match change {
                Ok(Some(task)) => {
                    page.show(&task)?;
                    *seen = Some(task);
                }
                Ok(None) => {
                    page.end()?;
                    return Err(FollowError::Deleted(name.to_owned()));
                }
                Err(error) => page.trouble(name, error)?,
            },
            () = page.tick() => {
                if let Some(task) = seen.as_ref() {
                    page.show(task)?;
                }
            }
        }
    }
}

/// The code of a run that has ended.
pub(crate) fn exit_of(task: &AsyncTask) -> Option<Exit> {
    task.status.as_ref().and_then(|s| s.state).and_then(Exit::of)
}

/// Where the changes are shown.
enum Page {
    Drawn(Canvas),
    Lines { last: String },
    Hidden,
}

impl Page {
    fn new(show: Show) -> Self {
        match show {
            Show::Nothing => Self::Hidden,
            Show::Changes if is_terminal() => Self::Drawn(Canvas::new()),
            Show::Changes => Self::Lines { last: String::new() },
        }
    }

    fn show(&mut self, task: &AsyncTask) -> Result<(), PrintError> {
        match self {
            Self::Drawn(canvas) => canvas.draw(&render::live(task, view())),
            Self::Lines { last } => {
                let line = render::line(task);
                if line != *last {
                    print(&format!("{}  {line}\n", Timestamp::now().strftime("%H:%M:%SZ")))?;
                    *last = line;
                }
                Ok(())
            }
            Self::Hidden => Ok(()),
        }
    }

    /// When a drawn page should move on by itself, for its clock; never for the others.
    async fn tick(&self) {
        match self {
            Self::Drawn(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            Self::Lines { .. } | Self::Hidden => std::future::pending().await,
        }
    }

    /// A broken watch is told and begun anew by the stream; a refusal ends it.
    fn trouble(&mut self, name: &str, error: watcher::Error) -> Result<(), FollowError> {
        self.end()?;
        let Some(error) = watch_failure(error) else { return Ok(()) };
        if is_transient(&error) {
            say(&format!("The connection to the cluster broke, trying again: {}", why(&error)));
            return Ok(());
        }
        Err(ClusterError::new(format!("watch AsyncTask {name:?}"), error).into())
    }

    fn end(&mut self) -> Result<(), PrintError> {
        match self {
            Self::Drawn(canvas) => canvas.clear(),
            Self::Lines { .. } | Self::Hidden => Ok(()),
        }
    }
}
