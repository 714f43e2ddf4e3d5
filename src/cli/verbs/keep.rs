//! `keep`: keep what a run gave back for longer.

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::change::MANAGER;
use crate::cluster::ClusterError;
use crate::connect::Session;
use crate::error::CliError;
use crate::exit::Exit;
use crate::terminal::print;
use crate::words::{clean, moment, table};
use asynctask_api::AsyncTask;
use asynctask_plan::retention::{expiry, moment as date};

/// Keep what a run gave back to a later date, as far as its definition allows
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the run
    name: String,
    /// The date, or the time (RFC 3339); a date that was set before can only be moved to a later one
    #[arg(long, value_name = "DATE", value_parser = until)]
    until: Timestamp,
}

pub(crate) fn until(text: &str) -> Result<Timestamp, String> {
    date(text).ok_or_else(|| {
        format!("{text:?} is not a date: write 2027-01-31, or a time with its zone as 2027-01-31T22:00:00Z")
    })
}

/// Sets the date, and shows what it comes to.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<Exit, CliError> {
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({"spec": {"keepUntil": args.until.to_string()}}));
    let changed = session.tasks().patch(&args.name, &parameters, &patch).await;
    let task = changed.map_err(ClusterError::on(format!("keep the outputs of AsyncTask {:?}", args.name)))?;
    print(&page(&task, args.until))?;
    Ok(Exit::Ok)
}

fn page(task: &AsyncTask, wanted: Timestamp) -> String {
    let mut rows = vec![["OUTPUT", "KEPT UNTIL", ""].map(str::to_owned).to_vec()];
    for output in task.status.iter().flat_map(|status| &status.outputs).filter(|output| output.gone.is_none()) {
        let until = expiry(task, output);
        let short = until.is_some_and(|until| until < wanted);
        rows.push(vec![
            clean(&output.name),
            until.map_or_else(|| "the run is deleted".to_owned(), moment),
            if short { "the longest its definition allows".to_owned() } else { String::new() },
        ]);
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::{page, until};

    #[test]
    fn the_page_says_where_the_definition_allows_no_more() {
        let task = serde_json::from_value(serde_json::json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": "t"},
            "spec": {"definition": {"name": "d"}, "keepUntil": "2027-06-01T00:00:00Z"},
            "status": {"outputs": [
                {"name": "long", "step": "s", "files": 1, "size": 1, "expiresAt": "2027-01-01T00:00:00Z", "extensibleTo": "2028-01-01T00:00:00Z"},
                {"name": "fixed", "step": "s", "files": 1, "size": 1, "expiresAt": "2027-01-01T00:00:00Z"},
                {"name": "log", "step": "s", "files": 1, "size": 1},
            ]},
        }))
        .expect("a task");
        let text = page(&task, until("2027-06-01").expect("a date"));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "long    2027-06-01 00:00:00Z");
        assert_eq!(lines[2], "fixed   2027-01-01 00:00:00Z  the longest its definition allows");
        assert_eq!(lines[3], "log     the run is deleted");
        assert!(until("next week").is_err());
    }
}
