//! The machinery every durable handler uses: steps, undos, readiness.

pub mod core;
pub mod failpoint;
pub mod readiness;
pub(crate) mod run;
pub mod steps;
pub mod undo;
