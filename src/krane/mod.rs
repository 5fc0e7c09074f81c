//! krane: one gRPC API over what runs instances. Docker here; the service and
//! the client know nothing of it.

mod backend;
mod client;
mod docker;
mod probe;
mod server;
mod table;

pub use backend::{Backend, BackendError, InstanceSpec};
pub use client::{InstancesOf, KraneClient};
pub use docker::{DockerBackend, DockerSettings};
pub use server::KraneService;
pub use table::{Instances, Table};
