//! What nobody needs any more, and who still has it.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::{ids::DeploymentId, model::BuiltImage};

/// Something that may be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Garbage {
    /// An uploaded context that nothing is built from any more.
    Context {
        /// In the object store.
        key: String,
        /// Bytes.
        size: u64,
    },
    /// The image of a deployment that nothing runs or goes back to.
    Image {
        /// Whose.
        deployment_id: DeploymentId,
        /// Which.
        image: BuiltImage,
        /// Bytes, layers shared with others included; 0: not known.
        size: u64,
    },
    /// The build output of a deployment.
    BuildLog {
        /// Whose.
        deployment_id: DeploymentId,
        /// Bytes of text.
        size: u64,
    },
    /// Everything that is recorded of a deployment.
    Record {
        /// Which.
        deployment_id: DeploymentId,
    },
    /// A command beside the instances whose caller is gone.
    Task {
        /// The runtime's namespace.
        namespace: String,
        /// Whose.
        deployment_id: DeploymentId,
        /// Its id.
        task: String,
    },
    /// Instances, tasks or networks of a deployment that nothing knows, or that
    /// is not to run.
    LeftOver {
        /// The runtime's namespace.
        namespace: String,
        /// Whose.
        deployment_id: DeploymentId,
        /// What it is, for people.
        what: String,
    },
}

impl Garbage {
    /// What it is, in kebab case.
    pub fn kind(&self) -> &'static str {
        match self {
            Garbage::Context { .. } => "context",
            Garbage::Image { .. } => "image",
            Garbage::BuildLog { .. } => "build-log",
            Garbage::Record { .. } => "record",
            Garbage::Task { .. } => "task",
            Garbage::LeftOver { .. } => "left-over",
        }
    }

    /// Bytes that go with it, as far as that is known.
    pub fn size(&self) -> u64 {
        match self {
            Garbage::Context { size, .. }
            | Garbage::Image { size, .. }
            | Garbage::BuildLog { size, .. } => *size,
            Garbage::Record { .. } | Garbage::Task { .. } | Garbage::LeftOver { .. } => 0,
        }
    }
}

/// Until when what is kept, in milliseconds since the epoch: older is garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cutoffs {
    /// Contexts, and images of what did not succeed.
    pub sources: i64,
    /// Build output.
    pub logs: i64,
    /// Records, and images that were built by themselves.
    pub records: i64,
    /// Retired deployments of an environment that can be served again.
    pub restorable: u32,
}

/// A context as the object store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredContext {
    /// Its key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Milliseconds since the epoch.
    pub written_at: i64,
}

/// What the runtime has of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The runtime's namespace.
    pub namespace: String,
    /// Whose.
    pub deployment_id: DeploymentId,
    /// instance, task, …
    pub kind: String,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// Of a task.
    pub task: Option<FoundTask>,
}

/// A task that the runtime has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTask {
    /// Its id.
    pub id: String,
    /// Somebody follows it now.
    pub attended: bool,
}

/// The database, as cleaning up needs it. Everything that removes is a
/// compare-and-set: what has come to be needed since it was found stays.
#[async_trait]
pub trait Archive: Send + Sync + 'static {
    /// Images, build output and records that are past it; at most `limit` of each
    /// kind. Sizes of images are not known here.
    async fn expired(&self, cutoffs: &Cutoffs, limit: u32) -> Result<Vec<Garbage>, StoreError>;

    /// Those of the contexts that a deployment is, or may again be, built from.
    async fn needed_contexts(
        &self,
        keys: &[String],
        cutoffs: &Cutoffs,
    ) -> Result<Vec<String>, StoreError>;

    /// Those of the deployments that may have instances now; others must not.
    async fn may_run(&self, ids: &[DeploymentId]) -> Result<Vec<DeploymentId>, StoreError>;

    /// Gives a context, an image, build output or a record up, or finds that done.
    /// `false`: it is needed after all. From then on nothing begins to need a context or image
    /// that was given up; output and records are gone.
    async fn give_up(&self, garbage: &Garbage, cutoffs: &Cutoffs) -> Result<bool, StoreError>;

    /// An image that was given up is removed.
    async fn image_gone(&self, id: &DeploymentId) -> Result<(), StoreError>;
}
