//! The AsyncTask operator: asynchronous tasks as Kubernetes Jobs, results handed back safely.
//!
//! # Rooms
//! Each is a crate of its own, `asynctask-<room>` in `src/<room>`.
//!
//! | room | what | may import |
//! |---|---|---|
//! | [`contract`] | names, paths, exit codes, wire types shared by agent, gateway and CLI | serde, Unicode |
//! | [`api`] | the kinds, conditions, names of labels, finalizers and field managers | contract |
//! | [`plan`] | PURE: snapshot → plan → status | api, contract |
//! | [`storage`] | key layout, the store traits and their backends | contract |
//! | `runtime` | client, lease, shutdown, metrics, telemetry, health | api, storage |
//! | `controllers` | effects: observe, apply, report | all of the above |
//! | `gateway` | identity, authorisation, agent routes, people's routes | all but controllers |
//! | `agent` | PID 1 of a task container | contract only |
//! | `cli` | `kubectl asynctask`, one file per verb | contract, api, plan |
//!
//! Data flows one way: watch → observe → snapshot → plan → apply → status → events.
//! The rooms' `Cargo.toml`s say who imports whom; `tests/architecture.rs` keeps them as the table says.
//!
//! This crate is for the suites in `tests/`: it gives them the rooms they name, and no others, so that a change of the
//! gateway does not have the end-to-end tests compiled again.

pub use asynctask_api as api;
pub use asynctask_contract as contract;
pub use asynctask_plan as plan;
pub use asynctask_storage as storage;
