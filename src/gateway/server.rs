//! Client connections: accept, serve, drain.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::FutureExt;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{interval, sleep, timeout},
};

use super::{Gateway, config::GatewayConfig, headers::Client};

/// After a failed accept, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a drain waits for the first request of a new connection.
const FIRST_REQUEST: Duration = Duration::from_millis(500);
/// Requests at once on one HTTP/2 connection.
const H2_STREAMS: u32 = 256;
const H2_PING: Duration = Duration::from_secs(20);

/// Serves until `shutdown`, then lets what is in flight end within
/// [`GatewayConfig::drain`] and cuts the rest.
pub(super) async fn run(
    gateway: Arc<Gateway>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) {
    let server = Arc::new(Server::new(gateway));
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = server.accept(&listener) => accepted,
            () = &mut shutdown => break,
        };
        server.spawn(accepted);
    }
    // What the kernel has already accepted for us would be reset with the listener.
    while let Some(accepted) = server.accept(&listener).now_or_never() {
        server.spawn(accepted);
    }
    drop(listener);
    server.drain().await;
}

struct Server {
    gateway: Arc<Gateway>,
    http: Builder<TokioExecutor>,
    permits: Arc<Semaphore>,
}

struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
}

impl Server {
    fn new(gateway: Arc<Gateway>) -> Self {
        let permits = gateway.config.max_connections.min(Semaphore::MAX_PERMITS);
        let http = http(&gateway.config);
        Self { gateway, http, permits: Arc::new(Semaphore::new(permits)) }
    }

    async fn accept(&self, listener: &TcpListener) -> Accepted {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
                return std::future::pending().await;
            };
            match listener.accept().await {
                Ok((stream, peer)) => return Accepted { stream, peer, permit },
                Err(error) if is_per_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn spawn(self: &Arc<Self>, accepted: Accepted) {
        let server = Arc::clone(self);
        self.gateway.tasks.spawn(async move {
            let abort = server.gateway.abort.clone();
            abort.run_until_cancelled(server.serve(accepted)).await;
        });
    }

    async fn serve(&self, Accepted { stream, peer, permit: _permit }: Accepted) {
        // Fails only on a socket that is gone already, which serving will see.
        let _ = stream.set_nodelay(true);
        let gateway = &self.gateway;
        let client = Arc::new(Client::new(peer.ip()));
        let requests = Arc::new(AtomicU64::new(0));
        let service = service_fn(|request| {
            requests.fetch_add(1, Relaxed);
            let (gateway, client) = (Arc::clone(gateway), Arc::clone(&client));
            async move { Ok::<_, Infallible>(gateway.answer(&client, request).await) }
        });
        let mut connection =
            pin!(self.http.serve_connection_with_upgrades(TokioIo::new(stream), service));
        let mut leave = pin!(self.time_to_leave(&requests));
        tokio::select! {
            // A broken client connection is the client's affair.
            _ = connection.as_mut() => return,
            () = leave.as_mut() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }

    /// Ends when the gateway drains, or after a whole `header_timeout` without
    /// a request: HTTP/1 has its own timer, but a connection that never says
    /// which protocol it speaks, or an unused HTTP/2 one, has not.
    async fn time_to_leave(&self, requests: &AtomicU64) {
        let mut idle = interval(self.gateway.config.header_timeout);
        idle.tick().await;
        let mut seen = 0;
        loop {
            tokio::select! {
                () = self.gateway.draining.cancelled() => break,
                _ = idle.tick() => {}
            }
            let now = requests.load(Relaxed);
            if now == seen {
                return;
            }
            seen = now;
        }
        if requests.load(Relaxed) == 0 {
            sleep(FIRST_REQUEST).await;
        }
    }

    async fn drain(&self) {
        let gateway = &self.gateway;
        gateway.draining.cancel();
        gateway.tasks.close();
        let open = gateway.tasks.len();
        tracing::info!(connections = open, "gateway draining");
        if timeout(gateway.config.drain, gateway.tasks.wait()).await.is_err() {
            let cut = gateway.tasks.len();
            tracing::warn!(connections = cut, "gateway cut connections after the drain time");
        }
        gateway.abort.cancel();
        gateway.tasks.wait().await;
    }
}

fn http(config: &GatewayConfig) -> Builder<TokioExecutor> {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_buf_size(config.max_header_bytes);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(H2_PING)
        .max_concurrent_streams(H2_STREAMS)
        .adaptive_window(true)
        .max_header_list_size(u32::try_from(config.max_header_bytes).unwrap_or(u32::MAX));
    http
}

fn is_per_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
