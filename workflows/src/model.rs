//! What the durable core knows about a deployment. Everything that derives
//! `Serialize` here may enter the journal; everything that may not (env,
//! secrets, build args, URLs) is in [`crate::ports`] and does not derive it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::app::RunOptions;
use crate::{
    error::ErrorCode,
    ids::{BuildId, DeploymentId, EnvironmentId, InvocationId, ProjectId, WorkspaceId},
    status::DeploymentStatus,
};

/// Where the image comes from: exactly one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// An uploaded build context.
    BuildContext(BuildContext),
    /// A prebuilt image, by reference; the build phase is skipped.
    DockerImage(String),
}

/// An uploaded context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BuildContext {
    /// Object key, as `GenerateUploadURL` returned it.
    pub build_context_path: String,
    /// Path of the Dockerfile inside the context; default `Dockerfile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile_path: Option<String>,
}

/// The commit a context was packed from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GitCommit {
    /// Full or short SHA, lower-case hex.
    pub commit_sha: String,
    /// First line and more of the message.
    #[serde(default)]
    pub commit_message: String,
    /// Name of the author.
    #[serde(default)]
    pub author_handle: String,
    /// URL of the author's picture.
    #[serde(default)]
    pub author_avatar_url: String,
    /// Milliseconds since the epoch.
    #[serde(default)]
    pub timestamp: i64,
    /// The working tree differed from the commit.
    #[serde(default)]
    pub dirty: bool,
    /// Of the repository, without credentials.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source_url: String,
}

/// How to build. Build args may hold credentials: not journaled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BuildOptions {
    /// Target stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// `linux/amd64`, `linux/arm64`, several by comma; empty or `dynamic`: the builder's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Build arguments by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub build_args: BTreeMap<String, String>,
    /// Do not reuse cached layers.
    #[serde(default)]
    pub no_cache: bool,
    /// Build secrets by id, each sealed by the control API.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Sealed>,
}

/// A secret that only its installation can open: may be kept and journaled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sealed(pub String);

/// What a new deployment does to older ones of its branch that wait for a
/// build slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum QueuePolicy {
    /// It takes their place: only the newest is built.
    SupersedeQueued,
    /// Nothing: every one is built.
    Queue,
}

impl QueuePolicy {
    /// The name in the database, in settings and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            QueuePolicy::SupersedeQueued => "supersede-queued",
            QueuePolicy::Queue => "queue",
        }
    }
}

impl std::str::FromStr for QueuePolicy {
    type Err = String;

    fn from_str(input: &str) -> Result<Self, String> {
        let known = [QueuePolicy::SupersedeQueued, QueuePolicy::Queue];
        known.into_iter().find(|policy| policy.as_str() == input).ok_or_else(|| {
            format!("`{input}` is not a queue policy: give supersede-queued or queue")
        })
    }
}

/// How far a deployment goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// To running instances and moved domains.
    #[default]
    Deploy,
    /// To an image.
    Build,
}

impl Purpose {
    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Purpose::Deploy => "deploy",
            Purpose::Build => "build",
        }
    }

    /// As a noun, for people.
    pub fn noun(self) -> &'static str {
        match self {
            Purpose::Deploy => "deployment",
            Purpose::Build => "build",
        }
    }
}

impl std::str::FromStr for Purpose {
    type Err = String;

    fn from_str(input: &str) -> Result<Self, String> {
        let known = [Purpose::Deploy, Purpose::Build];
        known
            .into_iter()
            .find(|purpose| purpose.as_str() == input)
            .ok_or_else(|| format!("`{input}` is no purpose of a deployment"))
    }
}

/// A validated submission, ready to become a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDeployment {
    /// The id it will have, if the key is new.
    pub id: DeploymentId,
    /// The id its build will have.
    pub build_id: BuildId,
    /// How far it goes.
    pub purpose: Purpose,
    /// The owner.
    pub workspace_id: WorkspaceId,
    /// Project id or slug; a slug is created on first use.
    pub project: String,
    /// Environment slug, created on first use.
    pub environment: String,
    /// Empty: the project's default branch.
    pub branch: String,
    /// The source.
    pub source: Source,
    /// The commit, where there is one.
    pub git_commit: Option<GitCommit>,
    /// How to build.
    pub build: BuildOptions,
    /// How to run.
    pub run: RunOptions,
    /// Changes the project's policy, where given.
    pub queue_policy: Option<QueuePolicy>,
    /// The invocation that submits it: its own row is found again by it.
    pub submitted_by: InvocationId,
    /// The caller's key, unique in the workspace.
    pub idempotency_key: String,
    /// Hash over content and build inputs, lower-case hex; empty when unknown.
    pub content_hash: String,
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Submission {
    /// The row was inserted.
    Created {
        /// The new deployment.
        deployment_id: DeploymentId,
    },
    /// The key already had this deployment, with the same content.
    Existing {
        /// The deployment of the first submission.
        deployment_id: DeploymentId,
        /// Where it is now.
        status: DeploymentStatus,
    },
    /// The submission breaks a rule; nothing was written.
    Refused {
        /// The input, the rule and the remedy.
        reason: String,
        /// The key exists with other content (HTTP 409 rather than 400).
        conflict: bool,
    },
}

/// What `load-deployment` journals: enough to run every later step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeploymentPlan {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// Its build.
    pub build_id: BuildId,
    /// The owner.
    pub workspace_id: WorkspaceId,
    /// The project.
    pub project_id: ProjectId,
    /// Its slug.
    pub project_slug: String,
    /// The environment.
    pub environment_id: EnvironmentId,
    /// Its slug.
    pub environment_slug: String,
    /// Builds of production go first.
    pub production: bool,
    /// The branch.
    pub branch: String,
    /// Full SHA, empty without git.
    pub commit_sha: String,
    /// Of the repository, empty without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source_url: String,
    /// Hash of content and build inputs, empty when unknown.
    pub content_hash: String,
    /// Where the image comes from.
    pub source: Source,
    /// Order of submission within the environment.
    pub sequence: i64,
    /// A newer deployment of the same branch takes its place in the queue.
    #[serde(default)]
    pub supersede_queued: bool,
    /// How far it goes.
    #[serde(default)]
    pub purpose: Purpose,
    /// A command has to run before its instances start. Which one is read where
    /// it is run.
    #[serde(default)]
    pub has_release: bool,
}

/// An image, once it exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BuiltImage {
    /// Repository and tag, e.g. `launchway/hello:bld-…`; with the registry's
    /// host when it is in one.
    pub reference: String,
    /// `sha256:…`: of the manifest when in a registry, else the image id.
    pub digest: String,
    /// Only the builder's own engine has it.
    pub local_only: bool,
}

impl BuiltImage {
    /// For people and other systems: repository, tag and digest, or the image's
    /// id where only the builder's own engine has it.
    pub fn full_name(&self) -> String {
        match self.local_only {
            true => self.digest.clone(),
            false => format!("{}@{}", self.reference, self.digest),
        }
    }

    /// What a runtime pulls or starts: by digest, so that a moved tag cannot
    /// change what runs.
    pub fn pinned(&self) -> String {
        match (self.local_only, self.reference.rsplit_once(':')) {
            (true, _) => self.digest.clone(),
            // The colon belongs to a registry's port when a slash follows it.
            (false, Some((repository, tag))) if !tag.contains('/') => {
                format!("{repository}@{}", self.digest)
            }
            (false, _) => format!("{}@{}", self.reference, self.digest),
        }
    }
}

/// Which owner a domain belongs to, and so what moves it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum DomainKind {
    /// Belongs to one deployment and never moves.
    Commit,
    /// Follows the newest deployment of a branch in an environment.
    Branch,
    /// Follows the environment's live deployment.
    Environment,
    /// A custom domain; follows the environment's live deployment.
    Live,
}

impl DomainKind {
    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            DomainKind::Commit => "commit",
            DomainKind::Branch => "branch",
            DomainKind::Environment => "environment",
            DomainKind::Live => "live",
        }
    }
}

impl std::str::FromStr for DomainKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Commit, Self::Branch, Self::Environment, Self::Live]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a kind of domain"))
    }
}

/// A wish for a hostname. The first owner of a name keeps it; another one
/// gets `fallback`. An owner that already has a name keeps that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DomainClaim {
    /// What moves it.
    pub kind: DomainKind,
    /// Who owns it: deployment id, or environment id and branch.
    pub owner: String,
    /// The wanted hostname, lower case, without port.
    pub name: String,
    /// The hostname when `name` is somebody else's.
    pub fallback: String,
}

/// What the commit point did. A build by itself has no domains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Routed {
    /// `live`, or `ready` when the environment is pinned or has a newer live one,
    /// or `built`.
    pub status: DeploymentStatus,
    /// Hostnames that answer with this deployment now.
    pub domains: Vec<String>,
    /// The one to show: the environment's when live, else the commit's.
    pub primary: String,
    /// The deployment the environment's domain pointed to before.
    pub previous: Option<DeploymentId>,
    /// Why it is `ready` rather than `live`, for people.
    pub withheld: Option<String>,
}

/// An instance as krane reports it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Instance {
    /// The runtime's id.
    pub id: String,
    /// `host:port`, once it has one.
    pub address: String,
    /// Its probe passed.
    pub ready: bool,
    /// Its process ended and is not started again.
    pub exit_code: Option<i32>,
    /// The last probe's result, or the engine's error.
    pub message: String,
    /// Last lines of an instance that ended.
    pub log_tail: Vec<String>,
    /// Probes so far.
    pub probe_attempts: u32,
    /// The process it is of.
    pub process: String,
    /// Its number there, from 0.
    pub replica: u32,
    /// Why it is not ready, as far as the runtime knows.
    pub reason: Option<NotReadyReason>,
    /// It will not become ready, however long one waits.
    pub permanent: bool,
}

/// Why an instance is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReadyReason {
    /// Its image is being pulled, or cannot be.
    ImagePull,
    /// No node has room for it, or none that it may run on.
    Unschedulable,
    /// A quota is used up.
    QuotaExceeded,
    /// The runtime refuses its settings.
    Rejected,
    /// It runs, and does not answer as it should.
    ProbeFailing,
    /// It has ended.
    Exited,
    /// It has ended after it was ready, and is started again.
    CrashLoop,
    /// It has ended for want of memory.
    OutOfMemory,
    /// Its node has ended it; another takes its place.
    Evicted,
}

impl NotReadyReason {
    /// What a deployment fails with that cannot go on for it.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::ImagePull => ErrorCode::ImageUnavailable,
            Self::Unschedulable => ErrorCode::Unschedulable,
            Self::QuotaExceeded => ErrorCode::QuotaExceeded,
            Self::Rejected => ErrorCode::RuntimeRejected,
            Self::ProbeFailing | Self::Evicted => ErrorCode::NotReady,
            Self::Exited | Self::CrashLoop => ErrorCode::InstanceExited,
            Self::OutOfMemory => ErrorCode::OutOfMemory,
        }
    }
}

/// A plan for tests.
#[cfg(test)]
pub(crate) fn test_plan() -> DeploymentPlan {
    DeploymentPlan {
        deployment_id: DeploymentId::generate(),
        build_id: BuildId::generate(),
        workspace_id: WorkspaceId::local(),
        project_id: ProjectId::generate(),
        project_slug: "hello".to_owned(),
        environment_id: EnvironmentId::generate(),
        environment_slug: "preview".to_owned(),
        production: false,
        branch: "main".to_owned(),
        commit_sha: "0123456789abcdef".to_owned(),
        source_url: String::new(),
        content_hash: String::new(),
        source: Source::DockerImage("hello".to_owned()),
        sequence: 1,
        supersede_queued: true,
        purpose: Purpose::Deploy,
        has_release: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pushed_image_is_pinned_by_digest_and_a_local_one_by_id() {
        let image = |reference: &str, local_only| BuiltImage {
            reference: reference.to_owned(),
            digest: "sha256:ab".to_owned(),
            local_only,
        };
        assert_eq!(image("host:5000/a/b:t", false).pinned(), "host:5000/a/b@sha256:ab");
        assert_eq!(image("host:5000/a/b", false).pinned(), "host:5000/a/b@sha256:ab");
        assert_eq!(image("launchway/a:t", true).pinned(), "sha256:ab");
        assert_eq!(image("host:5000/a/b:t", false).full_name(), "host:5000/a/b:t@sha256:ab");
        assert_eq!(image("launchway/a:t", true).full_name(), "sha256:ab");
    }
}
