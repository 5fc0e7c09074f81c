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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::{Router, http::header, response::Redirect, routing::get};

    use super::*;

    async fn serve(app: Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        address
    }

    async fn scraped(app: Router) -> Result<Option<String>, StepError> {
        HttpScraper::new().scrape(&serve(app).await).await
    }

    #[tokio::test]
    async fn a_description_is_found_as_yaml_or_as_json() {
        let yaml = Router::new().route("/openapi.yaml", get(|| async { "openapi: 3.1.0" }));
        assert_eq!(scraped(yaml).await.unwrap().as_deref(), Some("openapi: 3.1.0"));
        let json = Router::new().route("/openapi.json", get(|| async { r#"{"openapi":"3.1.0"}"# }));
        assert_eq!(scraped(json).await.unwrap().as_deref(), Some(r#"{"openapi":"3.1.0"}"#));
    }

    /// Checklist 5. Nothing but a description of the application itself is taken.
    #[tokio::test]
    async fn pages_redirects_and_what_is_too_large_are_no_descriptions() {
        let page = get(|| async { ([(header::CONTENT_TYPE, "text/html")], "<p>openapi") });
        assert_eq!(scraped(Router::new().fallback(page)).await.unwrap(), None);
        let secret = serve(Router::new().fallback(get(|| async { "openapi: internal" }))).await;
        let away = Redirect::temporary(&format!("http://{secret}/openapi.yaml"));
        let redirecting = Router::new().fallback(get(move || async move { away }));
        assert_eq!(scraped(redirecting).await.unwrap(), None);
        let large = format!("openapi: {}", "x".repeat(MAX_BYTES));
        let endless = Router::new().fallback(get(move || async move { large }));
        assert_eq!(scraped(endless).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_application_that_does_not_answer_is_given_up_within_its_limit() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let begun = Instant::now();
        let gone = HttpScraper::new().scrape(&silent.local_addr().unwrap().to_string()).await;
        assert!(!matches!(gone, Ok(Some(_))), "{gone:?}");
        assert!(begun.elapsed() < LIMIT * 2, "{:?}", begun.elapsed());
    }
}
