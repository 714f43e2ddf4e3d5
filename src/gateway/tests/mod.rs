//! The gateway from its router inwards, before an API server in memory and a store on disk.

mod agents;
mod cancel;
mod fake;
mod fanout;
mod history;
mod inputs;
mod matrix;
mod nobody_in;
#[path = "../../../tests/support/openapi.rs"]
mod openapi;
mod people;
mod pieces;
mod shards;
mod spread;
mod unconditional;
mod uploads;
mod wire;
