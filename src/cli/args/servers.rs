//! Of the verbs that start, stop and set up the servers.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::up::Role;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum BuilderCommand {
    /// Check a builder and write it into the configuration
    Use(BuilderArgs),
}

/// What is not given is asked for on a terminal.
#[derive(Debug, Args)]
pub(in crate::cli) struct BuilderArgs {
    /// What builds
    #[arg(value_enum)]
    pub(in crate::cli) backend: BackendName,
    #[command(flatten)]
    pub(in crate::cli) config: ConfigArgs,
    /// buildkit: tcp://HOST:PORT or unix:///PATH
    #[arg(long, value_name = "ADDRESS")]
    pub(in crate::cli) address: Option<String>,
    /// buildkit: authority of the server's certificate
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) ca_file: Option<PathBuf>,
    /// buildkit: certificate of this client
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) cert_file: Option<PathBuf>,
    /// buildkit: its key
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) key_file: Option<PathBuf>,
    /// buildkit: name in the server's certificate
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) server_name: Option<String>,
    /// depot: file with the organisation's API token
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) token_file: Option<PathBuf>,
    /// depot: the organisation, where there are several
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) organization: Option<String>,
    /// depot: where projects are made
    #[arg(long, value_name = "REGION")]
    pub(in crate::cli) region: Option<String>,
    /// depot: the API's address
    #[arg(long, value_name = "URL", hide = true)]
    pub(in crate::cli) api_url: Option<String>,
    /// Registry of the images, with its port
    #[arg(long, value_name = "HOST")]
    pub(in crate::cli) registry: Option<String>,
    /// First part of every repository
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) repository: Option<String>,
    /// User of the registry
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) username: Option<String>,
    /// File with its password
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) password_file: Option<PathBuf>,
    /// Keep layers in the registry
    #[arg(long)]
    pub(in crate::cli) cache: bool,
}

/// See `builder.backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum BackendName {
    /// The Docker engine
    Docker,
    /// A buildkitd
    Buildkit,
    /// Depot
    Depot,
}

/// Settings of the servers.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct ConfigArgs {
    /// Where everything is kept [default: /var/lib/launchway for root]
    #[arg(long, env = "LAUNCHWAY_DATA_DIR", value_name = "DIR")]
    pub(in crate::cli) data_dir: Option<PathBuf>,
    /// Settings [default: config.toml in the data directory]
    #[arg(long, env = "LAUNCHWAY_CONFIG", value_name = "FILE")]
    pub(in crate::cli) config: Option<PathBuf>,
    /// One setting; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(in crate::cli) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct UpArgs {
    #[command(flatten)]
    pub(in crate::cli) config: ConfigArgs,
    /// Go on in the background once everything is ready
    #[arg(long)]
    pub(in crate::cli) detach: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ServeArgs {
    #[command(flatten)]
    pub(in crate::cli) config: ConfigArgs,
    /// Which parts; may be repeated
    #[arg(long = "role", required = true, value_delimiter = ',')]
    pub(in crate::cli) roles: Vec<Role>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DownArgs {
    #[command(flatten)]
    pub(in crate::cli) config: ConfigArgs,
    /// Remove the deployed containers too
    #[arg(long)]
    pub(in crate::cli) all: bool,
    /// For a restart: leave the gateway, which serves on until the next `up` adopts it
    #[arg(long, conflicts_with = "all")]
    pub(in crate::cli) keep_gateway: bool,
    /// Take nothing new and wait until no workflow is unfinished first
    #[arg(long)]
    pub(in crate::cli) drain: bool,
}
