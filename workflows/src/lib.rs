//! The durable core: what a deployment is, the steps that take it from source
//! to a routed instance, and the Restate services that journal them.
//!
//! It depends on ports only ([`ports`]); tonic, sqlx, the AWS SDK and bollard
//! are adapters in the root crate.

#![warn(missing_docs)]

pub mod app;
pub mod domains;
pub mod engine;
pub mod error;
pub mod ids;
pub mod model;
pub mod names;
pub mod ports;
pub mod secret;
pub mod services;
pub mod status;
pub mod step;
pub mod why;
