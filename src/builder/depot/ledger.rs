//! What must be remembered of Depot when this process is gone.

use async_trait::async_trait;
use launchway_workflows::{
    ids::{BuildId, ProjectId},
    ports::StoreError,
    secret::Secret,
};
use serde::{Deserialize, Serialize};

/// A build that Depot knows.
#[derive(Debug, Clone)]
pub struct Registered {
    /// Depot's id of it.
    pub id: String,
    /// For every call about it.
    pub token: Secret,
}

/// How a build ended, as Depot is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Well.
    Success,
    /// With this message.
    Error(String),
    /// Somebody cancelled it, or its worker died.
    Canceled,
}

/// Whether a project of Depot's has to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It exists.
    Exists(String),
    /// The caller creates it.
    Yours,
    /// Somebody else is about to.
    Taken,
}

/// Durable memory, shared by all workers.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Depot's project of a project, once there is one.
    async fn depot_project(&self, project: &ProjectId) -> Result<Option<String>, StoreError>;

    /// Claims to create it (compare-and-set): one claimant at a time, for a
    /// minute.
    async fn claim_depot_project(&self, project: &ProjectId) -> Result<Claim, StoreError>;

    /// Sets it unless it is set (compare-and-set); the one that holds.
    async fn set_depot_project(
        &self,
        project: &ProjectId,
        depot: &str,
    ) -> Result<String, StoreError>;

    /// Notes a build that was registered.
    async fn opened(&self, build: &BuildId, registered: &Registered) -> Result<(), StoreError>;

    /// Registered builds of a build that Depot has not been told the end of.
    async fn open(&self, build: &BuildId) -> Result<Vec<Registered>, StoreError>;

    /// Notes how one ended, before Depot is told. The first outcome holds.
    async fn ended(&self, depot: &str, outcome: &Outcome) -> Result<(), StoreError>;

    /// Every ended build that Depot has not been told the end of.
    async fn untold(&self) -> Result<Vec<(Registered, Outcome)>, StoreError>;

    /// Depot knows: forgets it.
    async fn told(&self, depot: &str) -> Result<(), StoreError>;
}
