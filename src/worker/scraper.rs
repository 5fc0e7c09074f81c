//! Fetches the OpenAPI description of an application.

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use launchway_workflows::{
    error::{ErrorCode, StepError},
    ports::OpenapiScraper,
};

/// Of the whole exchange (checklist 5).
const LIMIT: Duration = Duration::from_secs(5);
/// Of the description.
const MAX_BYTES: usize = 1024 * 1024;
const PATHS: [&str; 2] = ["/openapi.yaml", "/openapi.json"];

/// Asks over HTTP; follows no redirects, so that an application cannot make
/// the control plane fetch something else.
pub struct HttpScraper {
    http: reqwest::Client,
}

impl HttpScraper {
    /// Ready to use.
    pub fn new() -> Self {
        let http = crate::http::client()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(LIMIT)
            .build()
            .unwrap_or_default();
        Self { http }
    }

    async fn fetch(&self, url: &str) -> Option<String> {
        let response = self.http.get(url).send().await.ok()?;
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        // A single-page application answers every path with its page.
        if !response.status().is_success() || kind.is_some_and(|kind| kind.starts_with("text/html"))
        {
            return None;
        }
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            body.extend_from_slice(&chunk.ok()?);
            if body.len() > MAX_BYTES {
                tracing::info!(url, limit = MAX_BYTES, "the OpenAPI description is too large");
                return None;
            }
        }
        let text = String::from_utf8(body).ok()?;
        text.contains("openapi").then_some(text)
    }
}

impl Default for HttpScraper {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl OpenapiScraper for HttpScraper {
    async fn scrape(&self, address: &str) -> Result<Option<String>, StepError> {
        let all = async {
            for path in PATHS {
                if let Some(spec) = self.fetch(&format!("http://{address}{path}")).await {
                    return Some(spec);
                }
            }
            None
        };
        tokio::time::timeout(LIMIT, all).await.map_err(|_| {
            StepError::transient(ErrorCode::Internal, "the application did not answer within 5 s")
        })
    }
}
