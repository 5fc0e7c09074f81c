//! Readiness checks over the network.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::http::deepest;

/// First pause after a probe that failed: start-up is often a matter of
/// milliseconds, and a deployment waits for it.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// Asks for connections and answers.
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

    /// An answer below 500; `Err` says why not, for people.
    pub(super) async fn http(
        &self,
        address: &str,
        path: &str,
        limit: Duration,
    ) -> Result<(), String> {
        let url = format!("http://{address}{path}");
        match self.http.get(&url).timeout(limit).send().await {
            Ok(response) if response.status().as_u16() < 500 => Ok(()),
            Ok(response) => Err(format!("GET {url} answered {}", response.status().as_u16())),
            Err(error) if error.is_timeout() => {
                Err(format!("GET {url} did not answer within {} ms", limit.as_millis()))
            }
            Err(error) => Err(format!("GET {url}: {}", deepest(&error))),
        }
    }

    /// A connection.
    pub(super) async fn tcp(&self, address: &str, limit: Duration) -> Result<(), String> {
        match tokio::time::timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("connecting to {address}: {error}")),
            Err(_) => {
                Err(format!("{address} did not take a connection within {} ms", limit.as_millis()))
            }
        }
    }
}

/// Pauses between probes: doubling up to `most`.
pub(super) fn pauses(most: Duration) -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(FIRST_PAUSE.min(most)), move |pause| Some((*pause * 2).min(most)))
}
