//! What the durable core needs from the outside: traits, implemented by the
//! adapters in the root crate and, to inject failures, by tests.
//!
//! Every method may be called again with the same arguments after a crash and
//! must then have the same effect. Every call is bounded in time by its adapter.

mod builder;
mod cleanup;
mod eviction;
mod invocations;
mod records;
mod runtime;
mod store;

pub use builder::*;
pub use cleanup::*;
pub use eviction::*;
pub use invocations::*;
pub use records::*;
pub use runtime::*;
pub use store::*;
