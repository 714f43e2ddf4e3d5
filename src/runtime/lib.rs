//! What every process of ours is made of, whatever it does: client, lease, shutdown, back-off, metrics, logs, health.
//!
//! [`stores`] is here because operator and gateway open stores alike and may not import each other.

mod backends;
pub mod backoff;
pub mod client;
pub mod health;
pub mod lease;
pub mod metrics;
pub mod shutdown;
pub mod stores;
pub mod telemetry;
