//! `retention`: what will be deleted, and when.

use jiff::{Timestamp, ToSpan};

use crate::connect::Session;
use crate::error::CliError;
use crate::exit::Exit;
use crate::terminal::{print, say};
use crate::verbs::keep::until;
use crate::verbs::list::tasks;
use crate::words::{clean, moment, size, table};
use asynctask_api::AsyncTask;
use asynctask_plan::retention::{end_of_task, expiry};

/// What will be deleted, and when
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List what goes in the next time, the next one first
    Preview(PreviewArgs),
}

#[derive(Debug, clap::Args)]
struct PreviewArgs {
    /// Name of a run; default: all runs of the namespace
    name: Option<String>,
    /// Up to this date or time; default: 30 days from now
    #[arg(long, value_name = "DATE", value_parser = until)]
    until: Option<Timestamp>,
}

/// Something that goes.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Going {
    at: Timestamp,
    task: String,
    what: String,
    bytes: u64,
}

/// Prints the list.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<Exit, CliError> {
    let Verb::Preview(PreviewArgs { name, until }) = &args.verb;
    let now = Timestamp::now();
    let until = until.unwrap_or_else(|| now.checked_add(720.hours()).unwrap_or(Timestamp::MAX));
    let mut going = Vec::new();
    for task in tasks(session, name.as_deref()).await? {
        going.extend(of(&task).into_iter().filter(|going| going.at <= until));
    }
    going.sort();
    if going.is_empty() {
        say(&format!("Nothing is deleted before {}", moment(until)));
    } else {
        print(&page(&going))?;
    }
    Ok(Exit::Ok)
}

/// What of a run goes at some time.
fn of(task: &AsyncTask) -> Vec<Going> {
    let Some(status) = &task.status else { return Vec::new() };
    let name = task.metadata.name.clone().unwrap_or_default();
    let there = status.outputs.iter().filter(|output| output.gone.is_none());
    let outputs = there.filter_map(|output| {
        let at = expiry(task, output)?;
        let bytes = u64::try_from(output.size).unwrap_or(0);
        Some(Going { at, task: name.clone(), what: format!("output {}", output.name), bytes })
    });
    let over = status.state.is_some_and(|state| state.is_terminal());
    let whole = end_of_task(task).filter(|_| over);
    let whole = whole.map(|at| Going { at, task: name.clone(), what: "the run and its logs".to_owned(), bytes: 0 });
    outputs.chain(whole).collect()
}

fn page(going: &[Going]) -> String {
    let mut rows = vec![["WHEN", "RUN", "WHAT", "SIZE"].map(str::to_owned).to_vec()];
    for Going { at, task, what, bytes } in going {
        let bytes = if *bytes == 0 { "-".to_owned() } else { size(*bytes) };
        rows.push(vec![moment(*at), clean(task), clean(what), bytes]);
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::{of, page};

    #[test]
    fn the_run_goes_after_the_last_of_its_outputs() {
        let task = serde_json::from_value(serde_json::json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": "t"},
            "spec": {"definition": {"name": "d"}},
            "status": {"state": "Complete", "expiresAt": "2027-01-02T00:00:00Z", "outputs": [
                {"name": "a", "step": "s", "files": 1, "size": 2048, "expiresAt": "2027-01-01T00:00:00Z"},
                {"name": "b", "step": "s", "files": 1, "size": 1, "expiresAt": "2027-01-03T00:00:00Z"},
            ]},
        }))
        .expect("a task");
        let mut going = of(&task);
        going.sort();
        let text = page(&going);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "2027-01-01 00:00:00Z  t    output a              2.00 KiB");
        assert!(lines[2].contains("output b") && lines[3].contains("the run and its logs"), "{text}");
        assert!(lines[3].starts_with("2027-01-03"), "it lives as long as its outputs: {text}");
    }
}
