//! What people and programs see when there is nothing to forward to.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};

/// Why a request was not forwarded, or not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    BadRequest(&'static str),
    UnknownHost(String),
    NoInstance,
    Retired(String),
    UpstreamDown,
    UpstreamTimeout,
}

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::UnknownHost(_) => StatusCode::NOT_FOUND,
            Self::NoInstance | Self::Retired(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamDown => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad-request",
            Self::UnknownHost(_) => "unknown-host",
            Self::NoInstance => "no-instance",
            Self::Retired(_) => "retired",
            Self::UpstreamDown => "upstream-down",
            Self::UpstreamTimeout => "upstream-timeout",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::BadRequest(rule) => (*rule).to_owned(),
            Self::UnknownHost(host) => format!("no deployment answers for {host}"),
            Self::NoInstance => "the deployment has no ready instance at the moment".to_owned(),
            Self::Retired(id) => {
                format!("this deployment is retired; `launchway promote {id}` brings it back")
            }
            Self::UpstreamDown => "the deployment did not accept the request".to_owned(),
            Self::UpstreamTimeout => "the deployment did not answer in time".to_owned(),
        }
    }

    /// HTML for browsers, JSON where it is asked for, text for the rest.
    pub(super) fn page(&self, accept: &HeaderMap, request_id: &str) -> Response<Full<Bytes>> {
        let status = self.status();
        let accept = accept.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (kind, body) = if accept.contains("json") {
            let json = serde_json::json!({
                "error": self.code(), "message": self.message(), "request_id": request_id,
            });
            ("application/json", json.to_string())
        } else if accept.contains("text/html") {
            let message = escape(&self.message());
            let html = format!(
                "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{status}</title>\
                 <body style=\"font-family:sans-serif;max-width:40em;margin:4em auto\"><h1>{status}</h1>\
                 <p>{message}</p><p><small>request {request_id}</small></p></body></html>"
            );
            ("text/html; charset=utf-8", html)
        } else {
            (
                "text/plain; charset=utf-8",
                format!("{status}: {}\nrequest {request_id}\n", self.message()),
            )
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if *self == Self::NoInstance {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn body(refusal: &Refusal, accept: &'static str) -> (StatusCode, String) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        let page = refusal.page(&headers, "r1");
        let status = page.status();
        let bytes = page.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn programs_get_json_and_people_a_page() {
        let retired = Refusal::Retired("dep_1".to_owned());
        let (status, json) = body(&retired, "application/json").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            json.contains("\"error\":\"retired\"") && json.contains("launchway promote dep_1"),
            "{json}"
        );
        let (_, html) = body(&Refusal::UnknownHost("<b>".to_owned()), "text/html").await;
        assert!(html.contains("&lt;b&gt;") && html.contains("request r1"), "{html}");
        assert!(body(&Refusal::NoInstance, "*/*").await.1.starts_with("503"));
    }
}
