//! `version`: of this command and of the gateway it would talk to.

use serde::{Deserialize, Serialize};

use crate::connect::{ConnectError, Session};
use crate::error::CliError;
use crate::exit::Exit;
use crate::format::Document;
use crate::terminal::{print, say};
use crate::words::table;

/// Print the versions of this command and of the gateway
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Of this command only; talks to nobody
    #[arg(long)]
    client: bool,
    /// Another format
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Document>,
}

#[derive(Debug, Serialize)]
struct Versions {
    client: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
}

#[derive(Deserialize)]
struct OpenApi {
    info: Info,
}

#[derive(Deserialize)]
struct Info {
    version: String,
}

/// Prints the versions. A gateway that cannot be asked is a sentence on stderr, no failure.
pub(crate) async fn run(
    session: impl AsyncFnOnce() -> Result<Session, ConnectError>,
    args: &Args,
) -> Result<Exit, CliError> {
    let gateway = if args.client {
        None
    } else {
        gateway(session).await.map_err(|error| say(&format!("The gateway's version is not known: {error}"))).ok()
    };
    let versions = Versions { client: env!("CARGO_PKG_VERSION"), gateway };
    match args.output {
        Some(document) => print(&document.text(&versions))?,
        None => {
            let mut rows = vec![vec!["Client".to_owned(), versions.client.to_owned()]];
            rows.extend(versions.gateway.map(|version| vec!["Gateway".to_owned(), version]));
            print(&table(&rows))?;
        }
    }
    Ok(Exit::Ok)
}

async fn gateway(session: impl AsyncFnOnce() -> Result<Session, ConnectError>) -> Result<String, CliError> {
    let document: OpenApi = session().await?.gateway().await?.openapi().await?;
    Ok(document.info.version)
}
