//! plan

pub mod agent;
