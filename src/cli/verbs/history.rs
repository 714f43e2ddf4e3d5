//! `history`: every change of state of a run, also when its object is gone.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cluster::ClusterError;
use crate::connect::Session;
use crate::error::CliError;
use crate::exit::Exit;
use crate::format::Document;
use crate::gateway::GatewayError;
use crate::render::transition;
use crate::terminal::{print, say, view};
use crate::words::{Paint, clean, indent, moment, table};
use asynctask_api::task::Transition;
use asynctask_api::{AsyncTask, TaskState};

/// Show every change of state of the runs of a name, also when they are deleted
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the run
    name: String,
    /// Print the records in this format
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Document>,
}

/// Neither a record nor an object.
#[derive(Debug, thiserror::Error)]
#[error(
    "no run of the name {name:?} is known in namespace {namespace:?}: neither an AsyncTask nor a record of one. \
     `kubectl asynctask list` shows what there is; records go with the end of their retention"
)]
pub(crate) struct HistoryError {
    name: String,
    namespace: String,
}

/// What the gateway answers: the newest run first.
#[derive(Debug, Deserialize)]
struct Answer {
    runs: Vec<Value>,
}

/// What is shown of a record.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    name: String,
    uid: String,
    created_at: Timestamp,
    state: TaskState,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    transitions: Vec<Transition>,
}

/// Prints what is recorded, else what the object itself still knows.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<Exit, CliError> {
    let recorded = recorded(session, &args.name).await;
    let act = format!("read AsyncTask {:?}", args.name);
    let runs = match recorded {
        Ok(runs) if !runs.is_empty() => runs,
        other => {
            let live = session.tasks().get_opt(&args.name).await.map_err(ClusterError::on(act))?;
            match (live, other) {
                (Some(task), other) => {
                    if let Err(error) = other {
                        say(&format!("Only what the object still knows is shown: {error}"));
                    }
                    vec![of(&task)]
                }
                (None, Err(error)) => return Err(error.into()),
                (None, Ok(_)) => {
                    let (name, namespace) = (args.name.clone(), session.namespace.clone());
                    return Err(HistoryError { name, namespace }.into());
                }
            }
        }
    };
    match args.output {
        Some(document) => print(&document.text(&json!({ "runs": runs })))?,
        None => print(&page(&runs, view().paint))?,
    }
    Ok(Exit::Ok)
}

/// What the gateway has; empty: no record yet.
async fn recorded(session: &Session, name: &str) -> Result<Vec<Value>, GatewayError> {
    let gateway = session.gateway().await?;
    let answer = gateway.get::<Answer>(gateway.path(&session.namespace, &["tasks", name, "history"])).await;
    match answer {
        Ok(answer) => Ok(answer.runs),
        Err(error) if error.status() == Some(404) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The object in the shape of a record.
fn of(task: &AsyncTask) -> Value {
    let status = task.status.clone().unwrap_or_default();
    json!({
        "namespace": task.metadata.namespace,
        "name": task.metadata.name,
        "uid": task.metadata.uid,
        "createdAt": task.metadata.creation_timestamp,
        "spec": task.spec,
        "state": status.state.unwrap_or(TaskState::Pending),
        "reason": status.reason,
        "message": status.message,
        "revision": status.revision,
        "transitions": status.transitions,
        "steps": status.steps,
        "failure": status.failure,
        "outputs": status.outputs,
    })
}

/// A block for each run. A record that this version cannot read is a line that says so, and hides no other.
fn page(runs: &[Value], paint: Paint) -> String {
    let blocks: Vec<_> = runs.iter().map(|run| block(run, paint)).collect();
    blocks.join("\n")
}

fn block(run: &Value, paint: Paint) -> String {
    let record = match Record::deserialize(run) {
        Ok(record) => record,
        Err(error) => return format!("unreadable record: {}\n", clean(&error.to_string())),
    };
    let reason = record.reason.as_deref().filter(|reason| *reason != record.state.as_str());
    let reason = reason.map(|reason| format!("  {}", clean(reason))).unwrap_or_default();
    let about = format!("created {}, UID {}", moment(record.created_at), clean(&record.uid));
    let head = format!("{}  {}{reason}  {}", paint.bold(&clean(&record.name)), record.state, paint.dim(&about));
    let rows: Vec<_> = record.transitions.iter().map(transition).collect();
    format!("{head}\n{}", indent(&table(&rows), "  "))
}

#[cfg(test)]
mod tests {
    use super::{of, page};
    use crate::golden;
    use crate::words::Paint;
    use serde_json::json;

    #[test]
    fn a_name_that_ran_twice_has_two_blocks_the_newest_first() {
        let task = serde_yaml_ng::from_str(include_str!("../golden/tree_canceled.yaml")).expect("an AsyncTask");
        let mut newest = of(&task);
        newest["uid"] = json!("b2");
        let oldest = json!({
            "name": "import-7", "uid": "a1", "createdAt": "2026-11-23T08:00:00Z", "state": "Failed", "reason": "Timeout",
            "transitions": [{"seq": 1, "to": "Failed", "at": "2026-11-23T09:00:00Z", "reason": "Timeout", "step": "courses"}],
        });
        let runs = [newest, json!({"name": 7}), oldest];
        golden::check("history.txt", &page(&runs, Paint { on: false }));
    }
}
