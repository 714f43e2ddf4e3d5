//! The kinds of `asynctask.dev/v1alpha1` and the names everything else agrees on.
//!
//! The doc comments of the fields are what `kubectl explain` shows: they are written for users.

pub mod condition;
mod counts;
pub mod crd;
pub mod definition;
pub mod names;
pub mod outputs;
pub mod quantity;
pub mod quarantine;
pub mod revision;
pub mod state;
pub mod store;
pub mod task;
pub mod whole;

pub use definition::{TaskDefinition, TaskDefinitionSpec};
pub use revision::{TaskRevision, TaskRevisionSpec};
pub use state::TaskState;
pub use store::{OutputStore, OutputStoreSpec};
pub use task::{AsyncTask, AsyncTaskSpec, AsyncTaskStatus};
