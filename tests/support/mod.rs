//! Servers that several kinds of tests use: compiled into each of them.

// Each uses a part.
#![allow(dead_code)]

pub mod ages;
pub mod depot;
pub mod engine;
pub mod forwarder;
pub mod looks;
pub mod private;
pub mod registry;
