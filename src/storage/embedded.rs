//! An S3 in this process, on a directory: what `up` uses on one machine.

use std::{future::Future, io, net::SocketAddr, path::PathBuf, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
};
use s3s::{auth::SimpleAuth, host::SingleDomain, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

use super::guard::Guard;

/// Longest wait for open requests when it stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Where and for whom.
#[derive(Clone)]
pub struct EmbeddedSettings {
    /// Where it listens.
    pub bind: SocketAddr,
    /// Where objects are kept.
    pub dir: PathBuf,
    /// The only credentials.
    pub access_key_id: String,
    /// Their secret half.
    pub secret_access_key: String,
    /// Larger uploads are refused.
    pub max_object_bytes: u64,
}

/// It cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The address is taken or not ours.
    #[error("storage.bind {bind} cannot be used: {source}")]
    Bind {
        /// The address.
        bind: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The directory cannot be used.
    #[error("the object store's directory {dir} cannot be used: {reason}")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A bound server that [`EmbeddedS3::serve`] runs.
pub struct EmbeddedS3 {
    listener: TcpListener,
    service: Guard,
}

impl EmbeddedS3 {
    /// Binds the address and opens the directory (0700).
    ///
    /// # Errors
    /// [`EmbeddedError`], each with the address or directory.
    pub async fn bind(settings: &EmbeddedSettings) -> Result<Self, EmbeddedError> {
        let directory =
            |reason: String| EmbeddedError::Directory { dir: settings.dir.clone(), reason };
        create_private(&settings.dir).map_err(|error| directory(error.to_string()))?;
        let files =
            FileSystem::new(&settings.dir).map_err(|error| directory(format!("{error:?}")))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(
            settings.access_key_id.clone(),
            settings.secret_access_key.clone(),
        ));
        if let Ok(host) = SingleDomain::new(&settings.bind.to_string()) {
            builder.set_host(host);
        }
        let listener = TcpListener::bind(settings.bind)
            .await
            .map_err(|source| EmbeddedError::Bind { bind: settings.bind, source })?;
        Ok(Self { listener, service: Guard::new(builder.build(), settings.max_object_bytes) })
    }

    /// The address, with its port when 0 was asked for.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`, then lets open requests end.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let server = auto::Builder::new(TokioExecutor::new());
        let graceful = GracefulShutdown::new();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let connection = server
                            .serve_connection(TokioIo::new(stream), self.service.clone())
                            .into_owned();
                        let connection = graceful.watch(connection);
                        tokio::spawn(async move {
                            if let Err(error) = connection.await {
                                tracing::debug!(%error, "a connection to the object store broke");
                            }
                        });
                    }
                    Err(error) => tracing::warn!(%error, "the object store cannot accept"),
                },
                () = &mut stop => break,
            }
        }
        let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    }
}

fn create_private(dir: &std::path::Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}
