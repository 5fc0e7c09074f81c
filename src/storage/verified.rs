//! A body that ends well only when it is the announced one.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use sha2::{Digest, Sha256};

/// The hash is compared before the end is told: a writer that gives up on an
/// error keeps nothing.
pub(super) struct Verified {
    inner: Incoming,
    hash: Sha256,
    expected: Vec<u8>,
    differs: Arc<AtomicBool>,
}

impl Verified {
    /// `expected` is the SHA-256 as 32 bytes; `differs` is set when the body
    /// has ended with another one.
    pub(super) fn new(inner: Incoming, expected: Vec<u8>, differs: Arc<AtomicBool>) -> Self {
        Self { inner, hash: Sha256::new(), expected, differs }
    }
}

impl Body for Verified {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.hash.update(data);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(io::Error::other(error)))),
            None if self.hash.clone().finalize().as_slice() == self.expected => Poll::Ready(None),
            None => {
                self.differs.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(io::Error::other("the body is not the announced one"))))
            }
        }
    }

    // `is_end_stream` stays false until the end was seen: nobody may stop
    // reading before the hash was compared.

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
