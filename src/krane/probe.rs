//! The readiness probe.

use std::time::Duration;

use super::backend::Health;
use crate::http::deepest;

/// First pause after a probe that failed: start-up is often a matter of
/// milliseconds, and a deployment waits for it.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// Probes HTTP.
#[derive(Clone)]
pub(super) struct Prober {
    http: reqwest::Client,
}

impl Prober {
    pub(super) fn new() -> Self {
        let http = crate::http::client()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .build()
            .unwrap_or_default();
        Self { http }
    }

    /// One probe; `Err` says why not, for people.
    pub(super) async fn probe(&self, address: &str, health: &Health) -> Result<(), String> {
        let url = format!("http://{address}{}", health.path);
        match self.http.get(&url).timeout(health.timeout).send().await {
            Ok(response) if response.status().as_u16() < 500 => Ok(()),
            Ok(response) => Err(format!("GET {url} answered {}", response.status().as_u16())),
            Err(error) if error.is_timeout() => {
                Err(format!("GET {url} did not answer within {} ms", health.timeout.as_millis()))
            }
            Err(error) => Err(format!("GET {url}: {}", deepest(&error))),
        }
    }
}

/// Pauses between probes: doubling up to the configured interval.
pub(super) fn pauses(health: &Health) -> impl Iterator<Item = Duration> + use<> {
    let most = health.interval;
    std::iter::successors(Some(FIRST_PAUSE.min(most)), move |pause| Some((*pause * 2).min(most)))
}
