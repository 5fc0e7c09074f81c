//! Upgraded connections (WebSocket and the like): bytes both ways, until one
//! side ends, nothing moves for too long, or the gateway has drained.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

use super::{access::AccessRecord, connection::Connection, upstream::Lease};

/// Joins the two ends once both have switched. The lease keeps the instance's
/// load for as long as the tunnel lives.
pub(super) async fn join(
    client: OnUpgrade,
    instance: OnUpgrade,
    idle_limit: Duration,
    mut lease: Lease,
    mut record: AccessRecord,
) {
    if let Some(driver) = lease.connection.take().and_then(Connection::into_driver) {
        // Ends as soon as it has handed out its stream.
        let _ = driver.await;
    }
    let Ok((client, instance)) = tokio::try_join!(client, instance) else { return };
    let moved = Arc::new(AtomicU64::new(0));
    let mut client = Counted { io: TokioIo::new(client), moved: Arc::clone(&moved) };
    let mut instance = TokioIo::new(instance);
    tokio::select! {
        copied = copy_bidirectional(&mut client, &mut instance) => {
            if let Ok((_, from_instance)) = copied {
                record.bytes = from_instance;
                record.complete = true;
            }
        }
        () = silence(&moved, idle_limit) => {}
    }
}

/// Ends when nothing was counted between two looks.
async fn silence(moved: &AtomicU64, limit: Duration) {
    let mut seen = moved.load(Relaxed);
    loop {
        tokio::time::sleep(limit).await;
        let now = moved.load(Relaxed);
        if now == seen {
            return;
        }
        seen = now;
    }
}

/// Counts reads and writes; every byte of the tunnel passes here once.
struct Counted {
    io: TokioIo<Upgraded>,
    moved: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.moved.fetch_add(u64::from(polled.is_ready()), Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.moved.fetch_add(u64::from(polled.is_ready()), Relaxed);
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
