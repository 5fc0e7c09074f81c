//! Sending one request to one instance, and waiting for its answer.

use std::{
    io,
    time::{Duration, Instant},
};

use hyper::{Request, Response, body::Incoming, client::conn::TrySendError};
use tokio::time::timeout;

use super::{
    body::{RequestBody, Upload},
    config::GatewayConfig,
    connection::Connection,
    upstream::{H2, Lease},
};

/// What became of a request that got no response.
pub(super) enum Unanswered {
    /// Not one byte of it was written: another instance may have it.
    NotSent(Box<Request<RequestBody>>, io::Error),
    /// It was written, at least in part, and the connection broke before the
    /// response began.
    Broken {
        error: hyper::Error,
        /// The connection had served other requests.
        reused: bool,
    },
    /// The response began, and broke off before anything of it was passed on.
    Cut(hyper::Error),
    /// The instance did not answer in time.
    Timeout,
    /// The client's own body is why.
    Client(ClientFault),
}

/// What is wrong with a client's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientFault {
    /// Nothing of it came any more, or too little.
    Stalled,
    /// It is malformed or was broken off.
    Malformed,
    /// It is larger than is allowed.
    TooLarge,
}

enum Sent {
    Answer(Response<Incoming>),
    Unanswered(Unanswered),
    /// It was written, and the connection broke.
    Broken(hyper::Error),
    /// The connection was closed before the request reached it.
    Returned(Box<Request<RequestBody>>, hyper::Error),
}

impl Lease {
    /// Sends over an unused connection, or a new one. A connection that turns
    /// out to be closed before the request was written costs one more try.
    pub async fn send_h1(
        &mut self,
        request: Request<RequestBody>,
        config: &GatewayConfig,
    ) -> Result<Response<Incoming>, Unanswered> {
        let mut request = request;
        if let Some(connection) = self.checkout(config.pool_idle) {
            match self.exchange_h1(connection, request, config).await {
                Sent::Returned(unsent, _) => request = *unsent,
                sent => return settle(sent, true),
            }
        }
        match self.upstream.connect_h1(config.connect_timeout).await {
            Ok(connection) => settle(self.exchange_h1(connection, request, config).await, false),
            Err(error) => Err(Unanswered::NotSent(Box::new(request), error)),
        }
    }

    /// As [`Lease::send_h1`] over the shared HTTP/2 connection, for gRPC.
    pub async fn send_h2(
        &mut self,
        request: Request<RequestBody>,
        config: &GatewayConfig,
    ) -> Result<Response<Incoming>, Unanswered> {
        let mut request = request;
        if let Some(connection) = self.upstream.shared_h2() {
            match exchange_h2(connection, request, config).await {
                Sent::Returned(unsent, _) => request = *unsent,
                sent => return settle(sent, true),
            }
        }
        match self.upstream.connect_h2(config.connect_timeout).await {
            Ok(connection) => settle(exchange_h2(connection, request, config).await, false),
            Err(error) => Err(Unanswered::NotSent(Box::new(request), error)),
        }
    }

    async fn exchange_h1(
        &mut self,
        mut connection: Connection,
        request: Request<RequestBody>,
        config: &GatewayConfig,
    ) -> Sent {
        let upload = request.body().upload();
        let pace = upload.as_deref().map(|upload| Pace::new(upload, config));
        let response = connection.send(request);
        let sent = answer(upload.as_deref(), pace, response, config.response_timeout).await;
        if matches!(sent, Sent::Answer(_)) {
            if upload.is_some_and(|upload| !upload.has_ended()) {
                connection.detach();
            }
            self.connection = Some(connection);
        }
        sent
    }
}

async fn exchange_h2(
    mut connection: H2,
    request: Request<RequestBody>,
    config: &GatewayConfig,
) -> Sent {
    let upload = request.body().upload();
    let response = connection.try_send_request(request);
    // A stream of messages has no pace of its own.
    answer(upload.as_deref(), None, response, config.response_timeout).await
}

fn settle(sent: Sent, reused: bool) -> Result<Response<Incoming>, Unanswered> {
    match sent {
        Sent::Broken(error) => Err(Unanswered::Broken { error, reused }),
        Sent::Answer(response) => Ok(response),
        Sent::Unanswered(unanswered) => Err(unanswered),
        Sent::Returned(request, error) => {
            Err(Unanswered::NotSent(request, io::Error::other(error)))
        }
    }
}

/// Waits for the response's head: the response timeout after the request was
/// handed over, or after the last time its body moved.
async fn answer<F>(
    upload: Option<&Upload>,
    mut pace: Option<Pace<'_>>,
    response: F,
    limit: Duration,
) -> Sent
where
    F: Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>>,
{
    tokio::pin!(response);
    let mut idle = Duration::ZERO;
    loop {
        let window = pace.as_ref().map_or(Duration::MAX, Pace::remaining);
        match timeout((limit - idle).min(window), &mut response).await {
            Ok(Ok(response)) => return Sent::Answer(response),
            Ok(Err(mut failed)) => {
                return match (failed.take_message(), upload.and_then(Upload::fault)) {
                    (Some(request), _) => Sent::Returned(Box::new(request), failed.into_error()),
                    (None, Some(fault)) => Sent::Unanswered(Unanswered::Client(fault)),
                    (None, None) => Sent::Broken(failed.into_error()),
                };
            }
            Err(_) => {}
        }
        idle = upload.map_or(limit, Upload::idle);
        let slow = pace.as_mut().is_some_and(Pace::is_too_slow);
        if slow || idle >= limit {
            let clients = slow || upload.is_some_and(Upload::waits_for_client);
            return Sent::Unanswered(match clients {
                true => Unanswered::Client(ClientFault::Stalled),
                false => Unanswered::Timeout,
            });
        }
    }
}

/// Whether a client sends its body too slowly for too long.
struct Pace<'a> {
    upload: &'a Upload,
    window: Duration,
    least: u64,
    since: Instant,
    before: u64,
}

impl<'a> Pace<'a> {
    fn new(upload: &'a Upload, config: &GatewayConfig) -> Self {
        let (window, least) = (config.client_window, config.client_min_bytes);
        Self { upload, window, least, since: Instant::now(), before: 0 }
    }

    fn remaining(&self) -> Duration {
        self.window.saturating_sub(self.since.elapsed())
    }

    /// Looks at a window that has passed, and begins the next.
    fn is_too_slow(&mut self) -> bool {
        if !self.remaining().is_zero() {
            return false;
        }
        let bytes = self.upload.bytes();
        let slow = self.upload.waits_for_client() && bytes - self.before < self.least;
        (self.since, self.before) = (Instant::now(), bytes);
        slow
    }
}
