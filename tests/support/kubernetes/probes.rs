//! The kubelet's probes, asked over the network or in the container.

use std::{net::IpAddr, time::Duration};

use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::containers::Container;

/// A kubelet looks once in each period, which is whole seconds. This one looks this
/// many times, and gives up after the same time.
const LOOKS: u32 = 10;

struct Probe {
    spec: Value,
    period: Duration,
    limit: Duration,
    threshold: u64,
    due: Instant,
    failures: u64,
}

impl Probe {
    fn new(spec: &Value) -> Option<Self> {
        if spec.is_null() {
            return None;
        }
        let seconds =
            |key: &str, default| Duration::from_secs(spec[key].as_u64().unwrap_or(default));
        Some(Self {
            spec: spec.clone(),
            period: seconds("periodSeconds", 10) / LOOKS,
            limit: seconds("timeoutSeconds", 1),
            // The first look is at once.
            threshold: (spec["failureThreshold"].as_u64().unwrap_or(3) - 1) * u64::from(LOOKS) + 1,
            due: Instant::now(),
            failures: 0,
        })
    }

    /// What it found, if it was due.
    async fn ask(&mut self, ip: IpAddr, container: Option<&Container>) -> Option<bool> {
        if Instant::now() < self.due {
            return None;
        }
        self.due = Instant::now() + self.period;
        let passed = timeout(self.limit, check(&self.spec, ip, container)).await.unwrap_or(false);
        self.failures = if passed { 0 } else { self.failures + 1 };
        Some(passed)
    }
}

async fn check(spec: &Value, ip: IpAddr, container: Option<&Container>) -> bool {
    let port = |of: &Value| u16::try_from(of["port"].as_u64().unwrap_or(0)).unwrap_or(0);
    if spec["tcpSocket"].is_object() {
        return tokio::net::TcpStream::connect((ip, port(&spec["tcpSocket"]))).await.is_ok();
    }
    if spec["httpGet"].is_object() {
        let path = spec["httpGet"]["path"].as_str().unwrap_or("/");
        let url = format!("http://{ip}:{}{path}", port(&spec["httpGet"]));
        // A client wants one, whatever it asks.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let Ok(client) = client.no_proxy().build() else { return false };
        return client
            .get(url)
            .send()
            .await
            .is_ok_and(|answer| (200..400).contains(&answer.status().as_u16()));
    }
    let command = spec["exec"]["command"].as_array().cloned().unwrap_or_default();
    let command: Vec<String> =
        command.iter().filter_map(|part| part.as_str().map(str::to_owned)).collect();
    match container {
        Some(container) => container.run(&command).await,
        None => true,
    }
}

pub struct Probes {
    startup: Option<Probe>,
    readiness: Option<Probe>,
    liveness: Option<Probe>,
    ip: IpAddr,
    pub started: bool,
    pub ready: bool,
}

impl Probes {
    pub fn new(container: &Value, ip: IpAddr) -> Self {
        let startup = Probe::new(&container["startupProbe"]);
        let readiness = Probe::new(&container["readinessProbe"]);
        Self {
            started: startup.is_none(),
            ready: startup.is_none() && readiness.is_none(),
            startup,
            readiness,
            liveness: Probe::new(&container["livenessProbe"]),
            ip,
        }
    }

    /// Whether the container must be ended.
    pub async fn look(&mut self, container: Option<&Container>) -> bool {
        if let (false, Some(probe)) = (self.started, &mut self.startup) {
            self.started = probe.ask(self.ip, container).await == Some(true);
            if !self.started {
                return probe.failures >= probe.threshold;
            }
            self.ready = self.readiness.is_none();
        }
        if let Some(probe) = &mut self.readiness
            && let Some(passed) = probe.ask(self.ip, container).await
        {
            if passed {
                self.ready = true;
            } else if probe.failures >= probe.threshold {
                self.ready = false;
            }
        }
        match &mut self.liveness {
            Some(probe) => {
                probe.ask(self.ip, container).await;
                probe.failures >= probe.threshold
            }
            None => false,
        }
    }
}
