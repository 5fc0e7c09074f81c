//! Every builder against real engines, from contexts in the real embedded
//! store, to a real registry.

mod bench;
mod cache;
mod depot;
mod disk;
#[path = "../../../tests/support/mod.rs"]
mod servers;
mod suite;
mod tls;
