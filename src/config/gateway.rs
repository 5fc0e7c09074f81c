//! `[gateway]`

use std::net::SocketAddr;

use launchway_workflows::secret::Secret;
use serde::Deserialize;

use super::{ConfigError, Period, problems::rule, secrets::optional};

/// See the module.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Gateway {
    pub bind: SocketAddr,
    pub scheme: String,
    pub public_port: u16,
    pub drain: Period,
    pub access_log: AccessLog,
    pub metrics_bind: String,
    pub workers: usize,
    pub max_connections: usize,
    pub max_header_bytes: usize,
    pub max_body_bytes: u64,
    pub header_timeout: Period,
    pub connect_timeout: Period,
    pub response_timeout: Period,
    pub stream_idle: Period,
    pub client_window: Period,
    pub client_min_bytes: u64,
    pub cooldown: Period,
    pub repeat_safe: bool,
    pub start_wait: Period,
    pub report_every: Period,
    pub trust_forwarded: bool,
    pub key_file: String,
}

/// Where the gateway's requests are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    /// `log/access.log` in the data directory.
    File,
    /// Standard output.
    Stdout,
    /// Nowhere.
    Off,
}

impl Gateway {
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let (scheme, metrics) = (&self.scheme, &self.metrics_bind);
        let of_scheme = rule(scheme == "http" || scheme == "https", || {
            format!("gateway.scheme = `{scheme}`: give http or https")
        });
        let of_metrics = rule(metrics.is_empty() || self.metrics_bind().is_some(), || {
            format!("gateway.metrics_bind = `{metrics}`: give an address, e.g. 127.0.0.1:9100")
        });
        of_scheme.into_iter().chain(of_metrics)
    }

    /// What gateways show to the control API, where it is configured.
    ///
    /// # Errors
    /// Its file cannot be read, others may read it, or it cannot be sent.
    pub fn key(&self) -> Result<Option<Secret>, ConfigError> {
        let key = optional("gateway.key_file", &self.key_file)?;
        let travels = |key: &Secret| key.expose().bytes().all(|byte| byte.is_ascii_graphic());
        match key.as_ref().is_none_or(travels) {
            true => Ok(key),
            false => Err(ConfigError(vec![format!(
                "gateway.key_file = `{}`: give one line of letters, digits and signs: it \
                 travels in a header",
                self.key_file
            )])),
        }
    }

    /// Where the metrics have an address of their own.
    pub fn metrics_bind(&self) -> Option<SocketAddr> {
        self.metrics_bind.parse().ok()
    }

    /// The URL of a hostname, as people open it.
    pub fn url_of(&self, host: &str) -> String {
        let port = if self.public_port == 0 { self.bind.port() } else { self.public_port };
        match (self.scheme.as_str(), port) {
            ("http", 80) | ("https", 443) => format!("{}://{host}/", self.scheme),
            (scheme, port) => format!("{scheme}://{host}:{port}/"),
        }
    }
}
