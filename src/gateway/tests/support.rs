//! Private parts for one test: instances, a control plane, a gateway.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use launchway_proto::gateway::v1::{
    Route, RouteState, RouteUpdate, WatchRoutesRequest,
    route_service_server::{RouteService, RouteServiceServer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Status, Streaming};

use crate::gateway::{GatewayConfig, serve};

/// No step of a test takes this long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub type Body = BoxBody<Bytes, hyper::Error>;

pub fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// An application. Stops serving when dropped, connections included.
pub struct Instance {
    pub address: SocketAddr,
    pub requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Instance {
    /// Answers every request with `name`.
    pub async fn named(name: &'static str) -> Self {
        Self::start(move |_| async move { Response::new(text(name)) }).await
    }

    /// Answers with what the request looked like from here.
    pub async fn mirror() -> Self {
        Self::start(|request: Request<Incoming>| async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let mut seen = format!("{} {} {:?}\n", parts.method, parts.uri, parts.version);
            for (name, value) in &parts.headers {
                seen.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
            }
            seen.push_str(&format!("\n{}", String::from_utf8_lossy(&body)));
            Response::new(text(seen))
        })
        .await
    }

    pub async fn start<H, F>(handler: H) -> Self
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (handler, counter) = (handler.clone(), Arc::clone(&counter));
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        counter.fetch_add(1, SeqCst);
                        let response = handler(request);
                        async move { Ok::<_, Infallible>(response.await) }
                    });
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection_with_upgrades(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, requests, task }
    }

    pub fn served(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

/// An address that refuses: bound once, then closed.
pub async fn closed_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

pub fn route(host: &str, addresses: &[SocketAddr]) -> Route {
    Route {
        host: host.to_owned(),
        deployment_id: format!("dep_{}", host.split('.').next().unwrap()),
        state: RouteState::Serving.into(),
        addresses: addresses.iter().map(SocketAddr::to_string).collect(),
        start_failed: false,
    }
}

pub fn retired(host: &str) -> Route {
    Route { state: RouteState::Retired.into(), ..route(host, &[]) }
}

pub fn evicted(host: &str) -> Route {
    Route { state: RouteState::Evicted.into(), ..route(host, &[]) }
}

pub fn snapshot(version: u64, routes: Vec<Route>) -> RouteUpdate {
    RouteUpdate { version, snapshot: true, routes, removed_hosts: vec![] }
}

pub fn change(version: u64, routes: Vec<Route>, removed: &[&str]) -> RouteUpdate {
    let removed_hosts = removed.iter().map(|&host| host.to_owned()).collect();
    RouteUpdate { version, snapshot: false, routes, removed_hosts }
}

type Updates = mpsc::Receiver<Result<RouteUpdate, Status>>;

/// A control plane of one feed: what the test publishes goes out, what the
/// gateway acknowledges comes back.
pub struct Control {
    pub address: SocketAddr,
    updates: mpsc::Sender<Result<RouteUpdate, Status>>,
    pub applied: watch::Receiver<u64>,
    reports: mpsc::UnboundedReceiver<WatchRoutesRequest>,
    /// The `authorization` of the last feed.
    pub bearer: Arc<std::sync::Mutex<Option<String>>>,
    server: JoinHandle<()>,
}

struct Feed {
    updates: tokio::sync::Mutex<Option<Updates>>,
    applied: Arc<watch::Sender<u64>>,
    reports: mpsc::UnboundedSender<WatchRoutesRequest>,
    bearer: Arc<std::sync::Mutex<Option<String>>>,
}

#[tonic::async_trait]
impl RouteService for Feed {
    type WatchRoutesStream = ReceiverStream<Result<RouteUpdate, Status>>;

    async fn watch_routes(
        &self,
        request: tonic::Request<Streaming<WatchRoutesRequest>>,
    ) -> Result<tonic::Response<Self::WatchRoutesStream>, Status> {
        let updates = self.updates.lock().await.take();
        let updates = updates.ok_or_else(|| Status::unavailable("one feed per test server"))?;
        let bearer =
            request.metadata().get("authorization").map(|v| v.to_str().unwrap().to_owned());
        *self.bearer.lock().unwrap() = bearer;
        let mut requests = request.into_inner();
        let (applied, reports) = (Arc::clone(&self.applied), self.reports.clone());
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                assert!(!request.gateway_id.is_empty() && request.reports_demand);
                applied.send_replace(request.applied_version);
                let _ = reports.send(request);
            }
        });
        Ok(tonic::Response::new(ReceiverStream::new(updates)))
    }
}

impl Control {
    pub async fn start() -> Self {
        Self::on("127.0.0.1:0".parse().unwrap()).await
    }

    /// On a given address, for a control plane that comes back.
    pub async fn on(address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(16).unwrap();
        let address = listener.local_addr().unwrap();
        let (updates, feed) = mpsc::channel(64);
        let (acknowledged, applied) = watch::channel(u64::MAX);
        let (reporting, reports) = mpsc::unbounded_channel();
        let bearer = Arc::default();
        let feed = Feed {
            updates: tokio::sync::Mutex::new(Some(feed)),
            applied: Arc::new(acknowledged),
            reports: reporting,
            bearer: Arc::clone(&bearer),
        };
        let server = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(RouteServiceServer::new(feed))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self { address, updates, applied, reports, bearer, server }
    }

    /// Publishes and waits until the gateway routes by it.
    pub async fn publish(&mut self, update: RouteUpdate) {
        let version = update.version;
        self.send(update).await;
        self.await_applied(version).await;
    }

    pub async fn send(&self, update: RouteUpdate) {
        self.updates.send(Ok(update)).await.unwrap();
    }

    /// Waits until the gateway has hung up.
    pub async fn closed(&self) {
        timeout(PATIENCE, self.updates.closed()).await.expect("the gateway hangs up in time");
    }

    pub async fn await_applied(&mut self, version: u64) {
        timeout(PATIENCE, self.applied.wait_for(|applied| *applied == version))
            .await
            .expect("the gateway acknowledges in time")
            .expect("the feed is open");
    }

    async fn report(&mut self) -> WatchRoutesRequest {
        let report = timeout(PATIENCE, self.reports.recv()).await;
        report.expect("the gateway reports in time").expect("the feed is open")
    }

    /// Waits until a request waits for the deployment.
    pub async fn wanted(&mut self, deployment_id: &str) {
        while !self.report().await.wanted_deployment_ids.iter().any(|id| id == deployment_id) {}
    }

    /// What the next report says of requests.
    pub async fn active(&mut self) -> Vec<String> {
        self.report().await.active_deployment_ids
    }

    /// Ends the process, as a kill would: the connections break.
    pub async fn stop(self) -> SocketAddr {
        self.server.abort();
        let _ = self.server.await;
        self.address
    }
}

/// A running gateway.
pub struct Running {
    pub address: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    pub async fn start(config: GatewayConfig) -> Self {
        let listener = config.listen().unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            serve(config, listener, stopped).await.unwrap();
        });
        Self { address, shutdown: Some(shutdown), task }
    }

    /// Asks it to stop; [`Running::stopped`] waits for the end of the drain.
    pub fn shut_down(&mut self) {
        drop(self.shutdown.take());
    }

    pub async fn stopped(mut self) {
        self.shut_down();
        timeout(PATIENCE, self.task).await.expect("drains in time").unwrap();
    }

    /// One request on its own connection; the response to its last byte.
    pub async fn get(&self, host: &str, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        split(&self.raw(request.as_bytes()).await)
    }

    /// Sends bytes as they are and reads until the gateway closes.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let mut answer = Vec::new();
        // The gateway may refuse before it has read everything.
        let both = async { tokio::join!(writer.write_all(bytes), reader.read_to_end(&mut answer)) };
        let _ = timeout(PATIENCE, both).await.expect("the gateway answers and closes in time");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Status and everything after the head.
pub fn split(response: &str) -> (u16, String) {
    let status = response.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {response:?}"));
    let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status.parse().unwrap(), body.to_owned())
}

pub fn config(control: SocketAddr, dir: &Path) -> GatewayConfig {
    GatewayConfig::new(
        "127.0.0.1:0".parse().unwrap(),
        format!("http://{control}"),
        dir.join("routes.json"),
    )
}

/// A gateway with its control plane and one snapshot of routes.
pub struct Setup {
    pub gateway: Running,
    pub control: Control,
    pub dir: tempfile::TempDir,
}

impl Setup {
    pub async fn new(routes: Vec<Route>) -> Self {
        Self::with(routes, |_| {}).await
    }

    pub async fn with(routes: Vec<Route>, adjust: impl FnOnce(&mut GatewayConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut control = Control::start().await;
        let mut config = config(control.address, dir.path());
        adjust(&mut config);
        let gateway = Running::start(config).await;
        control.publish(snapshot(1, routes)).await;
        Self { gateway, control, dir }
    }

    pub fn address(&self) -> SocketAddr {
        self.gateway.address
    }
}

/// An HTTP/1.1 client connection with streaming bodies.
pub async fn h1_client(address: SocketAddr) -> hyper::client::conn::http1::SendRequest<Body> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

/// An HTTP/2 client connection with prior knowledge.
pub async fn h2_client(address: SocketAddr) -> hyper::client::conn::http2::SendRequest<Body> {
    let stream = TcpStream::connect(address).await.unwrap();
    let io = TokioIo::new(stream);
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub async fn read(response: Response<Incoming>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = timeout(PATIENCE, response.into_body().collect()).await.unwrap().unwrap();
    (status, String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

/// A body the test writes frame by frame.
pub fn channel_body() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = futures::StreamExt::map(ReceiverStream::new(receiver), |bytes| {
        Ok::<_, hyper::Error>(hyper::body::Frame::data(bytes))
    });
    (sender, BodyExt::boxed(http_body_util::StreamBody::new(frames)))
}
