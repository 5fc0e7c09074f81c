//! The path of one request: find its route, choose an instance, stream.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Body, Incoming},
    header::{self, HeaderValue},
    http::request::Parts,
    upgrade::OnUpgrade,
};

use super::{
    Gateway,
    accept::Audience,
    access::AccessRecord,
    body::{RequestBody, ResponseBody},
    demand, headers,
    hold::{self, Begun},
    host,
    own::Own,
    pages::Fault,
    send::{ClientFault, Unanswered},
    session::Session,
    table::{Route, RouteState},
    tunnel,
    upstream::{Lease, Upstream},
};

/// Times that one request is tried.
const MAX_ATTEMPTS: usize = 3;

/// Where a request goes.
enum Target {
    Route(Arc<Route>),
    Own(Own),
}

/// What an instance's answer becomes.
enum Answered {
    Stream(Response<Begun>, Lease),
    Tunnel(Response<Begun>, Lease, OnUpgrade),
}

/// What belongs to one request from its head to its last byte.
struct Exchange {
    session: Arc<Session>,
    request_id: HeaderValue,
    /// The client's.
    version: Version,
    record: AccessRecord,
}

/// Answers one request; what goes wrong becomes a page.
pub(super) async fn answer(
    session: Arc<Session>,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let on_upgrade =
        request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let audience = Audience::of(&parts.headers);
    let request_id = headers::request_id(&parts.headers);
    let record = AccessRecord::begin(&session, &parts, &request_id);
    let target = target(&session, &parts);
    let version = parts.version;
    let mut exchange = Exchange { session, request_id, version, record };
    match target {
        Ok(Target::Route(route)) => {
            let route = match exchange.started(route).await {
                Ok(route) => route,
                Err((fault, route)) => return exchange.fault(&fault, audience, &route.spec.host),
            };
            match exchange.forward(&route, parts, body, on_upgrade).await {
                Ok(Answered::Stream(response, lease)) => exchange.stream(route, response, lease),
                Ok(Answered::Tunnel(response, lease, client)) => {
                    exchange.tunnel(client, response, lease)
                }
                Err(fault) => exchange.fault(&fault, audience, &route.spec.host),
            }
        }
        Ok(Target::Own(own)) => {
            let page = own.render(&exchange.session.gateway);
            exchange.page(page)
        }
        Err(fault) => exchange.fault(&fault, audience, &host::asked(&parts)),
    }
}

fn target(session: &Session, parts: &Parts) -> Result<Target, Fault> {
    if parts.method == Method::CONNECT {
        return Err(Fault::Connect);
    }
    let authority = host::authority(parts).map_err(Fault::BadHost)?;
    let host = host::routed(authority).ok_or(Fault::BadHost(host::BadHost::Invalid))?;
    let table = session.gateway.table.load();
    if let Some(route) = table.find(&host) {
        return Ok(Target::Route(Arc::clone(route)));
    }
    match Own::asked(session, &host, parts) {
        Some(own) => Ok(Target::Own(own)),
        None if table.version == 0 && !session.gateway.is_fed() => Err(Fault::Starting),
        None => Err(Fault::UnknownHost),
    }
}

impl Exchange {
    fn gateway(&self) -> &Arc<Gateway> {
        &self.session.gateway
    }

    /// The route, when there is somebody to send the request to: it waits for that
    /// where somebody is to be expected.
    async fn started(&mut self, route: Arc<Route>) -> Result<Arc<Route>, (Fault, Arc<Route>)> {
        route.activity.note();
        self.record.set_route(&route);
        if demand::is_decided(&route) {
            return Ok(route);
        }
        match demand::started(self.gateway(), &route).await {
            Ok(started) => {
                self.record.set_route(&started);
                Ok(started)
            }
            Err(fault) => Err((fault, route)),
        }
    }

    async fn forward(
        &mut self,
        route: &Route,
        mut parts: Parts,
        body: Incoming,
        on_upgrade: Option<OnUpgrade>,
    ) -> Result<Answered, Fault> {
        if route.spec.state == RouteState::Retired {
            return Err(Fault::Retired { deployment_id: route.spec.deployment_id.clone() });
        }
        if route.upstreams.is_empty() {
            return Err(Fault::NoInstance);
        }
        let config = &self.session.gateway.config;
        if body.size_hint().lower() > config.max_body_bytes {
            return Err(Fault::Body(ClientFault::TooLarge));
        }
        let authority = authority_value(&parts)?;
        let upgrade = headers::upgrade(&parts);
        let h2 = headers::is_grpc(&parts);
        headers::prepare_request(
            &mut parts,
            &self.session.client,
            &authority,
            &self.request_id,
            upgrade.as_ref(),
            config.trust_forwarded,
        );
        headers::retarget(&mut parts, &authority, h2);
        let body = RequestBody::new(body, config.max_body_bytes);
        self.record.set_upload(body.upload());
        let (response, lease) = self.send(route, Request::from_parts(parts, body), h2).await?;
        match (response.status(), on_upgrade.filter(|_| upgrade.is_some())) {
            (StatusCode::SWITCHING_PROTOCOLS, Some(client)) => {
                Ok(Answered::Tunnel(response, lease, client))
            }
            (StatusCode::SWITCHING_PROTOCOLS, None) => Err(Fault::UpstreamDown),
            _ => Ok(Answered::Stream(response, lease)),
        }
    }

    /// Tries instances until one has answered the request.
    async fn send(
        &mut self,
        route: &Route,
        mut request: Request<RequestBody>,
        h2: bool,
    ) -> Result<(Response<Begun>, Lease), Fault> {
        let session = Arc::clone(&self.session);
        let config = &session.gateway.config;
        let spare = if config.repeat_safe { copy(&request) } else { None };
        let mut tried = Vec::new();
        for attempt in 1..=MAX_ATTEMPTS {
            let Some(at) = route.choose(&tried) else { break };
            let upstream = &route.upstreams[at];
            self.record.attempts = attempt;
            if attempt > 1 {
                session.gateway.metrics.retries.inc();
            }
            let mut lease = Upstream::lease(upstream, session.worker);
            let sent = match h2 {
                true => lease.send_h2(request, config).await,
                false => lease.send_h1(request, config).await,
            };
            let begun = match sent {
                // What could be asked again is held back while it may have to be.
                Ok(response) if spare.is_some() && !h2 => held(&mut lease, response).await,
                Ok(response) => Ok(response.map(Begun::streaming)),
                Err(unanswered) => Err(unanswered),
            };
            let unanswered = match begun {
                Ok(response) => {
                    upstream.answered();
                    return Ok((response, lease));
                }
                Err(unanswered) => unanswered,
            };
            self.note(route, upstream, &unanswered);
            // A kept connection that the instance was closing says nothing of it.
            if !matches!(unanswered, Unanswered::Broken { reused: true, .. }) {
                tried.push(at);
            }
            request = match (unanswered, spare.as_ref().and_then(copy)) {
                (Unanswered::NotSent(unsent, _), _) => *unsent,
                (Unanswered::Broken { .. } | Unanswered::Cut(_), Some(again)) => again,
                (Unanswered::Broken { .. } | Unanswered::Cut(_), None) => {
                    return Err(Fault::UpstreamDown);
                }
                (Unanswered::Timeout, _) => return Err(Fault::UpstreamTimeout),
                (Unanswered::Client(fault), _) => return Err(Fault::Body(fault)),
            };
        }
        Err(Fault::UpstreamDown)
    }

    /// Counts what happened, remembers it of the instance, and logs it once
    /// for each time that the instance stops to answer.
    fn note(&self, route: &Route, upstream: &Upstream, unanswered: &Unanswered) {
        let gateway = self.gateway();
        let (kind, is_its_fault, error) = match unanswered {
            Unanswered::NotSent(_, error) => ("refused", !is_local(error), error.to_string()),
            Unanswered::Broken { error, reused } => ("broken", !reused, error.to_string()),
            // One that is gone refuses the next request. That one answer broke off
            // may be the answer's own fault, which must not put an instance last.
            Unanswered::Cut(error) => ("cut", false, error.to_string()),
            Unanswered::Timeout => ("timeout", false, "no response in time".to_owned()),
            Unanswered::Client(_) => return,
        };
        gateway.metrics.instance_failures.with_label_values(&[kind]).inc();
        let newly = is_its_fault && upstream.failed(gateway.config.cooldown);
        if newly || !is_its_fault {
            tracing::warn!(
                deployment_id = %route.spec.deployment_id,
                host = %route.spec.host,
                address = %upstream.address(),
                request_id = self.request_id.to_str().unwrap_or(""),
                kind,
                %error,
                "instance did not answer whole"
            );
        }
    }

    fn stream(
        mut self,
        route: Arc<Route>,
        response: Response<Begun>,
        lease: Lease,
    ) -> Response<ResponseBody> {
        let (mut parts, body) = response.into_parts();
        headers::prepare_response(&mut parts.headers, &self.request_id);
        // An instance that speaks HTTP/1.0 must not decide how we speak.
        parts.version = Version::HTTP_11;
        self.record.set_status(parts.status);
        let idle = self.gateway().config.stream_idle;
        Response::from_parts(parts, ResponseBody::stream(body, route, lease, idle, self.record))
    }

    fn tunnel(
        mut self,
        client: OnUpgrade,
        mut response: Response<Begun>,
        lease: Lease,
    ) -> Response<ResponseBody> {
        let instance = hyper::upgrade::on(&mut response);
        let (mut parts, _) = response.into_parts();
        let protocol = parts.headers.get(header::UPGRADE).cloned();
        headers::prepare_response(&mut parts.headers, &self.request_id);
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = protocol {
            parts.headers.insert(header::UPGRADE, protocol);
        }
        self.record.set_status(parts.status);
        let gateway = Arc::clone(self.gateway());
        let idle = gateway.config.stream_idle;
        let tunnel = tunnel::join(client, instance, idle, lease, self.record);
        let abort = gateway.abort.clone();
        gateway.tasks.spawn(async move {
            abort.run_until_cancelled(tunnel).await;
        });
        Response::from_parts(parts, ResponseBody::switching())
    }

    fn fault(self, fault: &Fault, audience: Audience, host: &str) -> Response<ResponseBody> {
        self.gateway().metrics.faults.with_label_values(&[fault.code()]).inc();
        let mut page = fault.render(audience, host, &self.request_id);
        // HTTP/2 has no such header, and frames that cannot be mistaken.
        if fault.ends_connection() && self.version != Version::HTTP_2 {
            page.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        self.page(page)
    }

    fn page(mut self, page: Response<Bytes>) -> Response<ResponseBody> {
        self.record.set_status(page.status());
        page.map(|bytes| ResponseBody::page(bytes, self.record))
    }
}

async fn held(
    lease: &mut Lease,
    response: Response<Incoming>,
) -> Result<Response<Begun>, Unanswered> {
    let (parts, body) = response.into_parts();
    match hold::beginning(lease, body).await {
        Ok(begun) => Ok(Response::from_parts(parts, begun)),
        Err(error) => Err(Unanswered::Cut(error)),
    }
}

/// The request once more, where nothing comes of doing it twice (RFC 9110 9.2.1).
fn copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let repeatable = request.method().is_safe()
        && request.body().is_end_stream()
        && !request.headers().contains_key(header::UPGRADE);
    repeatable.then(|| {
        let mut copy = Request::new(RequestBody::empty());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        *copy.headers_mut() = request.headers().clone();
        copy
    })
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
