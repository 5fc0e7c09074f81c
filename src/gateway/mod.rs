//! The gateway: routes HTTP by host to the instances of deployments.
//!
//! It knows nothing but its table. The control plane feeds it ([`feed`]), the
//! last good table survives on disk ([`snapshot`]), and a request never waits
//! for either: it reads one immutable [`table`], chooses an instance
//! ([`upstream`]) and streams ([`proxy`]).

mod accept;
mod access;
mod access_log;
mod body;
mod client_io;
mod clock;
mod config;
mod connection;
mod demand;
mod feed;
mod headers;
mod hold;
mod host;
mod metrics;
mod own;
mod pages;
mod proxy;
mod send;
mod server;
mod session;
mod snapshot;
mod table;
mod tunnel;
mod upstream;
mod workers;

#[cfg(test)]
mod tests;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use arc_swap::ArcSwap;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing_appender::non_blocking::NonBlocking;

pub use access_log::AccessLog;
pub use config::{GatewayConfig, GatewayError};
use demand::Wanted;
use metrics::Metrics;
use server::Server;
use table::{RouteTable, Upstreams};
use workers::Workers;

/// What every part of one gateway shares.
struct Gateway {
    config: GatewayConfig,
    /// Tells gateways apart in the control plane; new for each process.
    id: String,
    table: ArcSwap<RouteTable>,
    upstreams: Mutex<Upstreams>,
    metrics: Metrics,
    access_log: Option<NonBlocking>,
    /// The table was replaced.
    changed: watch::Sender<()>,
    wanted: Wanted,
    fed: AtomicBool,
    /// The control plane does not take the key.
    refused: AtomicBool,
    /// Client connections and tunnels.
    tasks: TaskTracker,
    /// No new requests on connections that have become idle.
    draining: CancellationToken,
    /// The drain time is over.
    abort: CancellationToken,
    /// Nothing is served any more.
    stopping: CancellationToken,
}

impl Gateway {
    fn new(config: GatewayConfig, metrics: Metrics, access_log: Option<NonBlocking>) -> Self {
        let mut upstreams = Upstreams::new(config.workers);
        let table = snapshot::load(&config.snapshot_path, &mut upstreams);
        Self {
            config,
            id: format!("gw-{:016x}", rand::random::<u64>()),
            table: ArcSwap::from_pointee(table),
            upstreams: Mutex::new(upstreams),
            metrics,
            access_log,
            changed: watch::Sender::default(),
            wanted: Wanted::new(),
            fed: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            abort: CancellationToken::new(),
            stopping: CancellationToken::new(),
        }
    }

    fn upstreams(&self) -> MutexGuard<'_, Upstreams> {
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_fed(&self) -> bool {
        self.fed.load(Relaxed)
    }

    /// Returns what it was before.
    fn set_fed(&self, fed: bool) -> bool {
        self.fed.swap(fed, Relaxed)
    }
}

/// Serves `listener` (see [`GatewayConfig::listen`]) until `shutdown`, then
/// drains. Starts with the last persisted table, whether or not the control
/// plane can be reached.
///
/// # Errors
/// [`GatewayError`] for a configuration that cannot work; never later.
pub async fn serve(
    config: GatewayConfig,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), GatewayError> {
    config.check()?;
    let source = feed::Source::new(&config)?;
    allow_open_files();
    let metrics_listener =
        config.metrics_bind.map(|bind| config::listen(bind, false)).transpose()?;
    let (access_log, _flushed_at_end) = access_log::open(&config.access_log)?;
    let gateway = Arc::new(Gateway::new(config, Metrics::new()?, access_log));
    let server = Arc::new(Server::new(Arc::clone(&gateway)));
    let workers = Workers::start(&server)?;
    let table = gateway.table.load();
    tracing::info!(
        gateway_id = %gateway.id,
        address = %gateway.config.bind,
        version = table.version,
        routes = table.len(),
        "gateway serving"
    );
    drop(table);
    let snapshots = tokio::spawn(snapshot::keep(Arc::clone(&gateway)));
    let background = gateway.stopping.clone();
    let routes = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move {
            let all = async {
                tokio::join!(
                    feed::follow(gateway.clone(), source),
                    sweep(&gateway),
                    metrics::serve(&gateway, metrics_listener)
                )
            };
            background.run_until_cancelled(all).await;
        }
    });
    server::run(server, workers, listener, shutdown).await;
    gateway.stopping.cancel();
    for task in [snapshots, routes] {
        if let Err(error) = task.await {
            tracing::error!(%error, "gateway task failed");
        }
    }
    Ok(())
}

/// Closes connections to instances before the instances do.
async fn sweep(gateway: &Gateway) {
    let max_idle = gateway.config.pool_idle;
    let mut tick = tokio::time::interval((max_idle / 2).max(std::time::Duration::from_millis(100)));
    loop {
        tick.tick().await;
        gateway.upstreams().sweep(max_idle);
    }
}

/// Each request in flight holds two sockets; the usual soft limit of 1024
/// files would be reached long before the connection limit.
fn allow_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}
