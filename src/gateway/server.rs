//! Client connections: accept, serve, drain.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
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

use super::{
    Gateway,
    client_io::{ClientIo, Patience},
    config::GatewayConfig,
    proxy,
    session::Session,
    workers::{Load, Workers},
};

/// After a failed accept, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a drain waits for the first request of a new connection.
const FIRST_REQUEST: Duration = Duration::from_millis(500);
/// Requests at once on one HTTP/2 connection.
const H2_STREAMS: u32 = 256;
const H2_PING: Duration = Duration::from_secs(20);

/// A gateway that can serve.
pub(super) struct Server {
    pub gateway: Arc<Gateway>,
    http: Builder<TokioExecutor>,
    permits: Arc<Semaphore>,
    patience: Patience,
}

/// A connection whose client waits to be served.
pub(super) struct Accepted {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
}

/// How the gateway ends a connection.
enum Ending {
    /// After the request in flight.
    Graceful,
    Cut,
}

/// Serves until `shutdown`, then lets what is in flight end within
/// [`GatewayConfig::drain`] and cuts the rest.
pub(super) async fn run(
    server: Arc<Server>,
    mut workers: Workers,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = server.accept(&listener) => accepted,
            () = &mut shutdown => break,
        };
        workers.serve(accepted).await;
    }
    // What the kernel has already accepted for us would be reset with the listener.
    while let Some(accepted) = server.accept(&listener).now_or_never() {
        workers.serve(accepted).await;
    }
    drop(listener);
    server.drain(&mut workers).await;
}

impl Server {
    pub fn new(gateway: Arc<Gateway>) -> Self {
        let config = &gateway.config;
        let permits = config.max_connections.min(Semaphore::MAX_PERMITS);
        let http = http(config);
        let patience = Patience {
            window: config.client_window,
            min_bytes: config.client_min_bytes,
            cut: gateway.metrics.slow_clients.clone(),
        };
        Self { gateway, http, permits: Arc::new(Semaphore::new(permits)), patience }
    }

    async fn accept(&self, listener: &TcpListener) -> Accepted {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
                return std::future::pending().await;
            };
            let accepted = listener.accept().await;
            match accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
                Ok((stream, peer)) => return Accepted { stream, peer, permit },
                Err(error) if is_per_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves the connection in the current runtime, which is `worker`'s.
    pub fn spawn(self: &Arc<Self>, accepted: Accepted, load: Load, worker: usize) {
        let server = Arc::clone(self);
        self.gateway.tasks.spawn(async move {
            server.serve(accepted, worker).await;
            drop(load);
        });
    }

    async fn serve(&self, Accepted { stream, peer, permit: _permit }: Accepted, worker: usize) {
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        // Fails only on a socket that is gone already, which serving will see.
        let _ = stream.set_nodelay(true);
        let session = Session::new(Arc::clone(&self.gateway), peer.ip(), worker);
        let requests = Arc::new(AtomicU64::new(0));
        let service = service_fn(|request| {
            requests.fetch_add(1, Relaxed);
            let session = Arc::clone(&session);
            async move { Ok::<_, Infallible>(proxy::answer(session, request).await) }
        });
        let io = TokioIo::new(ClientIo::new(stream, self.patience.clone()));
        let mut connection = pin!(self.http.serve_connection_with_upgrades(io, service));
        // Both are looked at only when one of them wakes, not for every event
        // of the connection.
        let mut endings = FuturesUnordered::from_iter([
            self.time_to_leave(&requests).map(|()| Ending::Graceful).left_future(),
            self.gateway.abort.cancelled().map(|()| Ending::Cut).right_future(),
        ]);
        loop {
            tokio::select! {
                biased;
                // A broken client connection is the client's affair.
                _ = connection.as_mut() => return,
                Some(ending) = endings.next() => match ending {
                    Ending::Graceful => connection.as_mut().graceful_shutdown(),
                    Ending::Cut => return,
                },
            }
        }
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

    async fn drain(&self, workers: &mut Workers) {
        let gateway = &self.gateway;
        gateway.draining.cancel();
        gateway.tasks.close();
        workers.close();
        tracing::info!(connections = gateway.tasks.len(), "gateway draining");
        if timeout(gateway.config.drain, workers.ended()).await.is_err() {
            let cut = gateway.tasks.len();
            tracing::warn!(connections = cut, "gateway cut connections after the drain time");
        }
        gateway.abort.cancel();
        workers.ended().await;
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

fn is_per_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
