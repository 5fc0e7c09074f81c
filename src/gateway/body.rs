//! A request body that can be sent again as long as nobody has read of it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

struct State {
    body: Incoming,
    read: bool,
}

/// Handed to the client; its twin stays with the gateway, because the client
/// drops the body of a request it could not connect for.
#[derive(Clone)]
pub(super) struct RetryBody(Arc<Mutex<State>>);

impl RetryBody {
    pub(super) fn new(body: Incoming) -> Self {
        Self(Arc::new(Mutex::new(State { body, read: false })))
    }

    /// Nothing of it has gone anywhere.
    pub(super) fn is_untouched(&self) -> bool {
        !self.lock().read
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body for RetryBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut state = self.lock();
        state.read = true;
        Pin::new(&mut state.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().body.size_hint()
    }
}
