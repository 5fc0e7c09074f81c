//! One instance: its load, its health as requests see it, its connections.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::timeout};

use super::{
    body::{RequestBody, Upload},
    clock,
    config::GatewayConfig,
};

/// Unused connections kept to one instance; more are closed.
const MAX_IDLE: usize = 512;
/// An HTTP/2 instance that does not answer a ping within as long is gone.
const H2_PING: Duration = Duration::from_secs(10);

type H1 = http1::SendRequest<RequestBody>;
type H2 = http2::SendRequest<RequestBody>;

struct Idle {
    connection: H1,
    since: Instant,
}

/// The live state of one `host:port`.
pub(super) struct Upstream {
    address: String,
    in_flight: AtomicUsize,
    down_until: AtomicU64,
    /// Ordered by `since`, the latest last.
    idle: Mutex<Vec<Idle>>,
    /// HTTP/2 shares one connection; only gRPC asks for it.
    h2: Mutex<Option<H2>>,
}

/// What became of a request that got no response.
pub(super) enum Unanswered {
    /// Not one byte of it was written: another instance may have it.
    NotSent(Box<Request<RequestBody>>, io::Error),
    /// It was written, at least in part, and the connection broke.
    Broken(hyper::Error),
    /// The instance did not answer in time.
    Timeout,
    /// The client stopped sending its body.
    ClientStalled,
    /// The client's body is malformed or was broken off.
    ClientBroken,
}

enum Sent {
    Answer(Response<Incoming>),
    Unanswered(Unanswered),
    /// The connection was closed before the request reached it.
    Returned(Box<Request<RequestBody>>, hyper::Error),
}

impl Upstream {
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            in_flight: AtomicUsize::new(0),
            down_until: AtomicU64::new(0),
            idle: Mutex::default(),
            h2: Mutex::default(),
        }
    }

    /// `host:port`; for logs, never for clients.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    pub fn is_down(&self, now_ms: u64) -> bool {
        self.down_until.load(Relaxed) > now_ms
    }

    /// Puts the instance last for `cooldown`; true when it was not already.
    pub fn mark_down(&self, cooldown: Duration) -> bool {
        let now = clock::now_ms();
        self.down_until.swap(now + cooldown.as_millis() as u64, Relaxed) <= now
    }

    /// Counts a request as this instance's until the lease is dropped.
    pub fn lease(this: &Arc<Self>) -> Lease {
        this.in_flight.fetch_add(1, Relaxed);
        Lease { upstream: Arc::clone(this), connection: None }
    }

    /// Closes connections that were not used for `max_idle`.
    pub fn close_idle(&self, max_idle: Duration) {
        drop_expired(&mut lock(&self.idle), max_idle);
    }

    fn checkout(&self, max_idle: Duration) -> Option<H1> {
        let mut idle = lock(&self.idle);
        drop_expired(&mut idle, max_idle);
        // A connection that is not ready still writes the request of an early
        // response; it stays until it is ready or expires.
        let at = idle.iter().rposition(|entry| entry.connection.is_ready())?;
        Some(idle.remove(at).connection)
    }

    fn checkin(&self, connection: H1) {
        let mut idle = lock(&self.idle);
        if !connection.is_closed() && idle.len() < MAX_IDLE {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }

    async fn dial(&self, limit: Duration) -> io::Result<TokioIo<TcpStream>> {
        let stream = timeout(limit, TcpStream::connect(&self.address))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(stream))
    }

    async fn connect_h1(&self, limit: Duration) -> io::Result<H1> {
        let io = self.dial(limit).await?;
        let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
        // Its errors reach us through the request or the closed sender.
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    async fn connect_h2(&self, limit: Duration) -> io::Result<H2> {
        let io = self.dial(limit).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(H2_PING)
            .keep_alive_timeout(H2_PING)
            .adaptive_window(true)
            .handshake(io)
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        *lock(&self.h2) = Some(sender.clone());
        Ok(sender)
    }

    fn shared_h2(&self) -> Option<H2> {
        lock(&self.h2).as_ref().filter(|connection| !connection.is_closed()).cloned()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn drop_expired(idle: &mut Vec<Idle>, max_idle: Duration) {
    let expired = idle.partition_point(|entry| entry.since.elapsed() >= max_idle);
    idle.drain(..expired);
}

/// One request's share of an instance, and the connection it runs on.
pub(super) struct Lease {
    upstream: Arc<Upstream>,
    connection: Option<H1>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Lease {
    /// The response was read to its end: the connection may serve again.
    pub fn finish(mut self) {
        if let Some(connection) = self.connection.take() {
            self.upstream.checkin(connection);
        }
    }

    /// Sends over an unused connection, or a new one. A connection that turns
    /// out to be closed before the request was written costs one more try.
    pub async fn send_h1(
        &mut self,
        request: Request<RequestBody>,
        config: &GatewayConfig,
    ) -> Result<Response<Incoming>, Unanswered> {
        let mut request = request;
        if let Some(connection) = self.upstream.checkout(config.pool_idle) {
            match self.exchange_h1(connection, request, config).await {
                Sent::Answer(response) => return Ok(response),
                Sent::Unanswered(unanswered) => return Err(unanswered),
                Sent::Returned(unsent, _) => request = *unsent,
            }
        }
        match self.upstream.connect_h1(config.connect_timeout).await {
            Ok(connection) => settle(self.exchange_h1(connection, request, config).await),
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
                Sent::Answer(response) => return Ok(response),
                Sent::Unanswered(unanswered) => return Err(unanswered),
                Sent::Returned(unsent, _) => request = *unsent,
            }
        }
        match self.upstream.connect_h2(config.connect_timeout).await {
            Ok(connection) => settle(exchange_h2(connection, request, config).await),
            Err(error) => Err(Unanswered::NotSent(Box::new(request), error)),
        }
    }

    async fn exchange_h1(
        &mut self,
        mut connection: H1,
        request: Request<RequestBody>,
        config: &GatewayConfig,
    ) -> Sent {
        let upload = request.body().upload();
        let response = connection.try_send_request(request);
        let sent = answer(upload, response, config.response_timeout).await;
        self.connection = matches!(sent, Sent::Answer(_)).then_some(connection);
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
    answer(upload, response, config.response_timeout).await
}

fn settle(sent: Sent) -> Result<Response<Incoming>, Unanswered> {
    match sent {
        Sent::Answer(response) => Ok(response),
        Sent::Unanswered(unanswered) => Err(unanswered),
        Sent::Returned(request, error) => {
            Err(Unanswered::NotSent(request, io::Error::other(error)))
        }
    }
}

/// Waits for the response head: `limit` after the request was handed over, or
/// after the last time its body moved.
async fn answer<F>(upload: Option<Arc<Upload>>, response: F, limit: Duration) -> Sent
where
    F: Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>>,
{
    tokio::pin!(response);
    let mut wait = limit;
    loop {
        match timeout(wait, &mut response).await {
            Ok(Ok(response)) => return Sent::Answer(response),
            Ok(Err(mut failed)) => {
                return match failed.take_message() {
                    Some(request) => Sent::Returned(Box::new(request), failed.into_error()),
                    None if upload.is_some_and(|upload| upload.broken_by_client()) => {
                        Sent::Unanswered(Unanswered::ClientBroken)
                    }
                    None => Sent::Unanswered(Unanswered::Broken(failed.into_error())),
                };
            }
            Err(_) => {}
        }
        let idle = upload.as_ref().map_or(limit, |upload| upload.idle());
        if idle >= limit {
            let stalled = upload.is_some_and(|upload| upload.waits_for_client());
            return Sent::Unanswered(match stalled {
                true => Unanswered::ClientStalled,
                false => Unanswered::Timeout,
            });
        }
        wait = limit - idle;
    }
}
