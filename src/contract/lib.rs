//! What task images, the agent and the gateway agree on.
//!
//! Three audiences read this room:
//! * [`env`] — what an author's program sees: variables, paths, exit codes;
//! * [`wire`] — what the agent and the gateway say to each other (`/agent/v1`);
//! * [`people`] — what programs of people say to the gateway (`/api/v1`).
//!
//! Beside them what all must judge alike: [`file_path`], [`media_type`]. Nothing here knows Kubernetes, a store or an HTTP
//! library: only serde and Unicode.

pub mod env;
mod failure;
pub mod file_path;
pub mod media_type;
pub mod people;
pub mod wire;
