//! Tests that stop, replace or measure what all runs share: operator, gateway, a store. They run one at a time, on a cluster
//! of their own.

mod canaries;
mod claims;
mod crash;
mod expired;
mod flood;
mod hostile;
mod memory;
mod mixture;
mod proxied;
mod sweep;
mod transfer;
mod uninstall;
mod upgrade;
mod uploads;
