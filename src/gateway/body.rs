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

use super::{access::AccessRecord, clock, table::Route, upstream::Lease};

/// How an upload gets on, seen by the one who waits for its response.
pub(super) struct Upload {
    moved_at: AtomicU64,
    waits_for_client: AtomicBool,
    broken_by_client: AtomicBool,
}

impl Upload {
    /// Time since a byte moved or the end was reached.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(clock::now_ms().saturating_sub(self.moved_at.load(Relaxed)))
    }

    /// Whether it is the client that the upload waits for.
    pub fn waits_for_client(&self) -> bool {
        self.waits_for_client.load(Relaxed)
    }

    /// Whether the client sent something that is no body, or went away.
    pub fn broken_by_client(&self) -> bool {
        self.broken_by_client.load(Relaxed)
    }
}

/// A client's request body on its way to an instance.
pub(super) struct RequestBody {
    inner: Incoming,
    /// `None` for an empty body, which costs nothing.
    upload: Option<Arc<Upload>>,
}

impl RequestBody {
    pub fn new(inner: Incoming) -> Self {
        let upload = (!inner.is_end_stream()).then(|| {
            Arc::new(Upload {
                moved_at: AtomicU64::new(clock::now_ms()),
                waits_for_client: AtomicBool::new(false),
                broken_by_client: AtomicBool::new(false),
            })
        });
        Self { inner, upload }
    }

    pub fn upload(&self) -> Option<Arc<Upload>> {
        self.upload.clone()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Some(upload) = &self.upload {
            upload.waits_for_client.store(polled.is_pending(), Relaxed);
            if let Poll::Ready(frame) = &polled {
                upload.moved_at.store(clock::now_ms(), Relaxed);
                upload.broken_by_client.store(matches!(frame, Some(Err(_))), Relaxed);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
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
    record: Option<AccessRecord>,
}

enum Source {
    Page(Option<Bytes>),
    Stream(Stream),
}

struct Stream {
    inner: Incoming,
    route: Arc<Route>,
    lease: Option<Lease>,
    idle_limit: Duration,
    /// Made when the stream first has to wait; most responses never do.
    idle: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl ResponseBody {
    pub fn page(bytes: Bytes, record: Option<AccessRecord>) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Self { source: Source::Page(bytes), record }.noting_end()
    }

    pub fn stream(
        inner: Incoming,
        route: Arc<Route>,
        lease: Lease,
        idle_limit: Duration,
        record: Option<AccessRecord>,
    ) -> Self {
        let lease = Some(lease);
        let mut stream = Stream { inner, route, lease, idle_limit, idle: None, waiting: false };
        stream.release_at_end();
        Self { source: Source::Stream(stream), record }.noting_end()
    }

    fn noting_end(mut self) -> Self {
        self.note_end();
        self
    }

    fn note_end(&mut self) {
        if self.is_end_stream()
            && let Some(record) = &mut self.record
        {
            record.complete = true;
        }
    }
}

impl Stream {
    /// hyper may drop a body of known length without asking for its end, so
    /// the connection goes back as soon as the last frame was read.
    fn release_at_end(&mut self) {
        if self.inner.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.finish();
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
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
            Poll::Ready(Some(Ok(_))) => self.note_end(),
            Poll::Ready(None) => {
                if let Some(record) = &mut self.record {
                    record.complete = true;
                }
            }
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Page(bytes) => bytes.is_none(),
            Source::Stream(stream) => stream.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Page(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len()) as u64)
            }
            Source::Stream(stream) => stream.inner.size_hint(),
        }
    }
}
