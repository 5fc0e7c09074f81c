//! Adapters and composition: everything that talks to a database, an object
//! store, a builder, a runtime or a person. The durable core is in
//! `launchway-workflows`. Adapters never import each other; `up` and `worker`
//! wire them.

// The support of the tests is compiled into this crate's tests as into others'.
#[cfg(test)]
extern crate self as launchway;

pub mod builder;
pub mod cli;
pub mod config;
pub mod control;
pub mod gateway;
mod http;
pub mod krane;
pub mod pack;
pub mod registry;
pub mod restate;
mod run_options;
pub mod storage;
pub mod store;
pub mod telemetry;
pub mod up;
pub mod vault;
pub mod worker;
