//! A client's socket that ends when the client takes too little of what waits
//! for it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use prometheus::IntCounter;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

/// How much a client must take of a response within which time.
#[derive(Clone)]
pub(super) struct Patience {
    pub window: Duration,
    pub min_bytes: u64,
    /// Clients that were given up.
    pub cut: IntCounter,
}

pub(super) struct ClientIo {
    stream: TcpStream,
    patience: Patience,
    /// `None` while the socket takes everything at once.
    stall: Option<Stall>,
}

/// A time that began with a full socket.
struct Stall {
    end: Pin<Box<Sleep>>,
    taken: u64,
    /// Whether the socket is full at present.
    full: bool,
}

impl Stall {
    fn begin(&mut self, window: Duration) {
        self.end.as_mut().reset(Instant::now() + window);
        self.taken = 0;
    }
}

impl ClientIo {
    pub fn new(stream: TcpStream, patience: Patience) -> Self {
        Self { stream, patience, stall: None }
    }

    /// What the write gave, or an error once the client was too slow for a
    /// whole window.
    fn paced(
        &mut self,
        wrote: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = wrote {
            if let (Some(stall), Ok(taken)) = (&mut self.stall, &result) {
                stall.taken += *taken as u64;
                stall.full = false;
            }
            return Poll::Ready(result);
        }
        let Patience { window, min_bytes, cut } = &self.patience;
        let stall = self.stall.get_or_insert_with(|| Stall {
            end: Box::pin(sleep(*window)),
            taken: 0,
            full: true,
        });
        if !stall.full && stall.end.deadline() <= Instant::now() {
            // It took everything meanwhile: this is another time.
            stall.begin(*window);
        }
        stall.full = true;
        loop {
            ready!(stall.end.as_mut().poll(cx));
            if stall.taken < *min_bytes {
                cut.inc();
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            stall.begin(*window);
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.paced(wrote, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.paced(wrote, cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket keeps nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
