//! What the gateway is told at start, and what can be wrong with it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tokio::net::{TcpListener, TcpSocket};

use super::{access_log::AccessLog, workers};

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
    /// Threads that serve requests. Default: one per core.
    pub workers: usize,
    /// Where Prometheus reads `/metrics`. Default: only from this machine, at
    /// `/.well-known/launchway/metrics` of `bind`.
    pub metrics_bind: Option<SocketAddr>,
    /// Where requests are written down. Default: nowhere.
    pub access_log: AccessLog,
    /// Open client connections; more wait in the kernel. Default 10 000.
    pub max_connections: usize,
    /// Largest request head in bytes, at least 8192. Default 64 KiB.
    pub max_header_bytes: usize,
    /// Largest request body in bytes. Default 1 GiB.
    pub max_body_bytes: u64,
    /// A client that moves fewer bytes than `client_min_bytes` in a whole
    /// window, while the gateway waits for nothing but it, is given up: one
    /// that sends its body, and one that takes its response. Default 30 s.
    pub client_window: Duration,
    /// See `client_window`. Default 4 KiB.
    pub client_min_bytes: u64,
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
    /// How long an instance that did not answer is tried last; twice as long
    /// with each further time in a row, 16 times as long at most. Default 2 s.
    pub cooldown: Duration,
    /// A `GET`, `HEAD`, `OPTIONS` or `TRACE` without a body that an instance has
    /// broken off before anything of its response was passed on goes to another one,
    /// and short responses are held back for it. On by default; off, only what was
    /// never sent does.
    pub repeat_safe: bool,
    /// Longest wait of a request for an evicted deployment to start.
    pub start_wait: Duration,
    /// How often the control plane is told which deployments have requests.
    pub report_every: Duration,
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
            workers: workers::default_count(),
            metrics_bind: None,
            access_log: AccessLog::Off,
            max_connections: 10_000,
            max_header_bytes: 64 * 1024,
            max_body_bytes: 1 << 30,
            client_window: Duration::from_secs(30),
            client_min_bytes: 4096,
            header_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(60),
            stream_idle: Duration::from_secs(15 * 60),
            pool_idle: Duration::from_secs(4),
            cooldown: Duration::from_secs(2),
            repeat_safe: true,
            start_wait: Duration::from_secs(60),
            report_every: Duration::from_secs(2),
            drain: Duration::from_secs(10),
        }
    }

    /// Opens the listener for [`super::serve`].
    ///
    /// # Errors
    /// [`GatewayError::Bind`] when the address is taken or not ours.
    pub fn listen(&self) -> Result<TcpListener, GatewayError> {
        listen(self.bind, self.reuse_port)
    }

    pub(super) fn check(&self) -> Result<(), GatewayError> {
        let at_least = |name, given, min| match given < min {
            true => Err(GatewayError::Limit { name, given, min }),
            false => Ok(()),
        };
        at_least("max_header_bytes", self.max_header_bytes, MIN_HEADER_BYTES)?;
        at_least("max_connections", self.max_connections, 1)?;
        at_least("workers", self.workers, 1)
    }
}

/// Opens a listener that a restart need not wait for.
pub(super) fn listen(address: SocketAddr, reuse_port: bool) -> Result<TcpListener, GatewayError> {
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Not for the old sockets' TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(reuse_port)?;
        socket.bind(address)?;
        socket.listen(ACCEPT_BACKLOG)
    };
    open().map_err(|source| GatewayError::Bind { address, source })
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
    /// The access log cannot be written.
    #[error("the access log {} cannot be opened: {source}; make its directory writable or switch the log off", path.display())]
    AccessLog {
        /// The file from the configuration.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The system gives no more threads or files.
    #[error(
        "the gateway's threads cannot be started: {0}; raise the limits of processes and open files"
    )]
    Threads(#[from] std::io::Error),
    /// The metrics cannot be set up.
    #[error("the metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
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
