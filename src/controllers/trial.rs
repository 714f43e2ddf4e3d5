//! The default store of a first try. The chart cannot make it: its kind exists only once the chart is installed.

use kube::api::{Api, PostParams};
use tracing::{info, warn};

use asynctask_api::store::FilesystemSpec;
use asynctask_api::{OutputStore, OutputStoreSpec};
use asynctask_runtime::client::{explain, is_status};

/// Makes the filesystem store of this name unless one is there; what somebody made of it since is left as it is.
pub(super) async fn ensure(client: kube::Client, name: String) {
    let store = OutputStore::new(
        &name,
        OutputStoreSpec {
            s3: None,
            gcs: None,
            azure: None,
            filesystem: Some(FilesystemSpec { folder: name.clone() }),
            default: true,
            transfer: None,
            namespaces: None,
            prefix: None,
            signed_urls: None,
        },
    );
    match Api::<OutputStore>::all(client).create(&PostParams::default(), &store).await {
        Ok(_) => info!(store = name, "made the trial store"),
        Err(error) if is_status(&error, 409) => {}
        Err(error) => warn!(
            store = name,
            "the trial store could not be made: {}; make an OutputStore, or restart the operator",
            explain(&error)
        ),
    }
}
