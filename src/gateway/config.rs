//! What the gateway is told at start, and what can be wrong with it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tokio::net::{TcpListener, TcpSocket};

/// Smallest head buffer that hyper accepts.
const MIN_HEADER_BYTES: usize = 8 * 1024;
/// Connections the kernel holds for us between two accepts.
const ACCEPT_BACKLOG: u32 = 4096;

/// Settings of one gateway process; [`GatewayConfig::new`] fills the defaults.
#[derive(Clone)]
pub struct GatewayConfig {
    /// Where clients connect.
    pub bind: SocketAddr,
    /// The control plane, e.g. `http://127.0.0.1:7091`.
    pub control_url: String,
    /// Sent to the control plane as `authorization: Bearer …` when set.
    pub control_token: Option<String>,
    /// The last good table, read at start and replaced after each change.
    pub snapshot_path: PathBuf,
    /// Share the port with another gateway, for a handover without a gap. Off
    /// by default: two unrelated gateways would silently split the traffic.
    pub reuse_port: bool,
    /// Believe `X-Forwarded-*` and `Forwarded` of clients and append to them.
    /// Only behind a proxy that sets them; off by default.
    pub trust_forwarded: bool,
    /// Open client connections; more wait in the kernel. Default 10 000.
    pub max_connections: usize,
    /// Largest request head in bytes, at least 8192. Default 64 KiB.
    pub max_header_bytes: usize,
    /// Longest wait for a complete request head, and longest idle time of a
    /// client's connection. Default 60 s.
    pub header_timeout: Duration,
    /// Longest TCP connect to an instance. Default 2 s.
    pub connect_timeout: Duration,
    /// Longest wait for an instance's response head, counted from the last
    /// byte of the request that moved. Default 60 s.
    pub response_timeout: Duration,
    /// Longest silence inside a response body or an upgraded connection.
    /// Default 15 min.
    pub stream_idle: Duration,
    /// How long an unused connection to an instance is kept. Below the 5 s
    /// after which common servers close theirs. Default 4 s.
    pub pool_idle: Duration,
    /// How long an instance that refused is tried last. Default 2 s.
    pub cooldown: Duration,
    /// How long requests in flight may take to end at shutdown. Default 10 s.
    pub drain: Duration,
}

impl GatewayConfig {
    /// The given places and every default.
    pub fn new(
        bind: SocketAddr,
        control_url: impl Into<String>,
        snapshot_path: impl Into<PathBuf>,
    ) -> Self {
        Self {
            bind,
            control_url: control_url.into(),
            control_token: None,
            snapshot_path: snapshot_path.into(),
            reuse_port: false,
            trust_forwarded: false,
            max_connections: 10_000,
            max_header_bytes: 64 * 1024,
            header_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(60),
            stream_idle: Duration::from_secs(15 * 60),
            pool_idle: Duration::from_secs(4),
            cooldown: Duration::from_secs(2),
            drain: Duration::from_secs(10),
        }
    }

    /// Opens the listener for [`super::serve`].
    ///
    /// # Errors
    /// [`GatewayError::Bind`] when the address is taken or not ours.
    pub fn listen(&self) -> Result<TcpListener, GatewayError> {
        let open = || {
            let socket =
                if self.bind.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // A restart must not wait for the old sockets' TIME_WAIT.
            socket.set_reuseaddr(true)?;
            socket.set_reuseport(self.reuse_port)?;
            socket.bind(self.bind)?;
            socket.listen(ACCEPT_BACKLOG)
        };
        open().map_err(|source| GatewayError::Bind { address: self.bind, source })
    }

    pub(super) fn check(&self) -> Result<(), GatewayError> {
        if self.max_header_bytes < MIN_HEADER_BYTES {
            return Err(GatewayError::Limit {
                name: "max_header_bytes",
                given: self.max_header_bytes,
                min: MIN_HEADER_BYTES,
            });
        }
        if self.max_connections == 0 {
            return Err(GatewayError::Limit { name: "max_connections", given: 0, min: 1 });
        }
        Ok(())
    }
}

/// Why a gateway does not start. Once it serves, it does not fail.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The listener could not be opened.
    #[error("cannot listen on {address}: {source}; stop what uses it or choose another address")]
    Bind {
        /// The address from the configuration.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The control plane's URL is not one.
    #[error("control URL `{url}` is refused: {reason}; expected e.g. http://127.0.0.1:7091")]
    ControlUrl {
        /// The URL from the configuration.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The control plane's token cannot travel in a header.
    #[error("the control token holds characters that a header cannot carry; use visible ASCII")]
    ControlToken,
    /// A limit is below what the gateway can work with.
    #[error("{name} = {given} is refused: use at least {min}")]
    Limit {
        /// Field of [`GatewayConfig`].
        name: &'static str,
        /// Its value.
        given: usize,
        /// The smallest allowed value.
        min: usize,
    },
}
