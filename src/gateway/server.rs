//! Listening.

use std::{
    convert::Infallible, future::Future, io, net::SocketAddr, path::PathBuf, sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, header, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::net::TcpListener;

use super::{feed, forward::Forwarder, table::Table};

/// Longest time for a request's head: slow clients do not hold connections.
const HEAD: Duration = Duration::from_secs(10);
/// Largest head, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// Answered for any host that is an address: `up` and `doctor` ask it.
const HEALTH: &str = "/.well-known/launchway/health";

/// How the gateway runs.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// Where requests arrive.
    pub bind: SocketAddr,
    /// The route feed.
    pub control_url: String,
    /// File of the last good table.
    pub snapshot: PathBuf,
    /// Longest wait for open requests when it stops.
    pub drain: Duration,
}

/// It cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The address is taken or not ours.
    #[error("gateway.bind {bind} cannot be used: {source}")]
    Bind {
        /// The address.
        bind: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

/// Serves until `stop`, then lets open requests end.
///
/// # Errors
/// [`GatewayError`] when it cannot start.
pub async fn serve(
    settings: GatewaySettings,
    stop: impl Future<Output = ()>,
) -> Result<(), GatewayError> {
    let table = Arc::new(Table::default());
    match table.load_file(&settings.snapshot) {
        Ok(routes) => tracing::info!(routes, "routing by the last good table"),
        Err(error) => {
            tracing::warn!(path = %settings.snapshot.display(), %error, "the saved route table cannot be read");
        }
    }
    let listener = TcpListener::bind(settings.bind)
        .await
        .map_err(|source| GatewayError::Bind { bind: settings.bind, source })?;
    let following =
        tokio::spawn(feed::follow(Arc::clone(&table), settings.control_url, settings.snapshot));
    accept(listener, Arc::new(Forwarder::new(table)), settings.drain, stop).await;
    following.abort();
    Ok(())
}

async fn accept(
    listener: TcpListener,
    forwarder: Arc<Forwarder>,
    drain: Duration,
    stop: impl Future<Output = ()>,
) {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .preserve_header_case(false);
    server.http2().timer(TokioTimer::new()).max_header_list_size(64 * 1024);
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors: others will be closed meanwhile.
                    tracing::warn!(%error, "the gateway cannot accept");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            },
            () = &mut stop => break,
        };
        let _ = stream.set_nodelay(true);
        let forwarder = Arc::clone(&forwarder);
        let service = service_fn(move |request| answer(Arc::clone(&forwarder), request, peer));
        let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let connection = graceful.watch(connection.into_owned());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%peer, %error, "a connection broke");
            }
        });
    }
    let _ = tokio::time::timeout(drain, graceful.shutdown()).await;
}

async fn answer(
    forwarder: Arc<Forwarder>,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, hyper::Error>>, Infallible> {
    if request.uri().path() == HEALTH && asks_the_gateway(&request) {
        let table = &forwarder.table;
        let health = format!("{{\"version\":{},\"routes\":{}}}\n", table.version(), table.len());
        let body = Full::new(Bytes::from(health)).map_err(|never| match never {}).boxed();
        return Ok(Response::new(body));
    }
    Ok(forwarder.handle(request, peer).await)
}

/// Deployments have names; the gateway itself is asked by its address.
fn asks_the_gateway(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(|host| {
        host.parse::<SocketAddr>().is_ok() || host.parse::<std::net::IpAddr>().is_ok()
    })
}
