//! PURE: from what was read to what is to be done and said. No client, no clock, no environment, no chance.
//!
//! [`parameters`], [`stores`], [`names`] and [`definition`] are shared with the gateway and the command line, so that
//! all of them say the same about the same.

pub mod agent;
pub mod definition;
pub mod job;
pub mod names;
pub mod parameters;
pub mod revision;
pub mod stores;
mod template;
