//! `status`: everything about one run.

use kube::Api;
use kube::api::{ApiResource, DynamicObject};

use crate::cluster::ClusterError;
use crate::connect::Session;
use crate::error::CliError;
use crate::exit::Exit;
use crate::format::{Document, tidy};
use crate::render;
use crate::terminal::{print, view};
use asynctask_api::AsyncTask;

/// Show the plan of a run, how far it is, why it failed and what it gave back
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the run
    name: String,
    /// Print the AsyncTask in this format
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Document>,
}

/// Prints the page, or the object as the server holds it.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<Exit, CliError> {
    let act = format!("read AsyncTask {:?}", args.name);
    match args.output {
        Some(document) => {
            let resource = ApiResource::erase::<AsyncTask>(&());
            let api: Api<DynamicObject> = Api::namespaced_with(session.client.clone(), &session.namespace, &resource);
            let object = api.get(&args.name).await.map_err(ClusterError::on(act))?;
            print(&document.text(&tidy(object)))?;
        }
        None => {
            let task = session.tasks().get(&args.name).await.map_err(ClusterError::on(act))?;
            print(&render::status(&task, view()))?;
        }
    }
    Ok(Exit::Ok)
}
