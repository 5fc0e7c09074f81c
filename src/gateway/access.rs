//! One line per request, written when its response has ended.

use std::{sync::Arc, time::Instant};

use hyper::{Method, header::HeaderValue, http::request::Parts};
use tracing::Level;

use super::{host, table::Route};

const TARGET: &str = "launchway::access";
/// The client left before a response; nginx's number for it.
const CLIENT_LEFT: u16 = 499;

/// What is known of a request so far; the line is written when it is dropped.
pub(super) struct AccessRecord {
    started: Instant,
    method: Method,
    host: String,
    /// Without the query, which may hold credentials.
    path: String,
    request_id: HeaderValue,
    /// Set once the host was found.
    pub route: Option<Arc<Route>>,
    /// Instances that were tried.
    pub attempts: usize,
    /// Set with the response.
    pub status: u16,
    /// The whole response was handed over; false when a side broke off.
    pub complete: bool,
}

impl AccessRecord {
    /// `None` when nobody reads the access log: then it costs one comparison.
    pub fn begin(parts: &Parts, request_id: &HeaderValue) -> Option<Self> {
        tracing::enabled!(target: TARGET, Level::INFO).then(|| Self {
            started: Instant::now(),
            method: parts.method.clone(),
            host: host::asked(parts).into_owned(),
            path: parts.uri.path().to_owned(),
            request_id: request_id.clone(),
            route: None,
            attempts: 0,
            status: CLIENT_LEFT,
            complete: false,
        })
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        let deployment_id = self.route.as_ref().map_or("", |route| &route.spec.deployment_id);
        tracing::info!(
            target: TARGET,
            method = %self.method,
            host = %self.host,
            path = %self.path,
            status = self.status,
            complete = self.complete,
            duration_ms = self.started.elapsed().as_micros() as f64 / 1e3,
            deployment_id,
            request_id = self.request_id.to_str().unwrap_or(""),
            attempts = self.attempts,
        );
    }
}
