//! Our kinds have to be installed before anything can be watched.

use std::time::Duration;

use kube::Client;
use tokio::time::sleep;

use asynctask_api::names::GROUP;
use asynctask_runtime::client::explain;
use asynctask_runtime::health::Readiness;

/// Plural names of the kinds the controllers need.
const KINDS: [&str; 4] = ["asynctasks", "outputstores", "taskdefinitions", "taskrevisions"];
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Name of the need in readiness.
const NEED: &str = "CRDs";

/// Waits until the API server serves all our kinds.
pub(super) async fn wait(client: &Client, readiness: &Readiness) {
    readiness.missing(NEED, "the API server has not been asked yet");
    loop {
        match missing(client).await {
            Ok(missing) if missing.is_empty() => break,
            Ok(missing) => {
                let why = format!("{} of {GROUP}/v1alpha1 not served: install the CRDs", missing.join(", "));
                tracing::info!(why, "waiting");
                readiness.missing(NEED, why);
            }
            Err(error) => {
                tracing::warn!(error = explain(&error), "the API server cannot be asked for our kinds");
                readiness.missing(NEED, explain(&error));
            }
        }
        sleep(LOOK_AGAIN).await;
    }
    readiness.met(NEED, "served");
}

async fn missing(client: &Client) -> Result<Vec<&'static str>, kube::Error> {
    let group = match client.list_api_group_resources(&format!("{GROUP}/v1alpha1")).await {
        Ok(group) => group.resources,
        // The group itself is unknown until its first CRD is there.
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok(KINDS.into_iter().filter(|kind| !group.iter().any(|served| served.name == *kind)).collect())
}
