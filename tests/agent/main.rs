//! The real agent binary against a gateway and stores on loopback: TLS with certificates of the test's own authority, real
//! processes, real signals.

// A test fails by panicking, its helpers too.
#![allow(clippy::unwrap_used)]

mod blame;
mod built_in;
mod emit;
mod endings;
mod items;
mod network;
mod program;
mod results;
mod servers;
mod world;
