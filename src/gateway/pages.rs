//! What a client is told when no instance answers for the gateway.

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{self, HeaderValue},
};
use serde_json::json;

use super::{accept::Audience, headers::X_REQUEST_ID, host::BadHost, send::ClientFault};

/// Why the gateway answers itself.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    BadHost(BadHost),
    Body(ClientFault),
    Connect,
    Starting,
    UnknownHost,
    NoInstance,
    Retired {
        deployment_id: String,
    },
    /// It was evicted, and is not up again in time.
    NotStarted {
        deployment_id: String,
    },
    /// Too many wait for deployments that start.
    Crowded,
    UpstreamDown,
    UpstreamTimeout,
}

struct Page {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    remedy: String,
    retry_after: Option<&'static str>,
}

impl Fault {
    /// The name of the fault in metrics and JSON.
    pub fn code(&self) -> &'static str {
        self.page().code
    }

    /// What follows such a request on its connection is not to be trusted.
    pub fn ends_connection(&self) -> bool {
        matches!(self, Self::BadHost(_) | Self::Body(_) | Self::Connect)
    }

    fn page(&self) -> Page {
        let page = |status, code, title, remedy: &str| Page {
            status,
            code,
            title,
            remedy: remedy.to_owned(),
            retry_after: None,
        };
        let later = |seconds, page: Page| Page { retry_after: Some(seconds), ..page };
        match self {
            Self::BadHost(reason) => page(
                StatusCode::BAD_REQUEST,
                "bad_request",
                "The request names no usable host",
                &reason.to_string(),
            ),
            Self::Body(ClientFault::Malformed) => page(
                StatusCode::BAD_REQUEST,
                "bad_body",
                "The request body is malformed",
                "Its chunks or its length do not add up; send it again.",
            ),
            Self::Connect => page(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "CONNECT is not served here",
                "This is a reverse proxy: send the request itself.",
            ),
            Self::Starting => later(
                "1",
                page(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "starting",
                    "The gateway has no routes yet",
                    "It waits for the control plane; try again in a moment. `launchway doctor` tells more.",
                ),
            ),
            Self::UnknownHost => page(
                StatusCode::NOT_FOUND,
                "unknown_host",
                "No deployment answers to this name",
                "Check the name; `launchway list` shows the hosts of each deployment.",
            ),
            Self::NoInstance => later(
                "2",
                page(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "no_instance",
                    "The deployment has no ready instance",
                    "Try again in a moment; `launchway inspect` shows its instances.",
                ),
            ),
            Self::Retired { deployment_id } => page(
                StatusCode::SERVICE_UNAVAILABLE,
                "retired",
                "This deployment was retired",
                &format!("Bring it back with `launchway promote {deployment_id}`."),
            ),
            Self::NotStarted { deployment_id } => later(
                "5",
                page(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "not_started",
                    "The deployment is not started yet",
                    &format!(
                        "It had no requests for a while. Try again in a moment; `launchway why {deployment_id}` tells more."
                    ),
                ),
            ),
            Self::Crowded => later(
                "5",
                page(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "crowded",
                    "Too many requests wait for deployments that start",
                    "Try again in a moment.",
                ),
            ),
            Self::UpstreamDown => page(
                StatusCode::BAD_GATEWAY,
                "upstream_down",
                "The deployment did not answer",
                "Its instances refused or broke off; `launchway logs --runtime` shows their output.",
            ),
            Self::UpstreamTimeout => page(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream_timeout",
                "The deployment did not answer in time",
                "`launchway logs --runtime` shows what it was doing.",
            ),
            Self::Body(ClientFault::TooLarge) => page(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "The request body is too large",
                "Send less at once; `gateway.max_body_bytes` is the limit.",
            ),
            Self::Body(ClientFault::Stalled) => page(
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                "The request body did not arrive in time",
                "Send it again over a working connection.",
            ),
        }
    }

    /// The answer, without anything about the instances themselves. `host` is
    /// what was asked for, empty when that was no host.
    pub fn render(
        &self,
        audience: Audience,
        host: &str,
        request_id: &HeaderValue,
    ) -> Response<Bytes> {
        let page = self.page();
        let id = request_id.to_str().unwrap_or("");
        let (kind, text) = match audience {
            Audience::Html => ("text/html; charset=utf-8", html(&page, host, id)),
            Audience::Json => ("application/json", as_json(&page, host, id)),
            Audience::Text => ("text/plain; charset=utf-8", text(&page, host, id)),
        };
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = page.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        headers.insert(X_REQUEST_ID, request_id.clone());
        if let Some(seconds) = page.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        response
    }
}

fn text(page: &Page, host: &str, id: &str) -> String {
    let Page { status, title, remedy, .. } = page;
    format!("{} {title}\n{remedy}\n\nhost: {host}\nrequest id: {id}\n", status.as_u16())
}

fn as_json(page: &Page, host: &str, id: &str) -> String {
    let mut body = json!({
        "error": { "code": page.code, "message": page.title, "remedy": page.remedy },
        "status": page.status.as_u16(),
        "host": host,
        "request_id": id,
    })
    .to_string();
    body.push('\n');
    body
}

fn html(page: &Page, host: &str, id: &str) -> String {
    let (title, status) = (page.title, page.status.as_u16());
    let (remedy, host, id) = (code_spans(&escape(&page.remedy)), escape(host), escape(id));
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{status} {title}</title>\
         <style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;\
         padding:0 1rem;color-scheme:light dark}}small{{opacity:.7}}</style>\
         <h1>{title}</h1><p>{remedy}</p>\
         <p><small>{status} · {host} · request id <code>{id}</code></small></p></html>\n"
    )
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Backticks become `<code>`, as the texts are written for terminals.
fn code_spans(text: &str) -> String {
    text.split('`')
        .enumerate()
        .map(|(n, part)| if n % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_from_elsewhere_is_escaped() {
        let fault = Fault::Retired { deployment_id: "<script>".to_owned() };
        let id = HeaderValue::from_static("abc");
        let page = fault.render(Audience::Html, "<b>", &id).into_body();
        let page = std::str::from_utf8(&page).unwrap();
        assert!(page.contains("<code>launchway promote &lt;script&gt;</code>"), "{page}");
        assert!(page.contains("&lt;b&gt;") && !page.contains("<script>"), "{page}");
    }
}
