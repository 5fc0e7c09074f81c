use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::support::*;

/// Sends every frame back as it comes.
async fn echo() -> Instance {
    Instance::start(|request: Request<Incoming>| async move {
        Response::new(request.into_body().boxed())
    })
    .await
}

/// Begins a response and says no more.
async fn silent() -> Instance {
    Instance::start(|_| async {
        let (frames, body) = channel_body();
        frames.send(Bytes::from_static(b"first")).await.unwrap();
        tokio::spawn(async move {
            frames.closed().await;
        });
        Response::new(body)
    })
    .await
}

/// Switches to a protocol in which the server repeats what it hears.
async fn switching() -> Instance {
    Instance::start(|mut request: Request<Incoming>| async move {
        assert_eq!(request.headers()["upgrade"], "echo");
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut buffer = [0; 1024];
            while let Ok(read @ 1..) = io.read(&mut buffer).await {
                io.write_all(&buffer[..read]).await.unwrap();
            }
        });
        Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "echo")
            .body(text(""))
            .unwrap()
    })
    .await
}

async fn upgraded(setup: &Setup) -> TokioIo<hyper::upgrade::Upgraded> {
    let mut client = h1_client(setup.address()).await;
    let request = Request::get("/socket")
        .header("host", "app.localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "echo")
        .body(text(""))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["upgrade"], "echo");
    TokioIo::new(hyper::upgrade::on(response).await.unwrap())
}

#[tokio::test]
async fn frames_pass_both_ways_before_either_body_has_ended() {
    let app = echo().await;
    let setup = Setup::new(vec![route("app.localhost", &[app.address])]).await;
    let mut client = h1_client(setup.address()).await;
    let (frames, body) = channel_body();
    let request = Request::post("/").header("host", "app.localhost").body(body).unwrap();
    let response = client.send_request(request);
    frames.send(Bytes::from_static(b"first")).await.unwrap();
    let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
    for sent in ["first", "second", "third"] {
        if sent != "first" {
            frames.send(Bytes::from(sent)).await.unwrap();
        }
        let frame = timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), sent);
    }
    drop(frames);
    assert!(timeout(PATIENCE, body.frame()).await.unwrap().is_none());
}

#[tokio::test]
async fn large_bodies_arrive_whole_in_both_directions() {
    let app = echo().await;
    let setup = Setup::new(vec![route("app.localhost", &[app.address])]).await;
    let sent: Vec<u8> = (0..8 * 1024 * 1024u32).map(|n| (n % 251) as u8).collect();
    let mut client = h1_client(setup.address()).await;
    let request =
        Request::put("/").header("host", "app.localhost").body(text(sent.clone())).unwrap();
    let response = client.send_request(request).await.unwrap();
    let received = response.into_body().collect().await.unwrap().to_bytes();
    assert!(received == sent);
}

/// An early response must not hold up the upload that it answers.
#[tokio::test]
async fn an_upload_goes_on_while_nobody_reads_its_response() {
    const SIZE: usize = 32 << 20;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let instance = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let (mut reader, mut writer) = socket.into_split();
        let mut buffer = vec![0; 1 << 20];
        let mut read = reader.read(&mut buffer).await.unwrap();
        // More than the buffers on its way hold.
        let writing = tokio::spawn(async move {
            writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 67108864\r\n\r\n").await.unwrap();
            let _ = writer.write_all(&vec![0; 64 << 20]).await;
        });
        while read < SIZE {
            read += reader.read(&mut buffer).await.unwrap();
        }
        writing.abort();
    });
    let setup = Setup::new(vec![route("app.localhost", &[address])]).await;
    let mut client = tokio::net::TcpStream::connect(setup.address()).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: app.localhost\r\ncontent-length: {SIZE}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    timeout(PATIENCE, client.readable()).await.expect("the response begins").unwrap();
    timeout(PATIENCE, client.write_all(&vec![0; SIZE])).await.expect("it takes all").unwrap();
    timeout(PATIENCE, instance).await.expect("it gets all").unwrap();
}

#[tokio::test]
async fn an_instance_may_decline_to_switch() {
    let app = Instance::mirror().await;
    let setup = Setup::new(vec![route("app.localhost", &[app.address])]).await;
    let request = b"GET /chat HTTP/1.1\r\nhost: app.localhost\r\nconnection: Upgrade, close\r\n\
                    upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let (status, seen) = split(&setup.gateway.raw(request).await);
    assert_eq!(status, 200);
    for expected in [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    ] {
        assert!(seen.contains(expected), "{expected} is missing in {seen}");
    }
}

#[tokio::test]
async fn an_upgraded_connection_is_bridged() {
    let app = switching().await;
    let setup = Setup::new(vec![route("app.localhost", &[app.address])]).await;
    let mut socket = upgraded(&setup).await;
    for message in [&b"ping"[..], b"and again"] {
        socket.write_all(message).await.unwrap();
        let mut reply = vec![0; message.len()];
        timeout(PATIENCE, socket.read_exact(&mut reply)).await.unwrap().unwrap();
        assert_eq!(reply, message);
    }
}

#[tokio::test]
async fn a_silent_upgraded_connection_ends() {
    let app = switching().await;
    let routes = vec![route("app.localhost", &[app.address])];
    let limit = Duration::from_millis(200);
    let setup = Setup::with(routes, |config| config.stream_idle = limit).await;
    let mut socket = upgraded(&setup).await;
    let end = timeout(PATIENCE, socket.read(&mut [0; 1])).await;
    assert!(matches!(end.unwrap(), Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_response_that_falls_silent_is_broken_off_rather_than_ended() {
    let app = silent().await;
    let routes = vec![route("app.localhost", &[app.address])];
    let limit = Duration::from_millis(200);
    let setup = Setup::with(routes, |config| config.stream_idle = limit).await;
    let mut client = h1_client(setup.address()).await;
    let request = Request::get("/").header("host", "app.localhost").body(text("")).unwrap();
    let body = client.send_request(request).await.unwrap().into_body();
    assert!(timeout(PATIENCE, body.collect()).await.unwrap().is_err());
}

#[tokio::test]
async fn an_upload_may_take_longer_than_the_response_timeout_while_it_moves() {
    let app = Instance::mirror().await;
    let routes = vec![route("app.localhost", &[app.address])];
    let limit = Duration::from_millis(300);
    let setup = Setup::with(routes, |config| config.response_timeout = limit).await;
    let mut client = h1_client(setup.address()).await;
    let (frames, body) = channel_body();
    let request = Request::post("/").header("host", "app.localhost").body(body).unwrap();
    let response = tokio::spawn(client.send_request(request));
    let mut tick = tokio::time::interval(limit / 3);
    for _ in 0..8 {
        tick.tick().await;
        frames.send(Bytes::from_static(b"x")).await.unwrap();
    }
    drop(frames);
    let (status, seen) = read(response.await.unwrap().unwrap()).await;
    assert_eq!(status, 200);
    assert!(seen.ends_with("\nxxxxxxxx"), "{seen}");
}

#[tokio::test]
async fn an_upload_that_stalls_is_the_clients_timeout() {
    let app = Instance::mirror().await;
    let routes = vec![route("app.localhost", &[app.address])];
    let limit = Duration::from_millis(200);
    let setup = Setup::with(routes, |config| config.response_timeout = limit).await;
    let mut client = h1_client(setup.address()).await;
    let (frames, body) = channel_body();
    let request = Request::post("/").header("host", "app.localhost").body(body).unwrap();
    let response = client.send_request(request);
    frames.send(Bytes::from_static(b"x")).await.unwrap();
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn shutdown_lets_what_is_in_flight_end_and_cuts_the_rest() {
    let app = silent().await;
    let echo = echo().await;
    let routes =
        vec![route("app.localhost", &[app.address]), route("echo.localhost", &[echo.address])];
    let drain = Duration::from_millis(1500);
    let mut setup = Setup::with(routes, |config| config.drain = drain).await;
    let address = setup.address();

    let (frames, body) = channel_body();
    let request = Request::post("/").header("host", "echo.localhost").body(body).unwrap();
    let mut ending = h1_client(address).await;
    let response = ending.send_request(request);
    frames.send(Bytes::from_static(b"before ")).await.unwrap();
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    let request = Request::get("/").header("host", "app.localhost").body(text("")).unwrap();
    let endless = h1_client(address).await.send_request(request).await.unwrap();

    setup.gateway.shut_down();
    let refused = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.expect("no new connections");
    frames.send(Bytes::from_static(b"after")).await.unwrap();
    drop(frames);
    assert_eq!(read(response).await, (200, "before after".to_owned()));
    assert!(timeout(PATIENCE, endless.into_body().collect()).await.unwrap().is_err());
    setup.gateway.stopped().await;
}
