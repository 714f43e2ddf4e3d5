//! `list`: runs, newest first.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams};

use crate::change::read;
use crate::cluster::ClusterError;
use crate::connect::Session;
use crate::error::CliError;
use crate::exit::Exit;
use crate::format::{Document, ListFormat, qualified, tidy};
use crate::render::list_row;
use crate::terminal::{print, say};
use crate::words::{clean, table};
use asynctask_api::{AsyncTask, TaskState};
use asynctask_contract::people::PastRuns;
use asynctask_plan::retention::moment;

/// Objects asked for at once.
const PAGE: u32 = 500;

/// List runs, newest first
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Runs of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Runs of this user
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// Runs of this group
    #[arg(long, value_name = "GROUP")]
    team: Option<String>,
    /// Runs in this state
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<TaskState>,
    /// Runs of this definition
    #[arg(long, value_name = "NAME")]
    definition: Option<String>,
    /// Runs of the past, also those whose objects are gone: from the records in the store
    #[arg(long, conflicts_with = "all_namespaces")]
    history: bool,
    /// With --history: created since this date, or in the last such time (`30d`); default: 30d
    #[arg(long, value_name = "DATE|TIME", requires = "history", value_parser = since)]
    since: Option<Timestamp>,
    /// More columns, or another format
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<ListFormat>,
}

/// A date, or how long ago.
pub(crate) fn since(text: &str) -> Result<Timestamp, String> {
    let ago = || {
        let days = || text.strip_suffix('d')?.parse::<i64>().ok()?.checked_mul(24);
        let hours = days().or_else(|| text.strip_suffix('h')?.parse().ok()).filter(|hours| *hours >= 0)?;
        Timestamp::now().checked_sub(SignedDuration::from_hours(hours)).ok()
    };
    moment(text).or_else(ago).ok_or_else(|| {
        format!("{text:?} is not a date: write 2027-01-31, a time with its zone as 2027-01-31T22:00:00Z, 30d or 12h")
    })
}

fn state(text: &str) -> Result<TaskState, String> {
    TaskState::ALL.into_iter().find(|s| s.as_str().eq_ignore_ascii_case(text)).ok_or_else(|| {
        let known: Vec<&str> = TaskState::ALL.into_iter().map(TaskState::as_str).collect();
        format!("no such state; there are {}", known.join(", "))
    })
}

/// Prints the list.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<Exit, CliError> {
    if args.history {
        return past(session, args).await;
    }
    let resource = ApiResource::erase::<AsyncTask>(&());
    let api: Api<DynamicObject> = if args.all_namespaces {
        Api::all_with(session.client.clone(), &resource)
    } else {
        Api::namespaced_with(session.client.clone(), &session.namespace, &resource)
    };
    let mut tasks = all(&api, &selector(args)).await?;
    tasks.sort_by_key(|task| std::cmp::Reverse(task.metadata.creation_timestamp.as_ref().map(|t| t.0)));
    match args.output {
        Some(ListFormat::Json) => print(&Document::Json.text(&document(tasks)))?,
        Some(ListFormat::Yaml) => print(&Document::Yaml.text(&document(tasks)))?,
        Some(ListFormat::Name) => {
            let names = tasks.iter().filter_map(|task| task.metadata.name.as_deref());
            print(&names.map(|name| qualified(name) + "\n").collect::<String>())?;
        }
        None | Some(ListFormat::Wide) if tasks.is_empty() => {
            let place = if args.all_namespaces { "any namespace" } else { session.namespace.as_str() };
            say(&format!("No runs found in {place}"));
        }
        None => print(&page(tasks, args.all_namespaces, false, Timestamp::now()))?,
        Some(ListFormat::Wide) => print(&page(tasks, args.all_namespaces, true, Timestamp::now()))?,
    }
    Ok(Exit::Ok)
}

/// Runs of the past, as the gateway finds them in the store.
async fn past(session: &Session, args: &Args) -> Result<Exit, CliError> {
    let gateway = session.gateway().await?;
    let mut url = gateway.path(&session.namespace, &["history"]);
    let state = args.state.map(|state| state.as_str().to_owned());
    let since = args.since.map(|since| since.to_string());
    let asked = [
        ("owner", &args.owner),
        ("team", &args.team),
        ("definition", &args.definition),
        ("state", &state),
        ("since", &since),
    ];
    for (name, value) in asked {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    let (mut runs, mut missing) = (Vec::new(), BTreeSet::new());
    let mut next: Option<String> = None;
    loop {
        let mut page = url.clone();
        if let Some(next) = &next {
            page.query_pairs_mut().append_pair("continue", next);
        }
        let found: PastRuns = gateway.get(page).await?;
        runs.extend(found.runs);
        missing.extend(found.missing);
        next = found.next;
        if next.is_none() {
            break;
        }
    }
    runs.sort_by_key(|run| std::cmp::Reverse(run["createdAt"].as_str().map(str::to_owned)));
    match args.output {
        Some(ListFormat::Json) => print(&Document::Json.text(&runs))?,
        Some(ListFormat::Yaml) => print(&Document::Yaml.text(&runs))?,
        Some(ListFormat::Name) => {
            let names = runs.iter().filter_map(|run| run["name"].as_str());
            print(&names.map(|name| qualified(name) + "\n").collect::<String>())?;
        }
        None | Some(ListFormat::Wide) if runs.is_empty() => {
            say(&format!("No past runs found in {}", session.namespace))
        }
        None | Some(ListFormat::Wide) => print(&past_page(&runs))?,
    }
    for why in &missing {
        say(&format!("Not all is shown. {}", clean(why)));
    }
    Ok(if missing.is_empty() { Exit::Ok } else { Exit::Error })
}

fn past_page(runs: &[serde_json::Value]) -> String {
    let mut rows =
        vec![["NAME", "STATE", "REASON", "DEFINITION", "OWNER", "TEAM", "CREATED"].map(str::to_owned).to_vec()];
    for run in runs {
        let text = |value: &serde_json::Value| value.as_str().map_or_else(|| "-".to_owned(), clean);
        let spec = &run["spec"];
        let columns = [
            &run["name"],
            &run["state"],
            &run["reason"],
            &spec["definition"]["name"],
            &spec["owner"],
            &spec["team"],
            &run["createdAt"],
        ];
        rows.push(columns.into_iter().map(text).collect());
    }
    table(&rows)
}

/// The run of a name, or all of the session's namespace; those that this version cannot read are passed over.
pub(crate) async fn tasks(session: &Session, name: Option<&str>) -> Result<Vec<AsyncTask>, ClusterError> {
    if let Some(name) = name {
        return Ok(vec![read(session, name).await?]);
    }
    let resource = ApiResource::erase::<AsyncTask>(&());
    let api = Api::namespaced_with(session.client.clone(), &session.namespace, &resource);
    Ok(all(&api, "").await?.into_iter().filter_map(|object| object.try_parse().ok()).collect())
}

async fn all(api: &Api<DynamicObject>, fields: &str) -> Result<Vec<DynamicObject>, ClusterError> {
    let mut params = ListParams::default().limit(PAGE).fields(fields);
    let mut found = Vec::new();
    loop {
        let page = api.list(&params).await.map_err(ClusterError::on("list AsyncTasks"))?;
        found.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// The field selector; the server filters.
fn selector(args: &Args) -> String {
    let state = args.state.map(|s| s.as_str().to_owned());
    [
        ("spec.owner", &args.owner),
        ("spec.team", &args.team),
        ("spec.definition.name", &args.definition),
        ("status.state", &state),
    ]
    .into_iter()
    .filter_map(|(field, value)| value.as_ref().map(|value| format!("{field}={}", escape(value))))
    .collect::<Vec<_>>()
    .join(",")
}

/// What has a meaning in a field selector is escaped.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

/// One that this version cannot read is a row that says so, and hides no other.
fn page(tasks: Vec<DynamicObject>, namespaces: bool, wide: bool, now: Timestamp) -> String {
    let mut head = ["NAME", "STATE", "STEP", "PROGRESS", "DEFINITION", "OWNER", "AGE"].map(str::to_owned).to_vec();
    if wide {
        head.extend(["TEAM", "REVISION", "REASON", "OUTPUTS"].map(str::to_owned));
    }
    if namespaces {
        head.insert(0, "NAMESPACE".to_owned());
    }
    let mut rows = vec![head];
    for object in tasks {
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let name = object.metadata.name.clone().unwrap_or_default();
        let mut row = match object.try_parse::<AsyncTask>() {
            Ok(task) => {
                let (mut row, extra) = list_row(&task, now);
                row.extend(extra.into_iter().filter(|_| wide));
                row
            }
            Err(error) => vec![name, format!("unreadable: {}", clean(&error.to_string()))],
        };
        if namespaces {
            row.insert(0, namespace);
        }
        rows.push(row);
    }
    table(&rows)
}

fn document(tasks: Vec<DynamicObject>) -> serde_json::Value {
    let items: Vec<_> = tasks.into_iter().map(tidy).collect();
    serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

#[cfg(test)]
mod tests {
    use super::{Args, page, past_page, selector, since, state};
    use asynctask_api::TaskState;
    use jiff::Timestamp;
    use kube::api::DynamicObject;
    use serde_json::json;

    fn object(value: serde_json::Value) -> DynamicObject {
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn filters_become_field_selectors_with_their_values_escaped() {
        let args = Args {
            all_namespaces: false,
            owner: Some("a,b=c".into()),
            team: None,
            state: Some(TaskState::InProgress),
            definition: Some("d".into()),
            history: false,
            since: None,
            output: None,
        };
        assert_eq!(selector(&args), "spec.owner=a\\,b\\=c,spec.definition.name=d,status.state=InProgress");
        assert_eq!(state("inprogress"), Ok(TaskState::InProgress));
        assert!(state("gone").expect_err("unknown").contains("PartiallyComplete"));
    }

    #[test]
    fn past_runs_are_rows_and_times_are_dates_or_so_long_ago() {
        let run = json!({
            "name": "old", "state": "Complete", "createdAt": "2026-01-01T00:00:00Z",
            "spec": {"definition": {"name": "d"}, "owner": "ada"},
        });
        let text = past_page(&[run]);
        let words: Vec<_> = text.lines().nth(1).expect("a row").split_whitespace().collect();
        assert_eq!(words, ["old", "Complete", "-", "d", "ada", "-", "2026-01-01T00:00:00Z"]);
        assert!(since("30d").expect("ago") < since("12h").expect("ago"));
        assert!(since("2026-01-31").is_ok() && since("yesterday").is_err() && since("-3d").is_err());
    }

    #[test]
    fn an_object_that_cannot_be_read_is_a_row_and_hides_no_other() {
        let kind = |name: &str, spec: serde_json::Value| {
            let metadata = json!({"name": name, "namespace": "ns", "creationTimestamp": "1970-01-01T00:00:00Z"});
            let api_version = "asynctask.dev/v1alpha1";
            object(json!({"apiVersion": api_version, "kind": "AsyncTask", "metadata": metadata, "spec": spec}))
        };
        let tasks = vec![kind("bad", json!({"definition": 7})), kind("good", json!({"definition": {"name": "hello"}}))];
        let now = Timestamp::from_second(90).expect("in range");
        let text = page(tasks, true, false, now);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("NAMESPACE  NAME  STATE"), "{text}");
        assert!(lines[1].starts_with("ns         bad   unreadable:"), "{text}");
        let words: Vec<&str> = lines[2].split_whitespace().collect();
        assert_eq!(words, ["ns", "good", "Pending", "-", "-", "hello", "-", "90s"]);
    }
}
