//! The machinery every durable handler uses: steps, undos, readiness.

pub mod cancel;
pub mod core;
pub mod failpoint;
pub mod janitor;
pub mod readiness;
pub mod reconcile;
pub mod retry;
pub(crate) mod run;
pub mod running;
pub mod steps;
pub mod undo;
