//! The path of one request: find its route, choose an instance, stream.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    http::request::Parts,
    upgrade::OnUpgrade,
};
use serde_json::json;

use super::{
    Gateway,
    access::AccessRecord,
    body::{RequestBody, ResponseBody},
    headers::{self, Client},
    host,
    pages::{Audience, Fault},
    table::Route,
    tunnel,
    upstream::{Lease, Unanswered, Upstream},
};

/// Instances tried for one request while nothing was sent.
const MAX_ATTEMPTS: usize = 3;
/// Answered by the gateway itself on `localhost` and on bare addresses.
const HEALTH_PATH: &str = "/.well-known/launchway/health";

/// Where a request goes.
enum Target {
    Route(Arc<Route>),
    Health,
}

/// What belongs to one request from its head to its last byte.
struct Exchange<'a> {
    gateway: &'a Gateway,
    client: &'a Client,
    request_id: HeaderValue,
    record: Option<AccessRecord>,
}

impl Gateway {
    /// Answers one request; what goes wrong becomes a page.
    pub(super) async fn answer(
        &self,
        client: &Client,
        mut request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let on_upgrade = request
            .headers()
            .contains_key(header::UPGRADE)
            .then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let audience = Audience::of(&parts.headers);
        let request_id = headers::request_id(&parts.headers);
        let record = AccessRecord::begin(&parts, &request_id);
        let mut exchange = Exchange { gateway: self, client, request_id, record };
        match self.target(&parts) {
            Ok(Target::Route(route)) => {
                match exchange.forward(&route, parts, body, on_upgrade).await {
                    Ok(response) => response,
                    Err(fault) => exchange.fault(&fault, audience, &route.spec.host),
                }
            }
            Ok(Target::Health) => exchange.health(),
            Err(fault) => exchange.fault(&fault, audience, &host::asked(&parts)),
        }
    }

    fn target(&self, parts: &Parts) -> Result<Target, Fault> {
        if parts.method == Method::CONNECT {
            return Err(Fault::Connect);
        }
        let authority = host::authority(parts).map_err(Fault::BadHost)?;
        let host = host::routed(authority).ok_or(Fault::BadHost(host::BadHost::Invalid))?;
        let table = self.table.load();
        match table.find(&host) {
            Some(route) => Ok(Target::Route(Arc::clone(route))),
            None if parts.uri.path() == HEALTH_PATH && is_own(&host) => Ok(Target::Health),
            None if table.version == 0 && !self.is_fed() => Err(Fault::Starting),
            None => Err(Fault::UnknownHost),
        }
    }
}

/// Names of the gateway itself; no route can have a bare address as its host
/// by accident, and one that does is served first.
fn is_own(host: &str) -> bool {
    host == "localhost" || host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok()
}

impl Exchange<'_> {
    async fn forward(
        &mut self,
        route: &Arc<Route>,
        mut parts: Parts,
        body: Incoming,
        on_upgrade: Option<OnUpgrade>,
    ) -> Result<Response<ResponseBody>, Fault> {
        if let Some(record) = &mut self.record {
            record.route = Some(Arc::clone(route));
        }
        if route.spec.retired {
            return Err(Fault::Retired { deployment_id: route.spec.deployment_id.clone() });
        }
        if route.upstreams.is_empty() {
            return Err(Fault::NoInstance);
        }
        let authority = authority_value(&parts)?;
        let upgrade = headers::upgrade(&parts);
        let h2 = headers::is_grpc(&parts);
        let trust = self.gateway.config.trust_forwarded;
        headers::prepare_request(
            &mut parts,
            self.client,
            &authority,
            &self.request_id,
            upgrade.as_ref(),
            trust,
        );
        headers::retarget(&mut parts, &authority, h2);
        let request = Request::from_parts(parts, RequestBody::new(body));
        let (response, lease) = self.send(route, request, h2).await?;
        match (response.status(), on_upgrade.filter(|_| upgrade.is_some())) {
            (StatusCode::SWITCHING_PROTOCOLS, Some(client)) => {
                Ok(self.switch(client, response, lease))
            }
            (StatusCode::SWITCHING_PROTOCOLS, None) => Err(Fault::UpstreamDown),
            _ => Ok(self.stream(route, response, lease)),
        }
    }

    /// Tries instances until one has taken the request.
    async fn send(
        &mut self,
        route: &Route,
        mut request: Request<RequestBody>,
        h2: bool,
    ) -> Result<(Response<Incoming>, Lease), Fault> {
        let config = &self.gateway.config;
        let mut tried = Vec::new();
        while tried.len() < MAX_ATTEMPTS {
            let Some(at) = route.choose(&tried) else { break };
            let upstream = &route.upstreams[at];
            if let Some(record) = &mut self.record {
                record.attempts += 1;
            }
            let mut lease = Upstream::lease(upstream);
            let sent = match h2 {
                true => lease.send_h2(request, config).await,
                false => lease.send_h1(request, config).await,
            };
            match sent {
                Ok(response) => return Ok((response, lease)),
                Err(Unanswered::NotSent(unsent, error)) => {
                    self.note_refusal(route, upstream, &error);
                    request = *unsent;
                    tried.push(at);
                }
                Err(unanswered) => return Err(self.unanswered(route, upstream, &unanswered)),
            }
        }
        Err(Fault::UpstreamDown)
    }

    /// Logged when the instance starts to refuse, not for every request.
    fn note_refusal(&self, route: &Route, upstream: &Upstream, error: &std::io::Error) {
        let newly = !is_local(error) && upstream.mark_down(self.gateway.config.cooldown);
        if newly || is_local(error) {
            tracing::warn!(
                deployment_id = %route.spec.deployment_id,
                host = %route.spec.host,
                address = %upstream.address(),
                %error,
                "instance refused a connection"
            );
        }
    }

    fn unanswered(&self, route: &Route, upstream: &Upstream, unanswered: &Unanswered) -> Fault {
        let (fault, reason) = match unanswered {
            Unanswered::Timeout => (Fault::UpstreamTimeout, "no response in time".to_owned()),
            Unanswered::ClientStalled => return Fault::ClientStalled,
            Unanswered::ClientBroken => return Fault::BadBody,
            Unanswered::NotSent(_, error) => (Fault::UpstreamDown, error.to_string()),
            Unanswered::Broken(error) => (Fault::UpstreamDown, error.to_string()),
        };
        tracing::warn!(
            deployment_id = %route.spec.deployment_id,
            host = %route.spec.host,
            address = %upstream.address(),
            request_id = self.request_id.to_str().unwrap_or(""),
            error = %reason,
            "instance did not answer a request"
        );
        fault
    }

    fn stream(
        &mut self,
        route: &Arc<Route>,
        response: Response<Incoming>,
        lease: Lease,
    ) -> Response<ResponseBody> {
        let (mut parts, body) = response.into_parts();
        headers::prepare_response(&mut parts.headers, &self.request_id);
        // An instance that speaks HTTP/1.0 must not decide how we speak.
        parts.version = hyper::Version::HTTP_11;
        let record = self.close_record(parts.status);
        let idle = self.gateway.config.stream_idle;
        Response::from_parts(
            parts,
            ResponseBody::stream(body, Arc::clone(route), lease, idle, record),
        )
    }

    fn switch(
        &mut self,
        client: OnUpgrade,
        mut response: Response<Incoming>,
        lease: Lease,
    ) -> Response<ResponseBody> {
        let instance = hyper::upgrade::on(&mut response);
        let held = (lease, self.close_record(StatusCode::SWITCHING_PROTOCOLS));
        let gateway = self.gateway;
        let tunnel = tunnel::join(client, instance, gateway.config.stream_idle, held);
        let abort = gateway.abort.clone();
        gateway.tasks.spawn(async move {
            abort.run_until_cancelled(tunnel).await;
        });
        let (mut parts, _) = response.into_parts();
        let protocol = parts.headers.get(header::UPGRADE).cloned();
        headers::prepare_response(&mut parts.headers, &self.request_id);
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = protocol {
            parts.headers.insert(header::UPGRADE, protocol);
        }
        Response::from_parts(parts, ResponseBody::page(Bytes::new(), None))
    }

    fn health(&mut self) -> Response<ResponseBody> {
        let table = self.gateway.table.load();
        let body = json!({
            "status": "ok",
            "gateway_id": self.gateway.id,
            "applied_version": table.version,
            "routes": table.len(),
            "feed": if self.gateway.is_fed() { "connected" } else { "disconnected" },
        });
        let mut response = Response::new(Bytes::from(format!("{body}\n")));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self.page(response)
    }

    fn fault(&mut self, fault: &Fault, audience: Audience, host: &str) -> Response<ResponseBody> {
        let page = fault.render(audience, host, &self.request_id);
        self.page(page)
    }

    fn page(&mut self, page: Response<Bytes>) -> Response<ResponseBody> {
        let record = self.close_record(page.status());
        page.map(|bytes| ResponseBody::page(bytes, record))
    }

    fn close_record(&mut self, status: StatusCode) -> Option<AccessRecord> {
        let mut record = self.record.take()?;
        record.status = status.as_u16();
        Some(record)
    }
}

/// Out of sockets or ports here says nothing about the instance.
fn is_local(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let local = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS];
    error.raw_os_error().is_some_and(|code| local.iter().any(|errno| errno.raw_os_error() == code))
}

/// The authority for the instance: HTTP/1.1's header as it is, without a copy.
fn authority_value(parts: &Parts) -> Result<HeaderValue, Fault> {
    if let Some(host) = parts.headers.get(header::HOST) {
        return Ok(host.clone());
    }
    let invalid = Fault::BadHost(host::BadHost::Invalid);
    let authority = parts.uri.authority().ok_or(invalid.clone())?;
    HeaderValue::from_str(authority.as_str()).map_err(|_| invalid)
}
