//! One line of JSON per request, written when its response has ended, and what
//! the metrics count of it.

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{Method, StatusCode, Version, header::HeaderValue, http::request::Parts};
use serde::Serialize;

use super::{body::Upload, host, session::Session, table::Route};

/// The client left before a response; nginx's number for it.
const CLIENT_LEFT: u16 = 499;

/// What is known of a request so far; told when it is dropped.
pub(super) struct AccessRecord {
    session: Arc<Session>,
    started: Instant,
    /// `None` when no access log is kept: then it costs nothing.
    line: Option<Box<Line>>,
    /// Instances that were tried.
    pub attempts: usize,
    /// Set with the response.
    status: u16,
    /// Of the response's body.
    pub bytes: u64,
    /// The whole response was handed over; false when a side broke off.
    pub complete: bool,
}

struct Line {
    method: Method,
    version: Version,
    host: String,
    path: String,
    request_id: HeaderValue,
    route: Option<Arc<Route>>,
    upload: Option<Arc<Upload>>,
}

/// A line as it is written: flat, and the same fields in every one.
#[derive(Serialize)]
struct Written<'a> {
    time: String,
    client: &'a str,
    method: &'a str,
    host: &'a str,
    /// Without the query, which may hold credentials.
    path: &'a str,
    protocol: &'a str,
    status: u16,
    complete: bool,
    duration_ms: f64,
    request_bytes: u64,
    response_bytes: u64,
    deployment_id: &'a str,
    request_id: &'a str,
    attempts: usize,
}

impl AccessRecord {
    pub fn begin(session: &Arc<Session>, parts: &Parts, request_id: &HeaderValue) -> Self {
        let line = session.gateway.access_log.is_some().then(|| {
            Box::new(Line {
                method: parts.method.clone(),
                version: parts.version,
                host: host::asked(parts).into_owned(),
                path: parts.uri.path().to_owned(),
                request_id: request_id.clone(),
                route: None,
                upload: None,
            })
        });
        Self {
            session: Arc::clone(session),
            started: Instant::now(),
            line,
            attempts: 0,
            status: CLIENT_LEFT,
            bytes: 0,
            complete: false,
        }
    }

    /// Once the host was found.
    pub fn set_route(&mut self, route: &Arc<Route>) {
        if let Some(line) = &mut self.line {
            line.route = Some(Arc::clone(route));
        }
    }

    pub fn set_upload(&mut self, upload: Option<Arc<Upload>>) {
        if let Some(line) = &mut self.line {
            line.upload = upload;
        }
    }

    pub fn set_status(&mut self, status: StatusCode) {
        self.status = status.as_u16();
    }

    fn write(&self, line: &Line, took: Duration) {
        let Some(log) = &self.session.gateway.access_log else { return };
        let written = Written {
            time: jiff::Timestamp::now().to_string(),
            client: self.session.client.ip(),
            method: line.method.as_str(),
            host: &line.host,
            path: &line.path,
            protocol: protocol(line.version),
            status: self.status,
            complete: self.complete,
            duration_ms: took.as_micros() as f64 / 1e3,
            request_bytes: line.upload.as_ref().map_or(0, |upload| upload.bytes()),
            response_bytes: self.bytes,
            deployment_id: line.route.as_ref().map_or("", |route| &route.spec.deployment_id),
            request_id: line.request_id.to_str().unwrap_or(""),
            attempts: self.attempts,
        };
        let Ok(mut bytes) = serde_json::to_vec(&written) else { return };
        bytes.push(b'\n');
        // Never waits: what does not fit in the queue is dropped and counted.
        let _ = log.clone().write_all(&bytes);
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        self.session.gateway.metrics.observe(self.status, took, self.bytes);
        if let Some(line) = &self.line {
            self.write(line, took);
        }
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
