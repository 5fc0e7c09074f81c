//! What Prometheus reads of a gateway.

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::get};
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder, core::Collector,
};

use tokio::net::TcpListener;

use super::Gateway;

/// The media type of [`Metrics::render`].
pub(super) const TEXT_FORMAT: &str = prometheus::TEXT_FORMAT;

/// Upper bounds in seconds: from a cached answer to a long poll.
const BUCKETS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Counters of one gateway, named `launchway_gateway_…`. Counting is an atomic
/// addition; nothing is looked up for a request that succeeds.
pub(super) struct Metrics {
    registry: Registry,
    /// By class of status.
    requests: [IntCounter; CLASSES.len()],
    duration: Histogram,
    response_bytes: IntCounter,
    /// Requests that went to another instance.
    pub retries: IntCounter,
    /// Answers of the gateway's own, by the code on their page.
    pub faults: IntCounterVec,
    /// Instances that did not answer, by how.
    pub instance_failures: IntCounterVec,
    /// Connections cut because the client took too little of its response.
    pub slow_clients: IntCounter,
    connections: IntGauge,
    in_flight: IntGauge,
    waiting: IntGauge,
    routes: IntGauge,
    version: IntGauge,
    fed: IntGauge,
    dropped_lines: IntGauge,
}

impl Metrics {
    /// # Errors
    /// A metric's name or labels are invalid or given twice.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new_custom(Some("launchway_gateway".to_owned()), None)?;
        let r = &registry;
        let requests = by(r, "requests_total", "Requests by class of status.", "status")?;
        let buckets = HistogramOpts::new(
            "request_duration_seconds",
            "From a request's head to the end of its response.",
        );
        Ok(Self {
            requests: CLASSES.map(|class| requests.with_label_values(&[class])),
            duration: add(r, Histogram::with_opts(buckets.buckets(BUCKETS.to_vec()))?)?,
            response_bytes: counter(r, "response_bytes_total", "Bytes of response bodies.")?,
            retries: counter(r, "retries_total", "Requests that went to another instance.")?,
            faults: by(r, "faults_total", "Answers of the gateway's own, by their code.", "code")?,
            instance_failures: by(
                r,
                "instance_failures_total",
                "Instances that did not answer, by how.",
                "kind",
            )?,
            slow_clients: counter(
                r,
                "slow_clients_total",
                "Connections cut because the client took too little of its response.",
            )?,
            connections: gauge(r, "connections", "Open client connections and tunnels.")?,
            in_flight: gauge(r, "requests_in_flight", "Requests that instances work on.")?,
            waiting: gauge(r, "requests_waiting", "Requests for deployments that start.")?,
            routes: gauge(r, "routes", "Hosts in the table.")?,
            version: gauge(r, "table_version", "The control plane's number for the table.")?,
            fed: gauge(r, "feed_connected", "1 while the control plane feeds the table.")?,
            dropped_lines: gauge(
                r,
                "access_lines_dropped",
                "Lines of the access log lost to a full queue.",
            )?,
            registry,
        })
    }

    /// Counts a request that has ended.
    pub fn observe(&self, status: u16, took: Duration, bytes: u64) {
        if let Some(class) = self.requests.get(usize::from(status / 100).wrapping_sub(1)) {
            class.inc();
        }
        self.duration.observe(took.as_secs_f64());
        self.response_bytes.inc_by(bytes);
    }

    /// In Prometheus' text format.
    pub fn render(&self, gateway: &Gateway) -> Vec<u8> {
        let table = gateway.table.load();
        let set = |gauge: &IntGauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(0));
        set(&self.connections, gateway.tasks.len());
        set(&self.in_flight, gateway.upstreams().in_flight());
        set(&self.waiting, gateway.wanted.waiting());
        set(&self.routes, table.len());
        set(&self.version, usize::try_from(table.version).unwrap_or(0));
        self.fed.set(i64::from(gateway.is_fed()));
        let log = gateway.access_log.as_ref();
        set(&self.dropped_lines, log.map_or(0, |log| log.error_counter().dropped_lines()));
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be written");
        }
        text
    }
}

/// Answers `/metrics` on an address of its own, where there is one.
pub(super) async fn serve(gateway: &Arc<Gateway>, listener: Option<TcpListener>) {
    let Some(listener) = listener else { return };
    let gateway = Arc::clone(gateway);
    let metrics =
        move || async move { ([("content-type", TEXT_FORMAT)], gateway.metrics.render(&gateway)) };
    let router = Router::new().route("/metrics", get(metrics));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "metrics are not served any more");
    }
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    add(registry, IntCounter::new(name, help)?)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    add(registry, IntGauge::new(name, help)?)
}

fn by(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> prometheus::Result<IntCounterVec> {
    add(registry, IntCounterVec::new(Opts::new(name, help), &[label])?)
}
