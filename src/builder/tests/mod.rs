//! Every builder against real engines, from contexts in the real embedded
//! store, to a real registry.

mod bench;
mod engine;
mod forwarder;
mod registry;
mod suite;
mod tls;
