//! Contexts, and what builds images of them.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::StoredContext;
use crate::{
    error::StepError,
    ids::{BuildId, DeploymentId, ProjectId, WorkspaceId},
    model::{BuildOptions, BuiltImage, Sealed},
    secret::Secret,
};

/// What is known of an uploaded context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Bytes.
    pub size: u64,
}

/// A URL that carries a credential: never printed, never journaled.
#[derive(Clone)]
pub struct SignedUrl(pub String);

impl fmt::Debug for SignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.split('?').next().unwrap_or_default())
    }
}

/// The part of the object store the workflow needs.
#[async_trait]
pub trait ContextStore: Send + Sync + 'static {
    /// `None` when there is no such object.
    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StepError>;

    /// A GET that the *builder* can reach.
    async fn presign_get(&self, key: &str, lifetime: Duration) -> Result<SignedUrl, StepError>;

    /// Every context that there is.
    async fn stored(&self) -> Result<Vec<StoredContext>, StepError>;

    /// Removes a context; an absent one is fine.
    async fn delete(&self, key: &str) -> Result<(), StepError>;
}

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildSpec {
    /// Unique; the image's tag carries it, and so finds it after a crash.
    pub build_id: BuildId,
    /// For labels and logs.
    pub deployment_id: DeploymentId,
    /// The owner, first part of the repository name.
    pub workspace_id: WorkspaceId,
    /// Whose cache, and where builders keep projects apart, whose machine.
    pub project_id: ProjectId,
    /// Last part of the repository name.
    pub project_slug: String,
    /// Where the builder reads the tar.gz.
    pub context_url: SignedUrl,
    /// Inside the context.
    pub dockerfile_path: Option<String>,
    /// Target, platform, args.
    pub options: BuildOptions,
    /// Build secrets by id: mounted while a command runs, part of no layer.
    pub secrets: BTreeMap<String, Secret>,
    /// Labels of the image (source revision, …).
    pub labels: BTreeMap<String, String>,
    /// Bytes of output that are kept; what commands print beyond is dropped.
    pub max_output: u64,
}

/// Progress of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildEvent {
    /// Milliseconds since the epoch.
    pub at: i64,
    /// Name of the BuildKit vertex it belongs to.
    pub vertex: String,
    /// What happened.
    pub kind: BuildEventKind,
}

/// See [`BuildEvent`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEventKind {
    /// The vertex began.
    Started,
    /// The vertex ended.
    Done {
        /// From its start.
        duration_ms: i64,
    },
    /// The vertex was taken from the cache.
    Cached,
    /// The vertex failed.
    Failed {
        /// From its start.
        duration_ms: i64,
        /// The builder's message.
        error: String,
    },
    /// Output of the vertex's command, ANSI kept.
    Output {
        /// Which of the two.
        stream: OutputStream,
        /// A line without its end, or a part of a very long one.
        text: String,
        /// Whether the line ends here; else the vertex's next output on this
        /// stream goes on with it.
        ends: bool,
    },
}

/// Where a command wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Builds images. Cancelling is dropping the future of [`Builder::build`] and
/// then [`Builder::abort`].
#[async_trait]
pub trait Builder: Send + Sync + 'static {
    /// The image of this build, if an earlier run finished it.
    async fn find_image(&self, spec: &BuildSpec) -> Result<Option<BuiltImage>, StepError>;

    /// Builds. Progress goes to `events`; a full channel holds the build back.
    async fn build(
        &self,
        spec: &BuildSpec,
        events: mpsc::Sender<BuildEvent>,
    ) -> Result<BuiltImage, StepError>;

    /// Whether an image that was built can still be run.
    async fn has_image(&self, image: &BuiltImage) -> Result<bool, StepError>;

    /// Ends any build with this id; none running is fine.
    async fn abort(&self, build_id: &BuildId) -> Result<(), StepError>;

    /// Pushes the image, or verifies that the registry has it. `Skipped` says
    /// why there is nothing to push.
    async fn push(&self, image: &BuiltImage) -> Result<Push, StepError>;

    /// Bytes of an image that only this builder has; `None`: it has none, or a
    /// registry has it, whose business its retention is.
    async fn image_size(&self, _image: &BuiltImage) -> Result<Option<u64>, StepError> {
        Ok(None)
    }

    /// Takes an image out of the builder's own engine; one that is absent, or that
    /// it never had, is gone.
    async fn remove_image(&self, _image: &BuiltImage) -> Result<Removal, StepError> {
        Ok(Removal::Gone)
    }

    /// Room where builds are kept; `None`: it is elsewhere, and not known.
    async fn room(&self) -> Option<Room> {
        None
    }

    /// Gives up what can be built again: the builder's cache.
    async fn make_room(&self) -> Result<(), StepError> {
        Ok(())
    }
}

/// What became of the removal of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is not there any more.
    Gone,
    /// A container has it: it stays for now.
    InUse,
}

/// Room on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Of what.
    pub path: String,
    /// Bytes that are free.
    pub free: u64,
}

/// Opens what the control API has sealed.
pub trait Unsealer: Send + Sync + 'static {
    /// The secret, if it was sealed here, for this workspace and name.
    ///
    /// # Errors
    /// It was not; why, for people. Trying again cannot help.
    fn open(&self, workspace: &WorkspaceId, name: &str, sealed: &Sealed) -> Result<Secret, String>;
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Push {
    /// The registry has it, under this reference and digest.
    Pushed(BuiltImage),
    /// Nothing to push; why, for people.
    Skipped(String),
}
