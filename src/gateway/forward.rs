//! Forwarding one request.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use uuid::Uuid;

use super::{
    body::RetryBody,
    host::host_of,
    pages::Refusal,
    table::{InFlight, Route, Table, Upstream},
};

/// Longest wait for an instance on this machine or network to accept.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest wait for an answer's head.
const ANSWER: Duration = Duration::from_secs(300);
/// Shorter than the keep-alive of common servers, so that we close first.
const IDLE: Duration = Duration::from_secs(4);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Headers of one connection, not of the request.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What every request needs.
pub(super) struct Forwarder {
    pub(super) table: Arc<Table>,
    client: Client<HttpConnector, RetryBody>,
    started: Instant,
}

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

impl Forwarder {
    pub(super) fn new(table: Arc<Table>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        let client = Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).build(connector);
        Self { table, client, started: Instant::now() }
    }

    /// Answers a request; never fails.
    pub(super) async fn handle(&self, request: Request<Incoming>, peer: SocketAddr) -> Answer {
        let begun = Instant::now();
        let request_id = request_id(request.headers());
        let accept = request.headers().clone();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let host = host_of(&request);
        let name = host.as_deref().unwrap_or_default().to_owned();
        let answer = match host {
            Ok(host) => self.route(request, host, peer.ip(), &request_id).await,
            Err(bad) => Err(Refusal::BadRequest(bad.0)),
        };
        let answer = answer.unwrap_or_else(|refusal| {
            refusal
                .page(&accept, &request_id)
                .map(|body| body.map_err(|never| match never {}).boxed())
        });
        tracing::debug!(
            target: "launchway::access", %method, host = %name, path, status = answer.status().as_u16(),
            duration_ms = begun.elapsed().as_millis(), request_id, "request"
        );
        answer
    }

    async fn route(
        &self,
        request: Request<Incoming>,
        host: String,
        peer: IpAddr,
        request_id: &str,
    ) -> Result<Answer, Refusal> {
        if request.method() == Method::CONNECT {
            return Err(Refusal::BadRequest("CONNECT is not offered"));
        }
        let route = self.table.route(&host).ok_or(Refusal::UnknownHost(host.clone()))?;
        if route.retired {
            return Err(Refusal::Retired(route.deployment_id.clone()));
        }
        self.send(request, &route, &host, peer, request_id).await
    }

    /// Tries the instances in order of load; the next one only when nothing
    /// has reached the one before.
    async fn send(
        &self,
        mut request: Request<Incoming>,
        route: &Route,
        host: &str,
        peer: IpAddr,
        request_id: &str,
    ) -> Result<Answer, Refusal> {
        let upgrade = wants_upgrade(request.headers());
        let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        prepare(&mut parts.headers, host, peer, request_id, upgrade.as_ref());
        let body = RetryBody::new(body);
        let now = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        let mut refusal = Refusal::NoInstance;
        for upstream in route.by_load(now) {
            let mut attempt = Request::new(body.clone());
            *attempt.method_mut() = parts.method.clone();
            *attempt.headers_mut() = parts.headers.clone();
            *attempt.uri_mut() = target(&upstream, &parts.uri)?;
            let entered = upstream.enter();
            match tokio::time::timeout(ANSWER, self.client.request(attempt)).await {
                Err(_) => return Err(Refusal::UpstreamTimeout),
                Ok(Ok(answer)) => return Ok(relay(answer, client_side, entered)),
                Ok(Err(error)) => {
                    let nothing_sent = error.is_connect() && body.is_untouched();
                    tracing::debug!(upstream = %upstream.address, %error, nothing_sent, "an instance failed");
                    refusal = Refusal::UpstreamDown;
                    if !nothing_sent {
                        return Err(refusal);
                    }
                    upstream.shun(now);
                }
            }
        }
        Err(refusal)
    }
}

fn target(upstream: &Upstream, uri: &Uri) -> Result<Uri, Refusal> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Uri::builder()
        .scheme("http")
        .authority(upstream.address.as_str())
        .path_and_query(path)
        .build()
        .map_err(|_| Refusal::BadRequest("the request's target cannot be read"))
}

fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = |id: &&str| (1..=128).contains(&id.len());
    given.filter(sane).map_or_else(|| Uuid::new_v4().simple().to_string(), str::to_owned)
}

/// The protocol the client wants to switch to.
fn wants_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let connection = headers.get(header::CONNECTION)?.to_str().ok()?;
    let upgrades = connection.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    upgrades.then(|| headers.get(header::UPGRADE).cloned()).flatten()
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Who asked, as the instance must know it. What a client claims of this is
/// replaced: it is not trusted.
fn prepare(
    headers: &mut HeaderMap,
    host: &str,
    peer: IpAddr,
    request_id: &str,
    upgrade: Option<&HeaderValue>,
) {
    let original = headers.get(header::HOST).cloned();
    strip_hop_by_hop(headers);
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
    let forwarded = match peer {
        IpAddr::V4(ip) => format!("for={ip};host=\"{host}\";proto=http"),
        IpAddr::V6(ip) => format!("for=\"[{ip}]\";host=\"{host}\";proto=http"),
    };
    let values = [
        ("x-forwarded-for", peer.to_string()),
        ("x-forwarded-proto", "http".to_owned()),
        ("x-forwarded-host", host.to_owned()),
        ("forwarded", forwarded),
        ("x-request-id", request_id.to_owned()),
    ];
    for (name, value) in values {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    // HTTP/2 has no Host header.
    if let Some(host) = original.or_else(|| HeaderValue::from_str(host).ok()) {
        headers.insert(header::HOST, host);
    }
}

fn relay(
    mut answer: Response<Incoming>,
    client_side: Option<hyper::upgrade::OnUpgrade>,
    entered: InFlight,
) -> Answer {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        if let Some(client_side) = client_side {
            let instance_side = hyper::upgrade::on(&mut answer);
            tokio::spawn(bridge(client_side, instance_side, entered));
        }
        return answer.map(|body| body.boxed());
    }
    strip_hop_by_hop(answer.headers_mut());
    *answer.version_mut() = Version::default();
    // The request counts until its answer has been sent.
    answer.map(|body| {
        body.map_frame(move |frame| {
            let _counted = &entered;
            frame
        })
        .boxed()
    })
}

async fn bridge(
    client: hyper::upgrade::OnUpgrade,
    instance: hyper::upgrade::OnUpgrade,
    entered: InFlight,
) {
    if let (Ok(client), Ok(instance)) = tokio::join!(client, instance) {
        let (mut client, mut instance) = (TokioIo::new(client), TokioIo::new(instance));
        // Either side may end the conversation as it likes.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut instance).await;
    }
    drop(entered);
}
