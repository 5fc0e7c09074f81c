//! The worker: where Restate calls the workflows.

mod scraper;

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, combinators::UnsyncBoxBody};
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use launchway_workflows::{
    engine::core::Core,
    services::{bind, journal_version},
};
use restate_sdk::{endpoint::Endpoint, hyper::HyperEndpoint};
use tokio::net::TcpListener;

pub use scraper::HttpScraper;

/// A Restate server that has frozen is noticed within ten seconds.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long running steps may take to reach their journaled end on a stop;
/// what takes longer is run again by the next worker.
const DRAIN: Duration = Duration::from_secs(5);

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// The worker's URL: it ends in the version of its journals.
pub fn url(base: &str) -> String {
    format!("{}{}", base.trim_end_matches('/'), prefix())
}

fn prefix() -> String {
    format!("/j{}", journal_version())
}

/// The endpoint of all services; with a key only signed requests are accepted.
///
/// # Errors
/// The key cannot be read.
pub fn endpoint(core: &Arc<Core>, identity_key: Option<&str>) -> Result<Endpoint, String> {
    let builder = bind(Endpoint::builder(), core);
    let builder = match identity_key {
        Some(key) => builder.identity_key(key).map_err(|error| error.to_string())?,
        None => builder,
    };
    Ok(builder.build())
}

/// Serves until `stop`, then lets running steps reach their end.
pub async fn serve(endpoint: Endpoint, listener: TcpListener, stop: impl Future<Output = ()>) {
    let endpoint = HyperEndpoint::new(endpoint);
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .keep_alive_timeout(KEEP_ALIVE);
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, peer)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let endpoint = endpoint.clone();
                let service = service_fn(move |request| answer(endpoint.clone(), request));
                let connection = graceful.watch(server.serve_connection(TokioIo::new(stream), service));
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%peer, %error, "a connection from Restate broke");
                    }
                });
            }
            () = &mut stop => break,
        }
    }
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
}

/// Journals of another version must not be replayed here: 404.
async fn answer(
    endpoint: HyperEndpoint,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let ours =
        request.uri().path().strip_prefix(&prefix()).is_some_and(|rest| rest.starts_with('/'));
    if !ours {
        let empty = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let mut response = Response::new(empty);
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    }
    let response = hyper::service::Service::call(&endpoint, request).await;
    Ok(response?.map(|body| body.map_err(Into::into).boxed_unsync()))
}
