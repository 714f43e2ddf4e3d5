//! `shards`: what became of each shard of a step, from the records in the store.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::change::read;
use crate::connect::Session;
use crate::error::CliError;
use crate::exit::Exit;
use crate::gateway::{Gateway, GatewayError};
use crate::terminal::{print, say};
use crate::words::{clean, grouped, table};
use asynctask_api::AsyncTask;
use asynctask_contract::wire::ItemCounts;

/// Shards asked for at a time.
const PAGE: usize = 500;

/// List the shards of a step, with what became of each
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the run
    name: String,
    /// Name of the step; needed where several run in shards
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    /// Only those that failed
    #[arg(long)]
    failed: bool,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Print them in this format
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<crate::format::Document>,
}

/// Shards that cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShardsError {
    /// The gateway does not tell.
    #[error("cannot list the shards of step {step:?} of AsyncTask {task:?}: {source}")]
    List {
        /// Task.
        task: String,
        /// Step.
        step: String,
        /// Why.
        source: Box<GatewayError>,
    },
    /// No such step in the plan.
    #[error("AsyncTask {task:?} has no step {}that runs in shards{known}", wanted.as_ref().map(|step| format!("{step:?} ")).unwrap_or_default())]
    Step {
        /// Task.
        task: String,
        /// What was asked for.
        wanted: Option<String>,
        /// What there is.
        known: String,
    },
    /// More than one.
    #[error("AsyncTask {task:?} has several steps that run in shards: name one with --step {steps}")]
    Several {
        /// Task.
        task: String,
        /// What there is.
        steps: String,
    },
}

/// The steps of a run that run in shards.
pub(crate) fn sharded(task: &AsyncTask) -> Vec<&str> {
    let plan = task.status.iter().flat_map(|status| &status.plan);
    plan.filter(|planned| planned.fan_out.is_some()).map(|planned| planned.name.as_str()).collect()
}

/// The step that is meant.
pub(crate) fn step_of(task: &AsyncTask, wanted: Option<&str>) -> Result<String, ShardsError> {
    let steps = sharded(task);
    let name = || task.metadata.name.clone().unwrap_or_default();
    match (wanted, steps.as_slice()) {
        (Some(wanted), steps) if steps.contains(&wanted) => Ok(wanted.to_owned()),
        (None, [only]) => Ok((*only).to_owned()),
        (None, [_, _, ..]) => Err(ShardsError::Several { task: name(), steps: steps.join(" or ") }),
        (wanted, steps) => {
            let planned = task.status.as_ref().is_some_and(|status| !status.plan.is_empty());
            let known = match (planned, steps) {
                (false, _) => ": its steps are known once it is admitted".to_owned(),
                (true, []) => String::new(),
                (true, steps) => format!("; there is {}", steps.join(" and ")),
            };
            Err(ShardsError::Step { task: name(), wanted: wanted.map(str::to_owned), known })
        }
    }
}

/// One page of the gateway's answer.
#[derive(Debug, Deserialize)]
struct Page {
    shards: Vec<Value>,
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

/// What is shown of a shard.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shard {
    shard: u32,
    state: String,
    #[serde(default)]
    attempt: Option<u32>,
    #[serde(default)]
    items: Option<ItemCounts>,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    exit_code: Option<i32>,
}

/// Prints them, however many pages they are.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<Exit, CliError> {
    let task = read(session, &args.name).await?;
    let step = step_of(&task, args.step.as_deref())?;
    let gateway = session.gateway().await?;
    let listed = all(&gateway, &session.namespace, &step, args).await;
    let (shards, more) = listed.map_err(|source| ShardsError::List {
        task: args.name.clone(),
        step: step.clone(),
        source: Box::new(source),
    })?;
    match args.output {
        Some(document) => print(&document.text(&json!({"step": step, "shards": shards})))?,
        None if shards.is_empty() => {
            let what = if args.failed { "has failed" } else { "is recorded yet" };
            say(&format!("No shard of step {step} of AsyncTask {:?} {what}", args.name));
        }
        None => print(&page(&shards))?,
    }
    if more {
        say(&format!("There are more than these {}: --limit shows so many", grouped(shards.len() as i64)));
    }
    Ok(Exit::Ok)
}

/// The shards, and whether there are more than asked for.
async fn all(gateway: &Gateway, namespace: &str, step: &str, args: &Args) -> Result<(Vec<Value>, bool), GatewayError> {
    let limit = args.limit.map_or(usize::MAX, |limit| limit as usize);
    let mut shards = Vec::new();
    let mut next: Option<String> = None;
    loop {
        let mut url = gateway.path(namespace, &["tasks", &args.name, "shards"]);
        let wanted = PAGE.min(limit - shards.len()).to_string();
        url.query_pairs_mut().append_pair("step", step).append_pair("limit", &wanted);
        if args.failed {
            url.query_pairs_mut().append_pair("state", "Failed");
        }
        if let Some(next) = &next {
            url.query_pairs_mut().append_pair("continue", next);
        }
        let page: Page = gateway.get(url).await?;
        shards.extend(page.shards);
        next = page.next;
        if next.is_none() || shards.len() >= limit {
            shards.truncate(limit);
            return Ok((shards, next.is_some()));
        }
    }
}

fn page(shards: &[Value]) -> String {
    let mut rows = vec![["SHARD", "STATE", "ATTEMPT", "ITEMS", "CODE", "MESSAGE"].map(str::to_owned).to_vec()];
    rows.extend(shards.iter().map(row));
    table(&rows)
}

/// A record that this version cannot read is a row that says so, and hides no other.
fn row(shard: &Value) -> Vec<String> {
    let shard = match Shard::deserialize(shard) {
        Ok(shard) => shard,
        Err(error) => return vec!["?".to_owned(), format!("unreadable: {}", clean(&error.to_string()))],
    };
    let dash = || "-".to_owned();
    let exit = shard.exit_code.map(|code| format!(" ({code})")).unwrap_or_default();
    vec![
        shard.shard.to_string(),
        clean(&shard.state),
        shard.attempt.filter(|attempt| *attempt > 0).map_or_else(dash, |attempt| attempt.to_string()),
        shard.items.as_ref().map_or_else(dash, items),
        shard.code.as_deref().map_or_else(dash, |code| format!("{}{exit}", clean(code))),
        shard.message.as_deref().map_or_else(dash, clean),
    ]
}

fn items(items: &ItemCounts) -> String {
    let others = [(items.failed, "failed"), (items.skipped, "skipped")];
    let others = others.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!(", {count} {word}"));
    others.fold(items.attempted.to_string(), |all, other| all + &other)
}

#[cfg(test)]
mod tests {
    use super::{page, step_of};
    use asynctask_api::AsyncTask;
    use serde_json::json;

    #[test]
    fn each_shard_is_a_row_and_a_strange_one_hides_no_other() {
        let shards = [
            json!({"shard": 0, "state": "Succeeded", "attempt": 1, "items": {"attempted": 100, "failed": 2, "skipped": 0}}),
            json!({"shard": 17, "state": "Failed", "attempt": 3, "code": "InvalidEmail", "message": "no @\u{1b}[2J", "exitCode": 65}),
            json!({"shard": "x"}),
            json!({"shard": 18, "state": "Waiting"}),
        ];
        let text = page(&shards);
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[0], "SHARD STATE ATTEMPT ITEMS CODE MESSAGE");
        assert_eq!(lines[1], "0 Succeeded 1 100, 2 failed - -");
        assert_eq!(lines[2], "17 Failed 3 - InvalidEmail (65) no @\u{FFFD}[2J");
        assert!(lines[3].starts_with("? unreadable: "), "{text}");
        assert_eq!(lines[4], "18 Waiting - - - -");
    }

    #[test]
    fn the_step_is_the_only_one_or_the_one_that_is_named() {
        let mut task: AsyncTask =
            serde_yaml_ng::from_str(include_str!("../golden/shards_during.yaml")).expect("a task");
        assert_eq!(step_of(&task, None).expect("the only one"), "send");
        let refused = |task: &AsyncTask, wanted: Option<&str>| step_of(task, wanted).expect_err("refused").to_string();
        assert_eq!(
            refused(&task, Some("plan")),
            "AsyncTask \"mail-1\" has no step \"plan\" that runs in shards; there is send"
        );
        let plan = &mut task.status.as_mut().expect("a status").plan;
        plan[0].fan_out = plan[1].fan_out.clone();
        assert!(refused(&task, None).ends_with("name one with --step plan or send"));
        assert_eq!(step_of(&task, Some("send")).expect("named"), "send");
        task.status = None;
        assert!(refused(&task, None).ends_with("that runs in shards: its steps are known once it is admitted"));
    }
}
