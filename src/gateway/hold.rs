//! Holds back the beginning of a short answer until all of it is there: an instance
//! that is killed in the middle of one then costs nobody anything, since the request
//! can go on to another as long as nothing was passed on.

use std::{future::poll_fn, time::Duration};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Incoming, SizeHint};
use tokio::time::timeout;

use super::upstream::Lease;

/// Longer answers stream at once.
const SHORT: u64 = 64 * 1024;
/// One that comes slowly streams from then on.
const LONGEST: Duration = Duration::from_millis(100);

/// An answer's body: what was held back, and what still comes.
pub(super) struct Begun {
    pub held: Bytes,
    pub rest: Incoming,
}

impl Begun {
    /// Nothing is held back.
    pub fn streaming(rest: Incoming) -> Self {
        Self { held: Bytes::new(), rest }
    }

    /// Whether everything was taken.
    pub fn is_end(&self) -> bool {
        self.held.is_empty() && self.rest.is_end_stream()
    }

    /// Of all of it.
    pub fn size_hint(&self) -> SizeHint {
        let (held, rest) = (self.held.len() as u64, self.rest.size_hint());
        let mut all = SizeHint::new();
        all.set_lower(rest.lower() + held);
        if let Some(upper) = rest.upper() {
            all.set_upper(upper + held);
        }
        all
    }
}

/// Reads a body of a short known length, for a moment; others are left as they are.
///
/// # Errors
/// The instance broke off.
pub(super) async fn beginning(lease: &mut Lease, mut rest: Incoming) -> hyper::Result<Begun> {
    if rest.size_hint().upper().is_none_or(|length| length > SHORT) {
        return Ok(Begun::streaming(rest));
    }
    let mut held = Held::default();
    let reading = async {
        while !rest.is_end_stream() {
            let Some(frame) = poll_fn(|cx| lease.poll_frame(&mut rest, cx)).await else { break };
            // A body of known length has no trailers.
            if let Ok(bytes) = frame?.into_data() {
                held.push(bytes);
            }
        }
        Ok(())
    };
    match timeout(LONGEST, reading).await {
        Ok(Err(broken)) => Err(broken),
        Ok(Ok(())) | Err(_) => Ok(Begun { held: held.into_bytes(), rest }),
    }
}

/// Copies only what comes in several parts; most come in one.
#[derive(Default)]
struct Held {
    first: Bytes,
    all: BytesMut,
}

impl Held {
    fn push(&mut self, bytes: Bytes) {
        if self.first.is_empty() && self.all.is_empty() {
            self.first = bytes;
            return;
        }
        self.all.extend_from_slice(&std::mem::take(&mut self.first));
        self.all.extend_from_slice(&bytes);
    }

    fn into_bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}
