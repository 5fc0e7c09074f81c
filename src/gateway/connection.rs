//! One HTTP/1.1 connection to an instance, driven by the request that uses it.
//!
//! hyper wants its connections in tasks of their own. Then each request crosses
//! between two tasks several times; driven from the request's own task it never
//! does (docs/adr/0010-the-gateways-threads.md).

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use hyper::{
    Request, Response,
    body::{Body, Bytes, Frame, Incoming},
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::unconstrained};

use super::body::RequestBody;

/// Largest response head, and what is read at once of a body; in bytes.
const BUFFER: usize = 64 * 1024;

/// hyper's side of the connection: ends with it, or once it was upgraded.
pub(super) type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

pub(super) struct Connection {
    sender: http1::SendRequest<RequestBody>,
    /// `None` when it has ended, or drives itself in a task.
    driver: Option<Driver>,
}

impl Connection {
    pub async fn open(stream: TcpStream) -> io::Result<Self> {
        let handshake = http1::Builder::new().max_buf_size(BUFFER).handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(io::Error::other)?;
        Ok(Self { sender, driver: Some(Box::pin(connection.with_upgrades())) })
    }

    /// Reads and writes what is there to read and write.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(cx).is_ready()
        {
            // What waits for it is told by the drop.
            self.driver = None;
        }
    }

    /// Whether it can take a request. Sees that the instance has closed it.
    pub fn is_ready(&mut self) -> bool {
        let Some(driver) = &mut self.driver else { return false };
        // Not for want of the task's budget: that would pass for a busy one.
        let mut driving = unconstrained(driver);
        let polled = Pin::new(&mut driving).poll(&mut Context::from_waker(Waker::noop()));
        polled.is_pending() && self.sender.is_ready()
    }

    /// The response's head. A failure holds the request when not one byte of
    /// it was written.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        // A spent budget would wake us through a waker that nobody hears, below.
        let mut response = pin!(unconstrained(self.sender.try_send_request(request)));
        let driver = &mut self.driver;
        std::future::poll_fn(|cx| {
            let Some(driving) = driver else { return response.as_mut().poll(cx) };
            if driving.as_mut().poll(cx).is_ready() {
                *driver = None;
            }
            // Only the driver above can complete it: it need not wake us.
            response.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        })
        .await
    }

    /// The next frame of the response's body.
    pub fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        if self.driver.is_none() {
            return Pin::new(body).poll_frame(cx);
        }
        // Asks for a frame, which the driver then reads.
        let mut unheard = Context::from_waker(Waker::noop());
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(&mut unheard) {
            return Poll::Ready(frame);
        }
        self.drive(cx);
        Pin::new(body).poll_frame(&mut unheard)
    }

    /// Lets it go on in a task: the upload of a response that came early must
    /// not wait for whoever reads the response.
    pub fn detach(&mut self) {
        if let Some(driver) = self.driver.take() {
            // Its errors reach us through the response's body.
            tokio::spawn(driver);
        }
    }

    /// What an upgraded connection needs before its stream is handed out.
    pub fn into_driver(self) -> Option<Driver> {
        self.driver
    }
}
