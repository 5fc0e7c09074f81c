//! One instance: its load, its health as requests see it, its connections.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    body::{Body, Frame, Incoming},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::timeout};

use super::{body::RequestBody, clock, connection::Connection};

/// Unused connections that one worker keeps to one instance; more are closed.
const MAX_IDLE: usize = 512;
/// An HTTP/2 instance that does not answer a ping within as long is gone.
const H2_PING: Duration = Duration::from_secs(10);
/// The cooldown doubles with each failure in a row, this many times at most.
const MAX_DOUBLINGS: u32 = 4;
/// How long the one request that tries a failed instance again has for it.
const PROBE_MS: u64 = 2_000;

pub(super) type H2 = http2::SendRequest<RequestBody>;

struct Idle {
    connection: Connection,
    since: u64,
}

/// The live state of one `host:port`.
pub(super) struct Upstream {
    address: String,
    in_flight: AtomicUsize,
    /// Failures in a row; 0 is healthy.
    failures: AtomicU32,
    /// While there are failures: when the next request may try it, in
    /// [`clock`]'s time.
    retry_at: AtomicU64,
    /// Of each worker, since a connection's events arrive where it was opened.
    /// Ordered by `since`, the latest last.
    idle: Vec<Mutex<Vec<Idle>>>,
    /// HTTP/2 shares one connection; only gRPC asks for it.
    h2: Mutex<Option<H2>>,
}

impl Upstream {
    pub fn new(address: &str, workers: usize) -> Self {
        Self {
            address: address.to_owned(),
            in_flight: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            retry_at: AtomicU64::new(0),
            idle: (0..workers).map(|_| Mutex::default()).collect(),
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

    /// Whether it failed and its time to be tried again has not come.
    pub fn is_down(&self, now_ms: u64) -> bool {
        self.failures.load(Acquire) > 0 && self.retry_at.load(Relaxed) > now_ms
    }

    /// Puts the instance last, for longer each time; true when it was healthy.
    pub fn failed(&self, cooldown: Duration) -> bool {
        let before = self.failures.fetch_add(1, AcqRel);
        let wait = cooldown * (1 << before.min(MAX_DOUBLINGS));
        self.retry_at.store(clock::now_ms() + wait.as_millis() as u64, Relaxed);
        before == 0
    }

    /// It answered.
    pub fn answered(&self) {
        if self.failures.load(Relaxed) > 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Counts a request as this instance's until the lease is dropped. Of an
    /// instance that failed, the first one is the trial: others stay away
    /// until it is known how it went.
    pub fn lease(this: &Arc<Self>, worker: usize) -> Lease {
        this.in_flight.fetch_add(1, Relaxed);
        if this.failures.load(Acquire) > 0 {
            this.retry_at.fetch_max(clock::now_ms() + PROBE_MS, Relaxed);
        }
        Lease { upstream: Arc::clone(this), worker, connection: None }
    }

    /// Closes connections that were not used for `max_idle`.
    pub fn close_idle(&self, max_idle: Duration) {
        let now = clock::now_ms();
        for idle in &self.idle {
            // Closed outside the lock, which requests take.
            drop(take_expired(&mut lock(idle), max_idle, now));
        }
    }

    async fn dial(&self, limit: Duration) -> io::Result<TcpStream> {
        let stream = timeout(limit, TcpStream::connect(&self.address))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    pub async fn connect_h1(&self, limit: Duration) -> io::Result<Connection> {
        Connection::open(self.dial(limit).await?).await
    }

    pub async fn connect_h2(&self, limit: Duration) -> io::Result<H2> {
        let io = TokioIo::new(self.dial(limit).await?);
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

    pub fn shared_h2(&self) -> Option<H2> {
        lock(&self.h2).as_ref().filter(|connection| !connection.is_closed()).cloned()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take_expired(idle: &mut Vec<Idle>, max_idle: Duration, now: u64) -> Vec<Idle> {
    let oldest = now.saturating_sub(max_idle.as_millis() as u64);
    match idle.first() {
        Some(first) if first.since <= oldest => {
            let expired = idle.partition_point(|entry| entry.since <= oldest);
            idle.drain(..expired).collect()
        }
        _ => Vec::new(),
    }
}

/// One request's share of an instance, and the connection it runs on.
pub(super) struct Lease {
    pub upstream: Arc<Upstream>,
    worker: usize,
    pub connection: Option<Connection>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Lease {
    /// The latest unused connection that is still open.
    pub fn checkout(&self, max_idle: Duration) -> Option<Connection> {
        loop {
            let mut idle = lock(&self.upstream.idle[self.worker]);
            let Idle { mut connection, since } = idle.pop()?;
            drop(idle);
            let young = clock::now_ms().saturating_sub(since) < max_idle.as_millis() as u64;
            if young && connection.is_ready() {
                return Some(connection);
            }
        }
    }

    /// The next frame of the response's body.
    pub fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match &mut self.connection {
            Some(connection) => connection.poll_frame(body, cx),
            None => Pin::new(body).poll_frame(cx),
        }
    }

    /// The response was read to its end: the connection may serve again.
    pub fn finish(mut self) {
        if let Some(mut connection) = self.connection.take()
            && connection.is_ready()
        {
            let mut idle = lock(&self.upstream.idle[self.worker]);
            if idle.len() < MAX_IDLE {
                idle.push(Idle { connection, since: clock::now_ms() });
            }
        }
    }
}
