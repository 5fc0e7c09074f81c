//! krane: one gRPC API over what runs instances. Docker here; the service and
//! the client know nothing of it.

mod attendance;
mod backend;
mod client;
mod docker;
mod kubernetes;
mod lines;
mod merge;
mod probe;
mod request;
mod server;
mod sessions;
mod table;
mod turns;

pub use backend::{
    Backend, BackendError, Check, ExecSpec, Feed, Health, InstanceSpec, Label, LogQuery, Port,
    ProcessSpec, TaskSpec,
};
pub use client::{InstancesOf, KraneClient};
pub use docker::{DockerBackend, DockerSettings};
pub use kubernetes::{
    Admitted, Autoscale, Cluster, KubernetesBackend, KubernetesSettings, Patience, PodSecurity,
    Probes, Quota, check_cluster,
};
pub use server::KraneService;
pub use table::{Instances, Table};
