//! What a runtime must do, whatever it runs on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use launchway_proto::krane::v1::Instance;
use launchway_workflows::ids::{DeploymentId, EnvironmentId};

use super::table::Table;

/// The wanted instances of a deployment, validated.
#[derive(Clone, PartialEq, Eq)]
pub struct InstanceSpec {
    /// Whose.
    pub deployment_id: DeploymentId,
    /// Instances of one namespace share a network.
    pub namespace: EnvironmentId,
    /// For labels.
    pub project_id: String,
    /// The name others of the namespace reach it by; empty: none.
    pub service_name: String,
    /// A local image's id, or a reference.
    pub image: String,
    /// At least one.
    pub replicas: u32,
    /// Variables.
    pub env: BTreeMap<String, String>,
    /// 0: the image's only EXPOSE, else 8080.
    pub port: u16,
    /// Thousandths of a core; 0: no limit.
    pub cpu_millicores: u32,
    /// 0: no limit.
    pub memory_mib: u64,
    /// From SIGTERM to SIGKILL.
    pub stop_grace: Duration,
    /// How readiness is found out.
    pub health: Health,
}

/// A readiness probe: any HTTP answer below 500.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Path and query.
    pub path: String,
    /// Of one probe.
    pub timeout: Duration,
    /// Longest pause between probes.
    pub interval: Duration,
}

/// What went wrong, as callers must tell it apart.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The image does not exist or cannot be pulled.
    #[error("image `{image}` is not available: {reason}")]
    ImageUnavailable {
        /// As asked for.
        image: String,
        /// The engine's message.
        reason: String,
    },
    /// The engine refuses these settings; trying again cannot help.
    #[error("the container engine refused: {0}")]
    Rejected(String),
    /// The engine does not answer.
    #[error("the container engine failed: {0}")]
    Unavailable(String),
}

/// Runs instances.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Leaves exactly the wanted instances; the same call again changes nothing.
    async fn apply(&self, spec: &InstanceSpec) -> Result<(), BackendError>;

    /// The instances now.
    async fn get(&self, id: &DeploymentId) -> Result<Vec<Instance>, BackendError>;

    /// Returns when the instances are gone.
    async fn delete(&self, id: &DeploymentId) -> Result<(), BackendError>;

    /// What is known of all instances, and its changes.
    fn table(&self) -> &Arc<Table>;
}
