//! What the gateway tells of itself, on `localhost` and on bare addresses.

use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{self, HeaderValue},
    http::request::Parts,
};
use serde_json::json;

use super::{Gateway, headers, metrics, session::Session};

const HEALTH_PATH: &str = "/.well-known/launchway/health";
const METRICS_PATH: &str = "/.well-known/launchway/metrics";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    Health,
    Metrics,
}

impl Own {
    /// Asked for by this request, whose host has no route. The metrics are for
    /// this machine alone, and not through a proxy on it.
    pub fn asked(session: &Session, host: &str, parts: &Parts) -> Option<Self> {
        if !is_own(host) {
            return None;
        }
        match parts.uri.path() {
            HEALTH_PATH => Some(Self::Health),
            METRICS_PATH if session.is_local && !headers::is_forwarded(&parts.headers) => {
                Some(Self::Metrics)
            }
            _ => None,
        }
    }

    pub fn render(self, gateway: &Gateway) -> Response<Bytes> {
        let (kind, body) = match self {
            Self::Health => ("application/json", health(gateway)),
            Self::Metrics => (metrics::TEXT_FORMAT, gateway.metrics.render(gateway)),
        };
        let mut response = Response::new(body.into());
        if self == Self::Health && is_useless(gateway) {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// It has no routes and will get none: whoever replaces others by it must not.
fn is_useless(gateway: &Gateway) -> bool {
    gateway.refused.load(Relaxed) && gateway.table.load().version == 0
}

fn health(gateway: &Gateway) -> Vec<u8> {
    let table = gateway.table.load();
    let body = json!({
        "status": if is_useless(gateway) { "refused by the control plane" } else { "ok" },
        "gateway_id": gateway.id,
        "applied_version": table.version,
        "routes": table.len(),
        "feed": if gateway.is_fed() { "connected" } else { "disconnected" },
    });
    format!("{body}\n").into_bytes()
}

/// Names of the gateway itself; no route can have a bare address as its host
/// by accident, and one that does is served first.
fn is_own(host: &str) -> bool {
    host == "localhost" || host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok()
}
