//! The two ends of a command in a container.

use std::{io, pin::Pin, time::Duration};

use bollard::{
    Docker,
    container::LogOutput,
    exec::{StartExecOptions, StartExecResults},
};
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use http_body_util::Full;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use launchway_proto::krane::v1::exec_output::Output;
use tokio::{io::AsyncWrite, net::UnixStream};
use tokio_util::io::ReaderStream;

use super::failed;
use crate::krane::backend::{BackendError, Feed};

/// Where the engine listens when nobody says where.
const SOCKET: &str = "/var/run/docker.sock";
/// Longest wait for the engine to start it.
const START: Duration = Duration::from_secs(20);

/// What it prints, and where its input goes.
pub(super) struct Attached {
    pub(super) output: Feed<Output>,
    pub(super) input: Pin<Box<dyn AsyncWrite + Send>>,
}

/// Starts the command that was made before.
pub(super) async fn start(
    docker: &Docker,
    exec: &str,
    tty: bool,
    size: Option<(u16, u16)>,
) -> Result<Attached, BackendError> {
    match socket().filter(|_| tty) {
        // A terminal's bytes have no frames, and bollard looks for them: a byte
        // that could begin one would hold up all that follow.
        Some(socket) => tokio::time::timeout(START, terminal(&socket, exec, size))
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
            .map_err(|error| {
                BackendError::Unavailable(format!("attaching to a terminal: {error}"))
            }),
        None => framed(docker, exec, tty).await,
    }
}

/// The engine's socket, where it has one.
fn socket() -> Option<String> {
    match std::env::var("DOCKER_HOST") {
        Ok(host) if host.is_empty() => Some(SOCKET.to_owned()),
        Ok(host) => host.strip_prefix("unix://").map(str::to_owned),
        Err(_) => Some(SOCKET.to_owned()),
    }
}

async fn terminal(socket: &str, exec: &str, size: Option<(u16, u16)>) -> io::Result<Attached> {
    let stream = TokioIo::new(UnixStream::connect(socket).await?);
    let handshake = hyper::client::conn::http1::handshake(stream).await;
    let (mut sender, connection) = handshake.map_err(io::Error::other)?;
    tokio::spawn(connection.with_upgrades());
    // Engines before 23 do not know the size, and are told it again.
    let size = size.map(|(columns, rows)| [rows, columns]);
    let body = serde_json::json!({"Detach": false, "Tty": true, "ConsoleSize": size}).to_string();
    let request = Request::post(format!("/exec/{exec}/start"))
        .header(header::HOST, "docker")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "tcp")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(io::Error::other(format!("the engine answered {}", response.status())));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
    let (output, input) = tokio::io::split(TokioIo::new(upgraded));
    let output = ReaderStream::new(output).map(|bytes| match bytes {
        Ok(bytes) => Ok(Output::Stdout(bytes.to_vec())),
        Err(error) => Err(BackendError::Unavailable(format!("the terminal broke: {error}"))),
    });
    Ok(Attached { output: output.boxed(), input: Box::pin(input) })
}

async fn framed(docker: &Docker, exec: &str, tty: bool) -> Result<Attached, BackendError> {
    let options = StartExecOptions { tty, ..StartExecOptions::default() };
    let started = docker.start_exec(exec, Some(options)).await.map_err(|error| failed(&error))?;
    let StartExecResults::Attached { output, input } = started else {
        return Err(BackendError::Unavailable("the command was not attached to".to_owned()));
    };
    let output: BoxStream<'static, _> = output.boxed();
    let output = output.filter_map(|part| async move {
        match part {
            Ok(LogOutput::StdErr { message }) => Some(Ok(Output::Stderr(message.to_vec()))),
            Ok(LogOutput::StdIn { .. }) => None,
            Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) => {
                Some(Ok(Output::Stdout(message.to_vec())))
            }
            Err(error) => Some(Err(failed(&error))),
        }
    });
    Ok(Attached { output: output.boxed(), input })
}
