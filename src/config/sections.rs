//! Sections that say where a part listens, how it is reached and how long it may
//! take.

use std::net::SocketAddr;

use serde::Deserialize;

use super::Period;

/// `[server]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Server {
    pub workspace: String,
    pub sealing_key_file: String,
    pub apex: String,
    pub log: String,
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// `[control]`, `[krane]`, `[worker]`: where it listens and how it is reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Api {
    pub bind: SocketAddr,
    pub url: String,
}

impl Api {
    /// The URL by which others reach it.
    pub fn url(&self) -> String {
        url_or(&self.url, self.bind)
    }
}

/// `[restate]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Restate {
    pub embedded: bool,
    pub binary: String,
    pub ingress_bind: SocketAddr,
    pub admin_bind: SocketAddr,
    pub node_bind: SocketAddr,
    pub ingress_url: String,
    pub admin_url: String,
}

impl Restate {
    /// Where handlers are called.
    pub fn ingress_url(&self) -> String {
        url_or(&self.ingress_url, self.ingress_bind)
    }

    /// Where the server is administered.
    pub fn admin_url(&self) -> String {
        url_or(&self.admin_url, self.admin_bind)
    }
}

/// `[database]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Database {
    pub url: String,
    pub url_file: String,
}

/// `[build]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Build {
    pub time_limit: Period,
    pub max_output_bytes: u64,
    pub min_free_bytes: u64,
    pub concurrency: u32,
    pub queue_time_limit: Period,
}

/// `[run]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Run {
    pub ready_timeout: Period,
    pub retire_after: Period,
    pub keep_running: u32,
    pub idle_timeout: Period,
}

/// `[recovery]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Recovery {
    pub every: Period,
    pub stalled_after: Period,
    pub resume_after: Period,
    pub grace: Period,
}

/// What is set, else the address it listens on.
pub(super) fn url_or(url: &str, bind: SocketAddr) -> String {
    if url.is_empty() { format!("http://{bind}") } else { url.trim_end_matches('/').to_owned() }
}
