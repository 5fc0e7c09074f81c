//! The machinery every durable handler uses: steps, undos, readiness.

pub mod core;
pub mod readiness;
pub mod steps;
pub mod undo;
