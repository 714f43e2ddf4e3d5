//! The gateway from its router inwards, before an API server in memory and a store on disk.

mod agents;
mod fake;
mod nobody_in;
mod people;
mod wire;
