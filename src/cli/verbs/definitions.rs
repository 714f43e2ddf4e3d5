//! `definitions`: what can be run.

use jiff::Timestamp;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams};

use crate::cluster::ClusterError;
use crate::connect::Session;
use crate::definition_page::{self, RevisionLine};
use crate::error::CliError;
use crate::exit::Exit;
use crate::render::readiness;
use crate::terminal::{print, say, view};
use crate::words::{clean, elapsed, table};
use asynctask_api::{TaskDefinition, TaskRevision};
use asynctask_plan::drain;

/// Most runs that are counted on a revision.
const MOST_COUNTED: u32 = 500;

/// List what can be run; with a name: its parameters, inputs, steps and outputs
#[derive(Debug, clap::Args)]
#[command(visible_alias = "definition")]
pub(crate) struct Args {
    /// Name of a TaskDefinition
    name: Option<String>,
    /// Definitions of all namespaces
    #[arg(short = 'A', long, conflicts_with = "name")]
    all_namespaces: bool,
}

/// Prints the list or one page.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<Exit, CliError> {
    if let Some(name) = &args.name {
        let act = format!("read TaskDefinition {name:?}");
        let definition = session.definitions().get(name).await.map_err(ClusterError::on(act))?;
        let revisions = revisions(session, name).await?;
        print(&definition_page::page(&definition, &revisions, view().paint))?;
        return Ok(Exit::Ok);
    }
    let resource = ApiResource::erase::<TaskDefinition>(&());
    let api: Api<DynamicObject> = if args.all_namespaces {
        Api::all_with(session.client.clone(), &resource)
    } else {
        Api::namespaced_with(session.client.clone(), &session.namespace, &resource)
    };
    let found = api.list(&ListParams::default()).await.map_err(ClusterError::on("list TaskDefinitions"))?;
    if found.items.is_empty() {
        let place = if args.all_namespaces { "any namespace" } else { session.namespace.as_str() };
        say(&format!("No definitions found in {place}"));
    } else {
        print(&page(found.items, args.all_namespaces, Timestamp::now()))?;
    }
    Ok(Exit::Ok)
}

/// The newest first, each with the runs that are on it now: counted when asked, because nobody keeps the number.
async fn revisions(session: &Session, definition: &str) -> Result<Vec<RevisionLine>, CliError> {
    let revisions: Api<TaskRevision> = Api::namespaced(session.client.clone(), &session.namespace);
    let of_this = ListParams::default().fields(&format!("spec.definition={definition}"));
    let act = format!("list the TaskRevisions of {definition:?}");
    let mut lines = Vec::new();
    for revision in revisions.list(&of_this).await.map_err(ClusterError::on(act))? {
        let name = revision.metadata.name.unwrap_or_default();
        let act = format!("count the runs on TaskRevision {name:?}");
        let runs = ListParams::default().fields(&drain::runs_on(&name)).limit(MOST_COUNTED);
        let runs = session.tasks().list_metadata(&runs).await.map_err(ClusterError::on(act))?;
        let more = runs.metadata.continue_.is_some_and(|token| !token.is_empty());
        let state = revision.status.and_then(|status| status.state);
        lines.push(RevisionLine { number: revision.spec.number, name, state, runs: runs.items.len(), more });
    }
    lines.sort_by_key(|line| std::cmp::Reverse(line.number));
    Ok(lines)
}

fn page(definitions: Vec<DynamicObject>, namespaces: bool, now: Timestamp) -> String {
    let mut head = ["NAME", "TITLE", "STATE", "REVISION", "DRAINING", "AGE"].map(str::to_owned).to_vec();
    if namespaces {
        head.insert(0, "NAMESPACE".to_owned());
    }
    let mut rows = vec![head];
    for object in definitions {
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let name = object.metadata.name.clone().unwrap_or_default();
        let mut row = match object.try_parse::<TaskDefinition>() {
            Ok(definition) => row(&definition, now),
            Err(error) => vec![name, format!("unreadable: {}", clean(&error.to_string()))],
        };
        if namespaces {
            row.insert(0, namespace);
        }
        rows.push(row);
    }
    table(&rows)
}

fn row(definition: &TaskDefinition, now: Timestamp) -> Vec<String> {
    let revision = definition.status.as_ref().and_then(|s| s.revision.as_ref());
    let draining = definition.status.as_ref().and_then(|s| s.draining.as_deref());
    let created = definition.metadata.creation_timestamp.as_ref();
    vec![
        definition.metadata.name.clone().unwrap_or_default(),
        clean(&definition.spec.title),
        readiness(definition),
        revision.map_or_else(|| "-".to_owned(), |r| r.number.to_string()),
        draining.map_or_else(|| "-".to_owned(), clean),
        created.map_or_else(|| "-".to_owned(), |t| elapsed(t.0, now)),
    ]
}
