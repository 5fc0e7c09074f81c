//! What can be typed.

mod deployments;
mod runtime;
mod servers;
mod workspace;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(super) use deployments::{
    BuildArgs, BuildInputs, CancelArgs, DeployArgs, FollowArgs, ListArgs, RetryArgs,
};
pub(super) use runtime::{ExecArgs, LogsArgs, RunArgs, ScaleArgs};
pub(super) use servers::{
    BackendName, BuilderArgs, BuilderCommand, ConfigArgs, DownArgs, ServeArgs, UpArgs,
};
pub(super) use workspace::{DomainsCommand, EnvCommand, KeysCommand, ProjectCommand};

/// A deploy engine that never loses its place.
#[derive(Debug, Parser)]
#[command(name = "launchway", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Flags of every verb.
#[derive(Debug, Clone, Args)]
pub(super) struct Global {
    /// Control API, e.g. http://127.0.0.1:7091 [default: the last `launchway up`]
    #[arg(long, global = true, env = "LAUNCHWAY_URL", value_name = "URL")]
    pub(super) url: Option<String>,
    /// API key [default: the one `launchway up` wrote for this URL]
    #[arg(
        long,
        global = true,
        env = "LAUNCHWAY_TOKEN",
        hide_env_values = true,
        value_name = "KEY"
    )]
    pub(super) token: Option<String>,
    /// Workspace
    #[arg(long, global = true, env = "LAUNCHWAY_WORKSPACE", value_name = "NAME")]
    pub(super) workspace: Option<String>,
    /// Project [default: `project` in launchway.toml, else the directory's name]
    #[arg(long, short, global = true, env = "LAUNCHWAY_PROJECT", value_name = "NAME")]
    pub(super) project: Option<String>,
    /// Environment [default: preview]
    #[arg(long = "env", short, global = true, env = "LAUNCHWAY_ENV", value_name = "NAME")]
    pub(super) environment: Option<String>,
    /// Print JSON, one object per line
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// How progress is shown
    #[arg(
        long,
        global = true,
        env = "LAUNCHWAY_PROGRESS",
        value_name = "KIND",
        default_value = "auto"
    )]
    pub(super) progress: Progress,
}

/// See `--progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Progress {
    /// tty on a terminal, else plain
    Auto,
    /// What runs, with its time and the end of its output, redrawn in place
    Tty,
    /// One line for each event, with its time
    Plain,
    /// The same as --json
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run everything on this machine
    Up(UpArgs),
    /// Run some parts, to scale out
    Serve(ServeArgs),
    /// Stop what `up` has started; deployments go on running
    Down(DownArgs),
    /// Check that everything is in place
    Doctor(ConfigArgs),
    /// Write a first launchway.toml for a directory
    Init {
        /// Directory
        #[arg(default_value = ".")]
        path: PathBuf,
    },
    /// Take a directory, or an image, to a running deployment
    Deploy(DeployArgs),
    /// Build an image of a directory, without deploying it
    Build(BuildArgs),
    /// Follow a deployment until it ends
    Watch {
        /// Deployment id
        id: String,
    },
    /// Run a failed or cancelled deployment again, from the step it ended at
    Retry(RetryArgs),
    /// Deploy again what a deployment was made from
    Redeploy {
        /// Deployment id
        id: String,
        #[command(flatten)]
        follow: FollowArgs,
    },
    /// End a deployment and take back what it has started
    Cancel(CancelArgs),
    /// Serve an earlier deployment again, and stay there until `promote`
    Rollback {
        /// Deployment id [default: the one that was live before]
        id: Option<String>,
    },
    /// Serve a deployment that is ready or retired
    Promote {
        /// Deployment id
        id: String,
    },
    /// Change how many instances the live deployment has, and the next ones by default
    Scale(ScaleArgs),
    /// Set, list and remove an environment's variables
    #[command(subcommand)]
    Env(EnvCommand),
    /// Show projects
    Project {
        #[command(subcommand)]
        command: ProjectCommand,
    },
    /// Create, list and revoke API keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// List deployments
    #[command(alias = "ls")]
    List(ListArgs),
    /// Show a deployment with its steps
    #[command(alias = "status")]
    Inspect {
        /// Deployment id
        id: String,
        /// Print the OpenAPI description that it had when it went live
        #[arg(long)]
        openapi: bool,
    },
    /// Show a deployment's build output, or with --runtime that of its instances
    Logs(LogsArgs),
    /// Run a command in a running instance
    Exec(ExecArgs),
    /// Run a command once, beside the instances, with a deployment's image and variables
    Run(RunArgs),
    /// Show a deployment's journal, as Restate recorded it
    Journal {
        /// Deployment id
        id: String,
        /// Of this attempt [default: the present one]
        #[arg(long, value_name = "N")]
        attempt: Option<u32>,
    },
    /// Say why a deployment is where it is, what happens next and what to do
    Why {
        /// Deployment id
        id: String,
    },
    /// Print a deployment's URL and open it in a browser where there is one
    Open {
        /// Deployment id [default: the newest of the project]
        id: Option<String>,
    },
    /// Show, add and remove hostnames
    #[command(subcommand)]
    Domains(DomainsCommand),
    /// Remove what is past its retention: contexts, images, build output, records
    #[command(alias = "prune")]
    Gc {
        /// Only list it, with sizes
        #[arg(long)]
        dry_run: bool,
    },
    /// Choose what builds
    Builder {
        #[command(subcommand)]
        command: BuilderCommand,
    },
    /// Print the version
    Version,
}
