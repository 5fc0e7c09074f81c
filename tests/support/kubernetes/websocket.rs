//! Exec over a WebSocket, `v5.channel.k8s.io`: the first byte of a message says
//! which channel it is of.

use std::{pin::Pin, time::Duration};

use axum::{
    body::Body,
    http::{Request, Response, StatusCode, header},
};
use bollard::{
    Docker,
    container::LogOutput,
    exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults},
};
use futures::{SinkExt, StreamExt, stream::BoxStream};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use super::containers::exit_status;

const PROTOCOL: &str = "v5.channel.k8s.io";

pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// `None`: it is no request for a WebSocket of this protocol.
pub fn accept<Fut>(
    mut request: Request<hyper::body::Incoming>,
    talk: impl FnOnce(Socket) -> Fut + Send + 'static,
) -> Option<Response<Body>>
where
    Fut: Future<Output = ()> + Send,
{
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    if !text("sec-websocket-protocol")?.contains(PROTOCOL) {
        return None;
    }
    let accepted = derive_accept_key(text("sec-websocket-key")?.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let io = TokioIo::new(upgraded);
            talk(WebSocketStream::from_raw_socket(io, Role::Server, None).await).await;
        }
    });
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accepted)
        .header(header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL);
    response.body(Body::empty()).ok()
}

async fn send(socket: &mut (impl SinkExt<Message> + Unpin), channel: u8, bytes: &[u8]) {
    let message = [&[channel], bytes].concat();
    let _ = socket.send(Message::Binary(message.into())).await;
}

pub async fn run(mut socket: Socket, container: Option<String>, command: Vec<String>, tty: bool) {
    let Some(container) = container else {
        // Scripted pods do whatever they are told.
        send(&mut socket, 3, exit_status(0).to_string().as_bytes()).await;
        let _ = socket.close(None).await;
        return;
    };
    let docker = Docker::connect_with_defaults().unwrap();
    let options = CreateExecOptions {
        cmd: Some(command),
        tty: Some(tty),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..CreateExecOptions::default()
    };
    let Ok(exec) = docker.create_exec(&container, options).await else { return };
    let Some((mut output, input)) = attach(&docker, &exec.id, tty).await else { return };
    let (mut sink, mut source) = socket.split();
    let mut stdin = Some(input);
    let (engine, id) = (docker.clone(), exec.id.clone());
    let feeding = tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            let Message::Binary(bytes) = message else { continue };
            match bytes.split_first() {
                Some((0, data)) => {
                    if let Some(stdin) = &mut stdin {
                        let _ = stdin.write_all(data).await;
                        let _ = stdin.flush().await;
                    }
                }
                Some((255, [0])) => {
                    if let Some(mut stdin) = stdin.take() {
                        let _ = stdin.shutdown().await;
                    }
                }
                Some((4, data)) => {
                    let size: Value = serde_json::from_slice(data).unwrap_or_default();
                    let of =
                        |key: &str| u16::try_from(size[key].as_u64().unwrap_or(0)).unwrap_or(0);
                    let size = ResizeExecOptions { width: of("Width"), height: of("Height") };
                    let _ = engine.resize_exec(&id, size).await;
                }
                _ => {}
            }
        }
    });
    while let Some((channel, bytes)) = output.next().await {
        send(&mut sink, channel, &bytes).await;
    }
    let mut code = None;
    for _ in 0..100 {
        code = docker.inspect_exec(&exec.id).await.ok().and_then(|found| found.exit_code);
        if code.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    send(&mut sink, 3, exit_status(code.unwrap_or(-1)).to_string().as_bytes()).await;
    let _ = sink.close().await;
    feeding.abort();
}

type Output = BoxStream<'static, (u8, Vec<u8>)>;
type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// Channels and bytes of the output, and the input.
async fn attach(docker: &Docker, exec: &str, tty: bool) -> Option<(Output, Input)> {
    if tty {
        return attach_terminal(exec).await;
    }
    let start = StartExecOptions::default();
    match docker.start_exec(exec, Some(start)).await {
        Ok(StartExecResults::Attached { output, input }) => {
            let parts = output.filter_map(|part| async move {
                let part = part.ok()?;
                let channel = if matches!(part, LogOutput::StdErr { .. }) { 2 } else { 1 };
                Some((channel, part.into_bytes().to_vec()))
            });
            Some((parts.boxed(), input))
        }
        _ => None,
    }
}

/// bollard looks for frames in what a terminal prints, so this goes around it.
async fn attach_terminal(exec: &str) -> Option<(Output, Input)> {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    let socket = host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock");
    let mut stream = tokio::net::UnixStream::connect(socket).await.ok()?;
    let body = r#"{"Detach":false,"Tty":true}"#;
    let head = format!(
        "POST /exec/{exec}/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.ok()?);
    }
    let (read, write) = stream.into_split();
    let output = futures::stream::unfold(read, |mut read| async move {
        let mut bytes = vec![0; 16 * 1024];
        let count = read.read(&mut bytes).await.ok().filter(|count| *count > 0)?;
        bytes.truncate(count);
        Some(((1, bytes), read))
    });
    Some((output.boxed(), Box::pin(write)))
}
