//! The AsyncTask operator: asynchronous tasks as Kubernetes Jobs, results handed back safely.
//!
//! # Rooms
//! | room | what | may import |
//! |---|---|---|
//! | [`contract`] | names, paths, exit codes, wire types shared by agent, gateway and CLI | serde |
//! | [`api`] | the kinds, conditions, names of labels, finalizers and field managers | contract |
//! | [`plan`] | PURE: snapshot → plan → status | api, contract |
//! | [`storage`] | key layout, the store traits and their backends | contract |
//! | [`runtime`] | client, lease, shutdown, metrics, telemetry, health | api |
//! | [`controllers`] | effects: observe, apply, report | all of the above |
//! | [`gateway`] | identity, authorisation, agent routes, people's routes | all but controllers |
//! | [`agent`] | PID 1 of a task container | contract only |
//! | [`cli`] | `kubectl asynctask`, one file per verb | contract, api, plan |
//!
//! Data flows one way: watch → observe → snapshot → plan → apply → status → events.
//! `tests/architecture.rs` keeps the imports as the table says.

pub mod contract;

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "api")]
pub mod api;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "operator")]
pub mod controllers;
#[cfg(feature = "gateway")]
pub mod gateway;
#[cfg(feature = "plan")]
pub mod plan;
#[cfg(feature = "runtime")]
pub mod runtime;
#[cfg(feature = "storage")]
pub mod storage;
