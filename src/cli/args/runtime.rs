//! Of the verbs about what runs.

use clap::Args;

use crate::config::Period;

#[derive(Debug, Args)]
pub(in crate::cli) struct ScaleArgs {
    /// Instances, at least 1
    pub(in crate::cli) replicas: u32,
    /// Deployment id, which must be live [default: the project's]
    pub(in crate::cli) id: Option<String>,
    /// Of this process [default: web, or the only one]
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) process: Option<String>,
    /// Thousandths of a core for each; 0: no limit [default: as it is]
    #[arg(long, value_name = "MILLICORES")]
    pub(in crate::cli) cpu: Option<u32>,
    /// MiB for each; 0: no limit [default: as it is]
    #[arg(long, value_name = "MIB")]
    pub(in crate::cli) memory: Option<u64>,
    /// Stop waiting after this time; the change goes on
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(in crate::cli) wait_timeout: Period,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct LogsArgs {
    /// Deployment id
    pub(in crate::cli) id: String,
    /// Build output (the default)
    #[arg(long)]
    pub(in crate::cli) build: bool,
    /// The output of the release command alone
    #[arg(long)]
    pub(in crate::cli) release: bool,
    /// Follow until the deployment ends, or with --runtime until its instances are removed
    #[arg(long, short)]
    pub(in crate::cli) follow: bool,
    /// Of this attempt [default: all]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) attempt: Option<u32>,
    #[command(flatten)]
    pub(in crate::cli) runtime: RuntimeLogsArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RuntimeLogsArgs {
    /// Output of the instances
    #[arg(long, conflicts_with_all = ["build", "attempt"])]
    pub(in crate::cli) runtime: bool,
    /// Not older than this, e.g. 5m
    #[arg(long, value_name = "TIME", requires = "runtime")]
    pub(in crate::cli) since: Option<Period>,
    /// Only the last lines of each instance
    #[arg(long, value_name = "N", requires = "runtime")]
    pub(in crate::cli) tail: Option<u32>,
    /// Only this replica, from 0
    #[arg(long, value_name = "N", requires = "runtime")]
    pub(in crate::cli) replica: Option<u32>,
    /// Only this process
    #[arg(long, value_name = "NAME", requires = "runtime")]
    pub(in crate::cli) process: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ExecArgs {
    /// Deployment id
    pub(in crate::cli) id: String,
    /// In this process [default: any]
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) process: Option<String>,
    /// In this replica, from 0 [default: any]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) replica: Option<u32>,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(in crate::cli) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RunArgs {
    /// Deployment id [default: the live one of the project and environment]
    pub(in crate::cli) id: Option<String>,
    /// Run it in place of the image's entry point
    #[arg(long)]
    pub(in crate::cli) replace_entrypoint: bool,
    /// End it after this time
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(in crate::cli) time_limit: Period,
    /// Program and arguments, or arguments for the image's entry point
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(in crate::cli) command: Vec<String>,
}
