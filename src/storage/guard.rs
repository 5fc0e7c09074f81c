//! What AWS refuses and s3s-fs does not: bodies without a length, over the
//! limit, or other than the signed one.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::Engine;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, service::Service};
use s3s::{Body, HttpError, service::S3Service};

use super::verified::Verified;

/// Carries the SHA-256 of the body, in base64.
const CHECKSUM: &str = "x-amz-checksum-sha256";

/// A service in front of the S3 service; cheap to clone.
#[derive(Clone)]
pub(super) struct Guard {
    inner: S3Service,
    max_object_bytes: u64,
}

impl Guard {
    pub(super) fn new(inner: S3Service, max_object_bytes: u64) -> Self {
        Self { inner, max_object_bytes }
    }

    /// The S3 error a PUT earns before its body is read, if any.
    fn refusal(&self, request: &Request<Incoming>) -> Option<(StatusCode, &'static str, String)> {
        if request.method() != Method::PUT {
            return None;
        }
        let length = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        match length {
            None => {
                let message = "give a Content-Length".to_owned();
                Some((StatusCode::LENGTH_REQUIRED, "MissingContentLength", message))
            }
            Some(length) if length > self.max_object_bytes => {
                let message =
                    format!("{length} bytes are over the limit of {}", self.max_object_bytes);
                Some((StatusCode::PAYLOAD_TOO_LARGE, "EntityTooLarge", message))
            }
            Some(_) => None,
        }
    }
}

impl Service<Request<Incoming>> for Guard {
    type Response = Response<Body>;
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, HttpError>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if let Some((status, code, message)) = self.refusal(&request) {
            return Box::pin(async move { Ok(error(status, code, &message)) });
        }
        let inner = self.inner.clone();
        let Some(expected) = announced(&request) else {
            return Box::pin(async move { inner.call(request.map(Body::from)).await });
        };
        let differs = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&differs);
        let request =
            request.map(|body| Body::http_body_unsync(Verified::new(body, expected, flag)));
        Box::pin(async move {
            let answer = inner.call(request).await?;
            if differs.load(Ordering::Relaxed) {
                let message = "the body's SHA-256 is not the announced one";
                return Ok(error(StatusCode::BAD_REQUEST, "BadDigest", message));
            }
            Ok(answer)
        })
    }
}

/// s3s-fs compares the hash only after it has put the file in its place, so
/// that a refused body would replace the object.
fn announced(request: &Request<Incoming>) -> Option<Vec<u8>> {
    let text = request.headers().get(CHECKSUM).filter(|_| request.method() == Method::PUT)?;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

fn error(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    let mut response = Response::new(Body::from(xml));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/xml"));
    response
}
