//! Of the verbs about hostnames, variables, projects and keys.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum DomainsCommand {
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

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum EnvCommand {
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
pub(in crate::cli) enum ProjectCommand {
    /// List projects with their environments and what is live there
    List,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KeysCommand {
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
pub(in crate::cli) enum RoleName {
    /// Everything
    Admin,
    /// Look and deploy
    Deploy,
    /// Look
    Read,
}

impl RoleName {
    /// The name in the API.
    pub(in crate::cli) fn as_str(self) -> &'static str {
        match self {
            RoleName::Admin => "admin",
            RoleName::Deploy => "deploy",
            RoleName::Read => "read",
        }
    }
}
