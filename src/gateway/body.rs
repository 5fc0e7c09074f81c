//! Bodies that stream through and know when they move and when they end.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::{
    access::AccessRecord, clock, hold::Begun, send::ClientFault, table::Route, upstream::Lease,
};

/// How an upload gets on, seen by the one who waits for its response.
pub(super) struct Upload {
    moved_at: AtomicU64,
    bytes: AtomicU64,
    waits_for_client: AtomicBool,
    ended: AtomicBool,
    malformed: AtomicBool,
    too_large: AtomicBool,
}

impl Upload {
    fn new() -> Self {
        Self {
            moved_at: AtomicU64::new(clock::now_ms()),
            bytes: AtomicU64::new(0),
            waits_for_client: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            malformed: AtomicBool::new(false),
            too_large: AtomicBool::new(false),
        }
    }

    /// Time since a byte moved or the end was reached.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(clock::now_ms().saturating_sub(self.moved_at.load(Relaxed)))
    }

    /// Bytes of the body so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Whether it is the client that the upload waits for.
    pub fn waits_for_client(&self) -> bool {
        self.waits_for_client.load(Relaxed)
    }

    /// Whether the instance was given all of it.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    /// What is wrong with what the client has sent.
    pub fn fault(&self) -> Option<ClientFault> {
        match (self.too_large.load(Relaxed), self.malformed.load(Relaxed)) {
            (true, _) => Some(ClientFault::TooLarge),
            (false, true) => Some(ClientFault::Malformed),
            (false, false) => None,
        }
    }
}

/// Why an upload broke off. The instance sees a broken transfer.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error("the client broke off its request: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the request body is larger than {0} bytes")]
    TooLarge(u64),
}

/// A client's request body on its way to an instance.
pub(super) struct RequestBody(Option<Uploading>);

struct Uploading {
    inner: Incoming,
    upload: Arc<Upload>,
    max_bytes: u64,
}

impl RequestBody {
    /// Breaks off after `max_bytes`.
    pub fn new(inner: Incoming, max_bytes: u64) -> Self {
        // An empty body costs nothing.
        let any = !inner.is_end_stream();
        Self(any.then(|| Uploading { inner, upload: Arc::new(Upload::new()), max_bytes }))
    }

    pub fn empty() -> Self {
        Self(None)
    }

    /// `None` for an empty body.
    pub fn upload(&self) -> Option<Arc<Upload>> {
        self.0.as_ref().map(|uploading| Arc::clone(&uploading.upload))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Some(Uploading { inner, upload, max_bytes }) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(&mut *inner).poll_frame(cx);
        upload.waits_for_client.store(polled.is_pending(), Relaxed);
        let frame = ready!(polled);
        upload.moved_at.store(clock::now_ms(), Relaxed);
        upload.ended.store(frame.is_none() || inner.is_end_stream(), Relaxed);
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                let before = upload.bytes.fetch_add(length, Relaxed);
                if before + length > *max_bytes {
                    upload.too_large.store(true, Relaxed);
                    Some(Err(UploadError::TooLarge(*max_bytes)))
                } else {
                    Some(Ok(frame))
                }
            }
            Some(Err(error)) => {
                upload.malformed.store(true, Relaxed);
                Some(Err(error.into()))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|uploading| uploading.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |uploading| uploading.inner.size_hint())
    }
}

/// Why a response body ended early. The client sees a broken transfer.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the instance broke off its response: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the instance sent nothing for {0:?}")]
    Idle(Duration),
}

/// What the gateway sends to clients: an instance's stream or its own page.
/// It carries the access record, which is written when the body is dropped.
pub(super) struct ResponseBody {
    source: Source,
    /// `None` when something else carries it.
    record: Option<AccessRecord>,
}

enum Source {
    Page(Option<Bytes>),
    Stream(Stream),
}

struct Stream {
    body: Begun,
    route: Arc<Route>,
    lease: Option<Lease>,
    idle_limit: Duration,
    /// Made when the stream first has to wait; most responses never do.
    idle: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl ResponseBody {
    pub fn page(bytes: Bytes, record: AccessRecord) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Self { source: Source::Page(bytes), record: Some(record) }.noting_end()
    }

    /// Nothing: what follows the head is a tunnel, which has the record.
    pub fn switching() -> Self {
        Self { source: Source::Page(None), record: None }
    }

    pub fn stream(
        body: Begun,
        route: Arc<Route>,
        lease: Lease,
        idle_limit: Duration,
        record: AccessRecord,
    ) -> Self {
        let lease = Some(lease);
        let mut stream = Stream { body, route, lease, idle_limit, idle: None, waiting: false };
        stream.release_at_end();
        Self { source: Source::Stream(stream), record: Some(record) }.noting_end()
    }

    fn noting_end(mut self) -> Self {
        self.note(0, self.is_end_stream());
        self
    }

    fn note(&mut self, bytes: usize, is_end: bool) {
        if let Some(record) = &mut self.record {
            record.bytes += bytes as u64;
            record.complete |= is_end;
        }
    }
}

impl Stream {
    /// hyper may drop a body of known length without asking for its end, so
    /// the connection goes back as soon as the last frame was read.
    fn release_at_end(&mut self) {
        if self.body.rest.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.finish();
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        if !self.body.held.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.body.held)))));
        }
        match &mut self.lease {
            Some(lease) => lease.poll_frame(&mut self.body.rest, cx),
            None => Pin::new(&mut self.body.rest).poll_frame(cx),
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.read(cx) {
            Poll::Ready(frame) => {
                self.waiting = false;
                if frame.is_none()
                    && let Some(lease) = self.lease.take()
                {
                    lease.finish();
                }
                self.release_at_end();
                Poll::Ready(frame.map(|frame| frame.map_err(|error| self.broken(error.into()))))
            }
            Poll::Pending => {
                let limit = self.idle_limit;
                let timer = self.idle.get_or_insert_with(|| Box::pin(sleep(limit)));
                if !self.waiting {
                    timer.as_mut().reset(Instant::now() + limit);
                    self.waiting = true;
                }
                ready!(timer.as_mut().poll(cx));
                Poll::Ready(Some(Err(self.broken(BodyError::Idle(limit)))))
            }
        }
    }

    /// The status is long sent: a log line is all that can tell.
    fn broken(&self, error: BodyError) -> BodyError {
        let spec = &self.route.spec;
        tracing::warn!(deployment_id = %spec.deployment_id, host = %spec.host, %error, "response broken off");
        error
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = match &mut self.source {
            Source::Page(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Stream(stream) => stream.poll_frame(cx),
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                let is_end = self.is_end_stream();
                self.note(bytes, is_end);
            }
            Poll::Ready(None) => self.note(0, true),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Page(bytes) => bytes.is_none(),
            Source::Stream(stream) => stream.body.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Page(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len()) as u64)
            }
            Source::Stream(stream) => stream.body.size_hint(),
        }
    }
}
