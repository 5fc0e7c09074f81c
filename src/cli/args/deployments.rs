//! Of the verbs that make, follow and end deployments.

use std::path::PathBuf;

use clap::Args;

use crate::config::Period;

#[derive(Debug, Args)]
pub(in crate::cli) struct DeployArgs {
    /// Directory to deploy
    #[arg(default_value = ".")]
    pub(in crate::cli) path: PathBuf,
    /// Deploy to production
    #[arg(long, conflicts_with = "environment")]
    pub(in crate::cli) prod: bool,
    /// Deploy this image instead of building one
    #[arg(long, value_name = "REF", conflicts_with_all = ["dockerfile", "target", "build_args", "build_secrets", "no_cache"])]
    pub(in crate::cli) image: Option<String>,
    /// Port the application listens on [default: the image's only EXPOSE, else 8080]
    #[arg(long)]
    pub(in crate::cli) port: Option<u16>,
    /// Instances [default: the environment's]
    #[arg(long)]
    pub(in crate::cli) replicas: Option<u32>,
    #[command(flatten)]
    pub(in crate::cli) build: BuildInputs,
    #[command(flatten)]
    pub(in crate::cli) follow: FollowArgs,
}

/// What an image is built from, and how.
#[derive(Debug, Args)]
pub(in crate::cli) struct BuildInputs {
    /// Branch [default: git's]
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) branch: Option<String>,
    /// Commit [default: git's]
    #[arg(long, value_name = "SHA")]
    pub(in crate::cli) commit: Option<String>,
    /// Dockerfile inside the directory
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) dockerfile: Option<String>,
    /// Target stage
    #[arg(long, value_name = "STAGE")]
    pub(in crate::cli) target: Option<String>,
    /// linux/amd64 or linux/arm64 [default: the builder's own]
    #[arg(long, value_name = "PLATFORM")]
    pub(in crate::cli) platform: Option<String>,
    /// Build argument; may be repeated
    #[arg(long = "build-arg", value_name = "NAME=VALUE")]
    pub(in crate::cli) build_args: Vec<String>,
    /// Build secret, from a file or a variable; may be repeated
    #[arg(long = "build-secret", value_name = "id=ID,src=FILE|env=NAME")]
    pub(in crate::cli) build_secrets: Vec<String>,
    /// Build without cached layers
    #[arg(long)]
    pub(in crate::cli) no_cache: bool,
    /// Makes the submission repeatable
    #[arg(long, value_name = "KEY")]
    pub(in crate::cli) idempotency_key: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct BuildArgs {
    /// Directory with a Dockerfile
    #[arg(default_value = ".", value_name = "PATH")]
    pub(in crate::cli) path: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) build: BuildInputs,
    #[command(flatten)]
    pub(in crate::cli) follow: FollowArgs,
}

/// How long a verb stays with what it has begun.
#[derive(Debug, Args)]
pub(in crate::cli) struct FollowArgs {
    /// Print the id and do not wait
    #[arg(long)]
    pub(in crate::cli) detach: bool,
    /// Stop waiting after this time; the deployment goes on
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(in crate::cli) wait_timeout: Period,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RetryArgs {
    /// Deployment id
    pub(in crate::cli) id: String,
    /// Begin at this step, or earlier where that is needed [default: where it ended]
    #[arg(long, value_name = "STEP")]
    pub(in crate::cli) from: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) follow: FollowArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CancelArgs {
    /// Deployment id
    pub(in crate::cli) id: String,
    /// Do not wait until everything is taken back
    #[arg(long)]
    pub(in crate::cli) detach: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// At most this many
    #[arg(long, default_value_t = 20)]
    pub(in crate::cli) limit: u32,
    /// Only those of a branch
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) branch: Option<String>,
    /// Only those in this state now, e.g. failed
    #[arg(long, value_name = "STATUS")]
    pub(in crate::cli) status: Option<String>,
}
