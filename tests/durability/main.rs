//! A deployment cannot get stuck: proven by killing every process at every
//! point of every step, by breaking every step, and by running every step
//! twice. The product on real parts (binary, restate-server, database, gRPC),
//! with builder, containers and object store that answer at once.

#[path = "../support/ages.rs"]
mod ages;
#[path = "../support/kubernetes/mod.rs"]
mod apiserver;
mod builds;
mod chaos;
mod cleanup;
mod cluster;
mod effects;
mod endings;
mod engine;
mod evictions;
mod failpoints;
mod idempotence;
/// Shared with the binary `launchway-instant`.
mod instant {
    pub mod world;
}
mod kubernetes;
#[path = "../support/looks.rs"]
mod looks;
mod operator;
mod outage;
mod outside;
mod pods;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/private.rs"]
mod private;
mod release_commands;
mod releases;
mod retries;
mod scales;
mod stalls;
mod support;
mod tasks;
mod unwind;
