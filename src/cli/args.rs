//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::up::Role;

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

#[derive(Debug, Subcommand)]
pub(super) enum DomainsCommand {
    /// List hostnames, of every project and environment unless one is given
    List,
    /// Add a hostname of your own, which follows what is live in the environment
    Add {
        /// Hostname, such as www.example.com
        name: String,
    },
    /// Remove a hostname of your own
    Remove {
        /// Hostname
        name: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct ScaleArgs {
    /// Instances, at least 1
    pub(super) replicas: u32,
    /// Deployment id, which must be live [default: the project's]
    pub(super) id: Option<String>,
    /// Of this process [default: web, or the only one]
    #[arg(long, value_name = "NAME")]
    pub(super) process: Option<String>,
    /// Thousandths of a core for each; 0: no limit [default: as it is]
    #[arg(long, value_name = "MILLICORES")]
    pub(super) cpu: Option<u32>,
    /// MiB for each; 0: no limit [default: as it is]
    #[arg(long, value_name = "MIB")]
    pub(super) memory: Option<u64>,
    /// Stop waiting after this time; the change goes on
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(super) wait_timeout: crate::config::Period,
}

#[derive(Debug, Subcommand)]
pub(super) enum EnvCommand {
    /// Set variables, for the next deployments
    Set {
        /// NAME=VALUE, NAME=@FILE, or NAME=- for what comes on stdin
        #[arg(required = true, value_name = "NAME=VALUE|@FILE|-")]
        variables: Vec<String>,
    },
    /// List the names of variables; values are never shown
    List,
    /// Remove variables, for the next deployments
    Unset {
        /// Name
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ProjectCommand {
    /// List projects with their environments and what is live there
    List,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Create a key; its secret is printed this once
    Create {
        /// What it may do: look, look and deploy, or everything
        #[arg(long, value_enum)]
        role: RoleName,
        /// What it is for
        #[arg(long, value_name = "TEXT", default_value = "")]
        name: String,
    },
    /// List keys
    List,
    /// End a key at once and for good
    Revoke {
        /// Key id
        id: String,
    },
}

/// See `keys create`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum RoleName {
    /// Everything
    Admin,
    /// Look and deploy
    Deploy,
    /// Look
    Read,
}

impl RoleName {
    /// The name in the API.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            RoleName::Admin => "admin",
            RoleName::Deploy => "deploy",
            RoleName::Read => "read",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum BuilderCommand {
    /// Check a builder and write it into the configuration
    Use(BuilderArgs),
}

/// What is not given is asked for on a terminal.
#[derive(Debug, Args)]
pub(super) struct BuilderArgs {
    /// What builds
    #[arg(value_enum)]
    pub(super) backend: BackendName,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// buildkit: tcp://HOST:PORT or unix:///PATH
    #[arg(long, value_name = "ADDRESS")]
    pub(super) address: Option<String>,
    /// buildkit: authority of the server's certificate
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// buildkit: certificate of this client
    #[arg(long, value_name = "FILE")]
    pub(super) cert_file: Option<PathBuf>,
    /// buildkit: its key
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
    /// buildkit: name in the server's certificate
    #[arg(long, value_name = "NAME")]
    pub(super) server_name: Option<String>,
    /// depot: file with the organisation's API token
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// depot: the organisation, where there are several
    #[arg(long, value_name = "ID")]
    pub(super) organization: Option<String>,
    /// depot: where projects are made
    #[arg(long, value_name = "REGION")]
    pub(super) region: Option<String>,
    /// depot: the API's address
    #[arg(long, value_name = "URL", hide = true)]
    pub(super) api_url: Option<String>,
    /// Registry of the images, with its port
    #[arg(long, value_name = "HOST")]
    pub(super) registry: Option<String>,
    /// First part of every repository
    #[arg(long, value_name = "NAME")]
    pub(super) repository: Option<String>,
    /// User of the registry
    #[arg(long, value_name = "NAME")]
    pub(super) username: Option<String>,
    /// File with its password
    #[arg(long, value_name = "FILE")]
    pub(super) password_file: Option<PathBuf>,
    /// Keep layers in the registry
    #[arg(long)]
    pub(super) cache: bool,
}

/// See `builder.backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum BackendName {
    /// The Docker engine
    Docker,
    /// A buildkitd
    Buildkit,
    /// Depot
    Depot,
}

/// Settings of the servers.
#[derive(Debug, Clone, Args)]
pub(super) struct ConfigArgs {
    /// Where everything is kept [default: /var/lib/launchway for root]
    #[arg(long, env = "LAUNCHWAY_DATA_DIR", value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// Settings [default: config.toml in the data directory]
    #[arg(long, env = "LAUNCHWAY_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// One setting; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(super) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct UpArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Go on in the background once everything is ready
    #[arg(long)]
    pub(super) detach: bool,
}

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Which parts; may be repeated
    #[arg(long = "role", required = true, value_delimiter = ',')]
    pub(super) roles: Vec<Role>,
}

#[derive(Debug, Args)]
pub(super) struct DownArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Remove the deployed containers too
    #[arg(long)]
    pub(super) all: bool,
    /// For a restart: leave the gateway, which serves on until the next `up` adopts it
    #[arg(long, conflicts_with = "all")]
    pub(super) keep_gateway: bool,
    /// Take nothing new and wait until no workflow is unfinished first
    #[arg(long)]
    pub(super) drain: bool,
}

#[derive(Debug, Args)]
pub(super) struct DeployArgs {
    /// Directory to deploy
    #[arg(default_value = ".")]
    pub(super) path: PathBuf,
    /// Deploy to production
    #[arg(long, conflicts_with = "environment")]
    pub(super) prod: bool,
    /// Deploy this image instead of building one
    #[arg(long, value_name = "REF", conflicts_with_all = ["dockerfile", "target", "build_args", "build_secrets", "no_cache"])]
    pub(super) image: Option<String>,
    /// Port the application listens on [default: the image's only EXPOSE, else 8080]
    #[arg(long)]
    pub(super) port: Option<u16>,
    /// Instances [default: the environment's]
    #[arg(long)]
    pub(super) replicas: Option<u32>,
    #[command(flatten)]
    pub(super) build: BuildInputs,
    #[command(flatten)]
    pub(super) follow: FollowArgs,
}

/// What an image is built from, and how.
#[derive(Debug, Args)]
pub(super) struct BuildInputs {
    /// Branch [default: git's]
    #[arg(long, value_name = "NAME")]
    pub(super) branch: Option<String>,
    /// Commit [default: git's]
    #[arg(long, value_name = "SHA")]
    pub(super) commit: Option<String>,
    /// Dockerfile inside the directory
    #[arg(long, value_name = "PATH")]
    pub(super) dockerfile: Option<String>,
    /// Target stage
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Option<String>,
    /// linux/amd64 or linux/arm64 [default: the builder's own]
    #[arg(long, value_name = "PLATFORM")]
    pub(super) platform: Option<String>,
    /// Build argument; may be repeated
    #[arg(long = "build-arg", value_name = "NAME=VALUE")]
    pub(super) build_args: Vec<String>,
    /// Build secret, from a file or a variable; may be repeated
    #[arg(long = "build-secret", value_name = "id=ID,src=FILE|env=NAME")]
    pub(super) build_secrets: Vec<String>,
    /// Build without cached layers
    #[arg(long)]
    pub(super) no_cache: bool,
    /// Makes the submission repeatable
    #[arg(long, value_name = "KEY")]
    pub(super) idempotency_key: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// Directory with a Dockerfile
    #[arg(default_value = ".", value_name = "PATH")]
    pub(super) path: PathBuf,
    #[command(flatten)]
    pub(super) build: BuildInputs,
    #[command(flatten)]
    pub(super) follow: FollowArgs,
}

/// How long a verb stays with what it has begun.
#[derive(Debug, Args)]
pub(super) struct FollowArgs {
    /// Print the id and do not wait
    #[arg(long)]
    pub(super) detach: bool,
    /// Stop waiting after this time; the deployment goes on
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(super) wait_timeout: crate::config::Period,
}

#[derive(Debug, Args)]
pub(super) struct RetryArgs {
    /// Deployment id
    pub(super) id: String,
    /// Begin at this step, or earlier where that is needed [default: where it ended]
    #[arg(long, value_name = "STEP")]
    pub(super) from: Option<String>,
    #[command(flatten)]
    pub(super) follow: FollowArgs,
}

#[derive(Debug, Args)]
pub(super) struct CancelArgs {
    /// Deployment id
    pub(super) id: String,
    /// Do not wait until everything is taken back
    #[arg(long)]
    pub(super) detach: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// At most this many
    #[arg(long, default_value_t = 20)]
    pub(super) limit: u32,
    /// Only those of a branch
    #[arg(long, value_name = "NAME")]
    pub(super) branch: Option<String>,
    /// Only those in this state now, e.g. failed
    #[arg(long, value_name = "STATUS")]
    pub(super) status: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// Deployment id
    pub(super) id: String,
    /// Build output (the default)
    #[arg(long)]
    pub(super) build: bool,
    /// The output of the release command alone
    #[arg(long)]
    pub(super) release: bool,
    /// Follow until the deployment ends, or with --runtime until its instances are removed
    #[arg(long, short)]
    pub(super) follow: bool,
    /// Of this attempt [default: all]
    #[arg(long, value_name = "N")]
    pub(super) attempt: Option<u32>,
    #[command(flatten)]
    pub(super) runtime: RuntimeLogsArgs,
}

#[derive(Debug, Args)]
pub(super) struct RuntimeLogsArgs {
    /// Output of the instances
    #[arg(long, conflicts_with_all = ["build", "attempt"])]
    pub(super) runtime: bool,
    /// Not older than this, e.g. 5m
    #[arg(long, value_name = "TIME", requires = "runtime")]
    pub(super) since: Option<crate::config::Period>,
    /// Only the last lines of each instance
    #[arg(long, value_name = "N", requires = "runtime")]
    pub(super) tail: Option<u32>,
    /// Only this replica, from 0
    #[arg(long, value_name = "N", requires = "runtime")]
    pub(super) replica: Option<u32>,
    /// Only this process
    #[arg(long, value_name = "NAME", requires = "runtime")]
    pub(super) process: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// Deployment id
    pub(super) id: String,
    /// In this process [default: any]
    #[arg(long, value_name = "NAME")]
    pub(super) process: Option<String>,
    /// In this replica, from 0 [default: any]
    #[arg(long, value_name = "N")]
    pub(super) replica: Option<u32>,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(super) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Deployment id [default: the live one of the project and environment]
    pub(super) id: Option<String>,
    /// Run it in place of the image's entry point
    #[arg(long)]
    pub(super) replace_entrypoint: bool,
    /// End it after this time
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(super) time_limit: crate::config::Period,
    /// Program and arguments, or arguments for the image's entry point
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(super) command: Vec<String>,
}
