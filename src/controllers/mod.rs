//! Effects: each controller observes, applies what the plan says, and reports.

pub mod context;
