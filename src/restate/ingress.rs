//! Calls of handlers, and completions of awakeables.

use std::time::Duration;

use async_trait::async_trait;
use launchway_workflows::engine::readiness::{AwakeableResolver, ReadyVerdict};
use serde::{Serialize, de::DeserializeOwned};

use super::{RestateError, client, exchange};

/// A client of the ingress; cheap to clone.
#[derive(Clone)]
pub struct IngressClient {
    http: reqwest::Client,
    url: String,
}

impl IngressClient {
    /// For the ingress at `url`.
    pub fn new(url: &str) -> Self {
        Self { http: client(), url: url.trim_end_matches('/').to_owned() }
    }

    /// Calls a handler, `Service/handler` or `Object/key/handler`, and waits
    /// for its result. The same key gives the result of the first call.
    ///
    /// # Errors
    /// [`RestateError::Refused`] with the handler's own status and message.
    pub async fn call<I: Serialize, O: DeserializeOwned>(
        &self,
        target: &str,
        idempotency_key: &str,
        input: &I,
    ) -> Result<O, RestateError> {
        let url = format!("{}/{target}", self.url);
        let request = self.http.post(&url).header("idempotency-key", idempotency_key).json(input);
        answer(&exchange(request, &url).await?)
    }

    /// The same for a handler that may take as long as `limit`. It goes on when
    /// nobody waits for it any more, and is found again by its key.
    ///
    /// # Errors
    /// As [`IngressClient::call`].
    pub async fn call_within<I: Serialize, O: DeserializeOwned>(
        &self,
        target: &str,
        idempotency_key: &str,
        input: &I,
        limit: Duration,
    ) -> Result<O, RestateError> {
        let url = format!("{}/{target}", self.url);
        let request = self.http.post(&url).timeout(limit);
        let request = request.header("idempotency-key", idempotency_key).json(input);
        answer(&exchange(request, &url).await?)
    }

    /// Starts a handler without input and does not wait for it.
    ///
    /// # Errors
    /// Restate does not answer, or knows no such handler.
    pub async fn send(&self, target: &str) -> Result<(), RestateError> {
        let url = format!("{}/{target}/send", self.url);
        exchange(self.http.post(&url), &url).await.map(drop)
    }

    /// The same for a handler with an input; the same key starts it once.
    ///
    /// # Errors
    /// As [`IngressClient::send`].
    pub async fn send_once<I: Serialize>(
        &self,
        target: &str,
        idempotency_key: &str,
        input: &I,
    ) -> Result<(), RestateError> {
        let url = format!("{}/{target}/send", self.url);
        let request = self.http.post(&url).header("idempotency-key", idempotency_key).json(input);
        exchange(request, &url).await.map(drop)
    }

    /// Answers when the ingress does.
    ///
    /// # Errors
    /// It does not.
    pub async fn health(&self) -> Result<(), RestateError> {
        let url = format!("{}/restate/health", self.url);
        exchange(self.http.get(&url), &url).await.map(drop)
    }
}

fn answer<O: DeserializeOwned>(body: &[u8]) -> Result<O, RestateError> {
    serde_json::from_slice(body)
        .map_err(|error| RestateError::Refused { status: 500, message: error.to_string() })
}

#[async_trait]
impl AwakeableResolver for IngressClient {
    async fn resolve(&self, awakeable_id: &str, verdict: &ReadyVerdict) -> Result<(), String> {
        let url = format!("{}/restate/awakeables/{awakeable_id}/resolve", self.url);
        match exchange(self.http.post(&url).json(verdict), &url).await {
            // The invocation is gone: nobody waits any more.
            Ok(_) | Err(RestateError::Refused { status: 404, .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}
