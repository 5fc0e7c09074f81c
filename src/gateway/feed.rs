//! The route feed: an endless stream from the control plane. While it is
//! broken the table stays as it is.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures::Stream;
use launchway_proto::gateway::v1::{
    RouteUpdate, WatchRoutesRequest, route_service_client::RouteServiceClient,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tonic::{
    Code, Status,
    metadata::AsciiMetadataValue,
    transport::{Channel, Endpoint},
};

use super::{
    Gateway,
    config::{GatewayConfig, GatewayError},
    demand,
    table::{RouteSpec, RouteTable},
};

const CONNECT: Duration = Duration::from_secs(3);
/// Between connecting and an open feed. The first snapshot may take longer: a
/// control plane that does not know its instances yet rightly says nothing.
const OPEN: Duration = Duration::from_secs(10);
/// A control plane that vanished without a goodbye is noticed after both.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Waits between two connections, doubled from first to last. The last keeps
/// routes at most this much older than a control plane that came back.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(2);
/// A snapshot of 100 000 routes is some 20 MB.
const MAX_UPDATE_BYTES: usize = 64 * 1024 * 1024;

/// Where the feed comes from, checked at start.
pub(super) struct Source {
    endpoint: Endpoint,
    bearer: Option<AsciiMetadataValue>,
}

impl Source {
    pub fn new(config: &GatewayConfig) -> Result<Self, GatewayError> {
        let url = &config.control_url;
        let refuse = |reason: String| GatewayError::ControlUrl { url: url.clone(), reason };
        let endpoint =
            Endpoint::from_shared(url.clone()).map_err(|error| refuse(error.to_string()))?;
        if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().host().is_none() {
            return Err(refuse("it must start with http:// and name a host".to_owned()));
        }
        let bearer = config
            .control_token
            .as_ref()
            .map(|token| format!("Bearer {token}").parse())
            .transpose()
            .map_err(|_| GatewayError::ControlToken)?;
        let endpoint = endpoint
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
        Ok(Self { endpoint, bearer })
    }
}

/// Why the feed has to be opened again.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("cannot reach the control plane: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("the control plane refused: {}", .0.message())]
    Refused(#[from] Status),
    #[error("the control plane did not open the feed within {OPEN:?}")]
    Slow,
    #[error("the control plane ended the feed")]
    Ended,
    #[error("the feed began with a change instead of a snapshot")]
    NoSnapshot,
    #[error("the feed went from version {0} to {1}")]
    Order(u64, u64),
}

impl Interrupted {
    /// Until somebody changes a key.
    fn is_for_good(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::Unauthenticated)
    }
}

/// Follows the feed until the gateway stops.
pub(super) async fn follow(gateway: Arc<Gateway>, source: Source) {
    let mut backoff = BACKOFF_FIRST;
    let mut reported = false;
    loop {
        let Err(error) = session(&gateway, &source).await;
        gateway.refused.store(error.is_for_good(), Relaxed);
        // An outage is one line, however many attempts it takes.
        if gateway.set_fed(false) {
            (backoff, reported) = (BACKOFF_FIRST, false);
        }
        if !reported {
            tracing::warn!(%error, "route feed interrupted; serving the last table");
            reported = true;
        }
        sleep(backoff.mul_f64(rand::random_range(0.5..1.0))).await;
        backoff = (backoff * 2).min(BACKOFF_LAST);
    }
}

async fn session(
    gateway: &Arc<Gateway>,
    source: &Source,
) -> Result<std::convert::Infallible, Interrupted> {
    let channel: Channel = source.endpoint.connect().await?;
    let bearer = source.bearer.clone();
    let mut client = RouteServiceClient::with_interceptor(channel, move |mut request| {
        authorize(&mut request, bearer.as_ref());
        Ok(request)
    })
    .max_decoding_message_size(MAX_UPDATE_BYTES);

    // It starts at 0 on every feed: a restarted control plane may count anew, and
    // must not take an old number for its own.
    let (applied, versions) = watch::channel(0);
    let reports = reports(Arc::clone(gateway), versions);
    let opened = timeout(OPEN, client.watch_routes(reports)).await;
    let mut updates = opened.map_err(|_| Interrupted::Slow)??.into_inner();
    gateway.refused.store(false, Relaxed);
    let first = updates.message().await?.ok_or(Interrupted::Ended)?;
    if !first.snapshot {
        return Err(Interrupted::NoSnapshot);
    }
    let mut version = first.version;
    applied.send_replace(apply(gateway, first));
    gateway.set_fed(true);
    tracing::info!(version, routes = gateway.table.load().len(), "route feed connected");
    loop {
        let update = updates.message().await?.ok_or(Interrupted::Ended)?;
        if !update.snapshot && update.version <= version {
            return Err(Interrupted::Order(version, update.version));
        }
        version = update.version;
        applied.send_replace(apply(gateway, update));
    }
}

/// What the control plane is told: at once what was applied and what is wanted, and
/// from time to time what is active. Each message has all that is known by then, so
/// that a slow control plane gets the latest instead of a queue of old ones.
fn reports(
    gateway: Arc<Gateway>,
    mut versions: watch::Receiver<u64>,
) -> impl Stream<Item = WatchRoutesRequest> {
    versions.mark_changed();
    let mut looks = interval(gateway.config.report_every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    futures::stream::unfold(
        (gateway, versions, looks),
        |(gateway, mut versions, mut looks)| async move {
            let active = tokio::select! {
                changed = versions.changed() => { changed.ok()?; Vec::new() }
                () = gateway.wanted.asked.notified() => Vec::new(),
                _ = looks.tick() => demand::active(&gateway.table.load()),
            };
            let report = WatchRoutesRequest {
                gateway_id: gateway.id.clone(),
                applied_version: *versions.borrow_and_update(),
                active_deployment_ids: active,
                wanted_deployment_ids: gateway.wanted.take(),
                reports_demand: true,
            };
            Some((report, (gateway, versions, looks)))
        },
    )
}

fn authorize(request: &mut tonic::Request<()>, bearer: Option<&AsciiMetadataValue>) {
    if let Some(bearer) = bearer {
        request.metadata_mut().insert("authorization", bearer.clone());
    }
}

/// Publishes the next table; requests see the old one or the new one. Returns
/// the version they are now routed by.
fn apply(gateway: &Gateway, update: RouteUpdate) -> u64 {
    let mut upstreams = gateway.upstreams();
    let current = gateway.table.load_full();
    let mut next = if update.snapshot { RouteTable::empty() } else { RouteTable::clone(&current) };
    next.version = update.version;
    for host in &update.removed_hosts {
        next.remove(host);
    }
    for route in update.routes {
        match RouteSpec::try_from(route) {
            Ok(spec) => next.insert(spec, &mut upstreams),
            Err(error) => tracing::warn!(%error, "route left out"),
        }
    }
    gateway.table.store(Arc::new(next));
    gateway.changed.send_replace(());
    update.version
}
