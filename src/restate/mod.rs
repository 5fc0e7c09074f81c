//! Restate from the outside: the ingress, the admin API and the server itself.

pub mod admin;
pub mod identity;
pub mod ingress;
pub mod server;
pub mod workflows;

use std::time::Duration;

use crate::http::deepest;

/// Longest answer of a call that only reads or writes a little.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Restate did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RestateError {
    /// It does not answer.
    #[error("Restate does not answer at {url}: {reason}")]
    Unavailable {
        /// Which address.
        url: String,
        /// The transport's error.
        reason: String,
    },
    /// It, or the handler, refused.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
}

/// A timestamp of the admin API as milliseconds since the epoch.
pub fn millis(timestamp: Option<&str>) -> Option<i64> {
    let text = timestamp?;
    let parsed = text.parse::<jiff::Timestamp>().ok();
    parsed.or_else(|| format!("{text}Z").parse().ok()).map(|at| at.as_millisecond())
}

fn client() -> reqwest::Client {
    crate::http::client().timeout(CALL_TIMEOUT).build().unwrap_or_default()
}

/// Sends and reads the whole answer; a status of 400 and above is a refusal.
async fn exchange(request: reqwest::RequestBuilder, url: &str) -> Result<Vec<u8>, RestateError> {
    let unavailable = |error: reqwest::Error| RestateError::Unavailable {
        url: url.to_owned(),
        reason: deepest(&error),
    };
    let response = request.send().await.map_err(unavailable)?;
    let status = response.status();
    let body = response.bytes().await.map_err(unavailable)?;
    if status.is_success() {
        return Ok(body.to_vec());
    }
    let said = serde_json::from_slice::<serde_json::Value>(&body)
        .ok()
        .and_then(|json| json.get("message")?.as_str().map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
    Err(RestateError::Refused { status: status.as_u16(), message: said })
}
