//! From an address to a gRPC channel with a BuildKit.

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, StatusCode, header, http::uri::Authority, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tower::service_fn;

/// Longest time until a connection stands.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A peer whose machine has gone is noticed after about 10 + 3 x 5 s. HTTP/2's
/// own pings are not used: BuildKit's server closes on a client that pings
/// more often than every five minutes.
const TCP_KEEPALIVE: Duration = Duration::from_secs(10);
const TCP_KEEPALIVE_PAUSE: Duration = Duration::from_secs(5);
const TCP_KEEPALIVE_TRIES: u32 = 3;

/// Where a BuildKit listens, and in which way.
#[derive(Debug, Clone)]
pub enum Address {
    /// buildkitd on a socket of this machine.
    Unix(PathBuf),
    /// buildkitd on a port; without TLS only for a port of this machine.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
        /// How both sides prove who they are.
        tls: Option<Tls>,
    },
    /// The BuildKit inside a Docker engine, behind `POST /grpc`.
    Engine(EngineAddress),
}

/// Where a Docker engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineAddress {
    /// On a socket of this machine.
    Unix(PathBuf),
    /// On a port, `host:port`.
    Tcp(String),
}

/// Mutual TLS: what the server's certificate is checked against, and what this
/// client shows.
#[derive(Clone)]
pub struct Tls {
    /// The only roots that are trusted, PEM.
    pub ca: Vec<u8>,
    /// The client's certificate, PEM.
    pub cert: Vec<u8>,
    /// Its key, PEM.
    pub key: Vec<u8>,
    /// The name in the server's certificate.
    pub server_name: String,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) | Self::Engine(EngineAddress::Unix(path)) => {
                write!(f, "unix://{}", path.display())
            }
            Self::Tcp { host, port, .. } => write!(f, "tcp://{host}:{port}"),
            Self::Engine(EngineAddress::Tcp(address)) => write!(f, "tcp://{address}"),
        }
    }
}

impl Address {
    /// The parts of `tcp://HOST:PORT`; an IPv6 address stands in brackets.
    pub fn host_and_port(address: &str) -> Option<(String, u16)> {
        let authority: Authority = address.strip_prefix("tcp://")?.parse().ok()?;
        Some((authority.host().trim_matches(['[', ']']).to_owned(), authority.port_u16()?))
    }

    /// Connects. One channel serves one build: closing it ends the build.
    ///
    /// # Errors
    /// One sentence without any secret.
    pub async fn connect(&self) -> Result<Channel, String> {
        let connecting = async {
            match self {
                Self::Unix(path) => over(unix(path.clone())).await,
                Self::Engine(engine) => over(engine_connector(engine.clone())).await,
                Self::Tcp { host, port, tls } => tcp(host, *port, tls.as_ref()).await,
            }
        };
        match tokio::time::timeout(CONNECT_LIMIT, connecting).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => {
                Err(format!("BuildKit at {self} cannot be reached: {}", chain(&*error)))
            }
            Err(_) => Err(format!("BuildKit at {self} does not answer within 10 s")),
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn endpoint(url: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(url.to_owned())?
        .connect_timeout(CONNECT_LIMIT)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(TCP_KEEPALIVE))
        .tcp_keepalive_interval(Some(TCP_KEEPALIVE_PAUSE))
        .tcp_keepalive_retries(Some(TCP_KEEPALIVE_TRIES)))
}

async fn tcp(host: &str, port: u16, tls: Option<&Tls>) -> Result<Channel, Failure> {
    // An IPv6 address stands in brackets in a URL.
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let Some(tls) = tls else {
        return Ok(endpoint(&format!("http://{host}:{port}"))?.connect().await?);
    };
    let config = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&tls.ca))
        .identity(Identity::from_pem(&tls.cert, &tls.key))
        .domain_name(&tls.server_name);
    Ok(endpoint(&format!("https://{host}:{port}"))?.tls_config(config)?.connect().await?)
}

/// The connection is made by `connector`; the URL only names it.
async fn over<C, F, S>(connector: C) -> Result<Channel, Failure>
where
    C: Fn() -> F + Send + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let service = service_fn(move |_: Uri| connector());
    Ok(endpoint("http://buildkit")?.connect_with_connector(service).await?)
}

fn unix(
    path: PathBuf,
) -> impl Fn() -> futures::future::BoxFuture<'static, io::Result<TokioIo<UnixStream>>> {
    move || {
        let path = path.clone();
        Box::pin(async move { Ok(TokioIo::new(UnixStream::connect(path).await?)) })
    }
}

fn engine_connector(
    engine: EngineAddress,
) -> impl Fn() -> futures::future::BoxFuture<'static, io::Result<Upgraded>> {
    move || {
        let engine = engine.clone();
        Box::pin(async move {
            match engine {
                EngineAddress::Unix(path) => upgrade(UnixStream::connect(path).await?).await,
                EngineAddress::Tcp(address) => upgrade(TcpStream::connect(address).await?).await,
            }
        })
    }
}

/// The engine hands its BuildKit over to a connection that asks for it.
async fn upgrade(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> io::Result<Upgraded> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(connection.with_upgrades());
    let request = Request::post("/grpc")
        .header(header::HOST, "docker")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "h2c")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        return Err(io::Error::other(format!("the Docker engine has no BuildKit: {status}")));
    }
    hyper::upgrade::on(response).await.map_err(io::Error::other)
}

/// An error with its causes: tonic says only "transport error" by itself.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
