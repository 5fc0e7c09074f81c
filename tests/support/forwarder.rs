//! Makes the BuildKit inside a Docker engine what a buildkitd behind mutual TLS
//! is: a port that lets clients with the right certificate in.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

use launchway::builder::{Address, Tls};

const SERVER_NAME: &str = "buildkit.test";
const UPGRADE: &[u8] =
    b"POST /grpc HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";

/// A running forwarder, and certificates for its clients.
pub struct Forwarder {
    pub address: SocketAddr,
    authority: Authority,
    generation: watch::Sender<u64>,
}

impl Forwarder {
    /// In front of the engine at `socket`.
    pub async fn start(socket: &Path) -> Self {
        let authority = Authority::new();
        let acceptor = TlsAcceptor::from(Arc::new(authority.server_config()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (generation, dropped) = watch::channel(0);
        tokio::spawn(accept(listener, acceptor, socket.to_owned(), dropped));
        Self { address, authority, generation }
    }

    /// With a certificate that is let in.
    pub fn client(&self) -> Address {
        self.with(self.authority.client())
    }

    /// With a certificate of somebody else's authority.
    pub fn stranger(&self) -> Address {
        let stranger = Authority::new();
        let tls = stranger.client();
        self.with(Tls { ca: self.authority.ca.pem().into_bytes(), ..tls })
    }

    /// With TLS, but without a certificate; and without TLS.
    pub fn bare(&self) -> Address {
        let (host, port) = (self.address.ip().to_string(), self.address.port());
        Address::Tcp { host, port, tls: None }
    }

    /// A client of its own key, which trusts another authority.
    pub fn distrusting(&self) -> Address {
        let ca = Authority::new().ca.pem().into_bytes();
        self.with(Tls { ca, ..self.authority.client() })
    }

    /// Cuts every connection that stands.
    pub fn cut(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    fn with(&self, tls: Tls) -> Address {
        let (host, port) = (self.address.ip().to_string(), self.address.port());
        Address::Tcp { host, port, tls: Some(tls) }
    }
}

/// The same without TLS on a socket, as a buildkitd of this machine has it.
pub fn forward_socket(path: &Path, engine: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    let engine = engine.to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let engine = engine.clone();
            tokio::spawn(async move { splice(client, &engine).await });
        }
    });
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    socket: PathBuf,
    generation: watch::Receiver<u64>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, socket, mut generation) =
            (acceptor.clone(), socket.clone(), generation.clone());
        generation.mark_unchanged();
        tokio::spawn(async move {
            tokio::select! {
                // A client that is refused is what some tests want.
                _ = forward(stream, acceptor, &socket) => {}
                _ = generation.changed() => {}
            }
        });
    }
}

async fn forward(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    socket: &Path,
) -> std::io::Result<(u64, u64)> {
    splice(acceptor.accept(stream).await?, socket).await
}

async fn splice(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    socket: &Path,
) -> std::io::Result<(u64, u64)> {
    let mut engine = UnixStream::connect(socket).await?;
    engine.write_all(UPGRADE).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(engine.read_u8().await?);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    copy_bidirectional(&mut client, &mut engine).await
}

struct Authority {
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { ca: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.ca).unwrap(), key)
    }

    fn client(&self) -> Tls {
        let (cert, key) = self.issue("launchway.test");
        Tls {
            ca: self.ca.pem().into_bytes(),
            cert: cert.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
            server_name: SERVER_NAME.to_owned(),
        }
    }

    fn server_config(&self) -> ServerConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .unwrap();
        let (cert, key) = self.issue(SERVER_NAME);
        let chain: Vec<CertificateDer<'static>> = vec![cert.der().clone()];
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}
