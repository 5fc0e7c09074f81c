//! Clients that take their time.

use std::time::Duration;

use bytes::Bytes;
use hyper::{Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, interval, timeout},
};

use super::support::*;

const WINDOW: Duration = Duration::from_millis(300);

/// Ends when the gateway has closed the connection.
async fn closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "still open");
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_ends_the_connection() {
    let setup = Setup::with(vec![], |config| config.header_timeout = WINDOW).await;
    // Before the protocol is known, within a head, and with half a preface.
    for start in ["", "GET / HTTP/1.1\r\nhost: app", "PRI * HT"] {
        let mut stream = TcpStream::connect(setup.address()).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        closed(stream).await;
    }
}

/// Slowloris: a byte now and then does not buy more time.
#[tokio::test]
async fn a_head_that_trickles_in_has_no_more_time_than_any() {
    let setup = Setup::with(vec![], |config| config.header_timeout = WINDOW).await;
    let stream = TcpStream::connect(setup.address()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let begun = Instant::now();
    let trickle = tokio::spawn(async move {
        let mut tick = interval(WINDOW / 10);
        writer.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        while writer.write_all(b"x-more: 1\r\n").await.is_ok() {
            tick.tick().await;
        }
    });
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, reader.read_to_end(&mut rest)).await.expect("it is closed");
    assert!(begun.elapsed() < WINDOW * 10, "{:?}", begun.elapsed());
    trickle.abort();
}

#[tokio::test]
async fn slow_clients_leave_room_for_others() {
    let app = Instance::named("hello").await;
    let routes = vec![route("app.localhost", &[app.address])];
    let setup = Setup::with(routes, |config| {
        config.max_connections = 8;
        config.header_timeout = WINDOW;
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(setup.address()).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        held.push(stream);
    }
    assert_eq!(setup.gateway.get("app.localhost", "/").await.1, "hello");
    drop(held);
}

#[tokio::test]
async fn an_upload_that_trickles_is_the_clients_timeout() {
    let app = Instance::mirror().await;
    let routes = vec![route("app.localhost", &[app.address])];
    let setup = Setup::with(routes, |config| {
        config.client_window = WINDOW;
        config.client_min_bytes = 100;
    })
    .await;
    let mut client = h1_client(setup.address()).await;
    let (frames, body) = channel_body();
    let request = Request::post("/").header("host", "app.localhost").body(body).unwrap();
    let response = client.send_request(request);
    let trickle = tokio::spawn(async move {
        let mut tick = interval(WINDOW / 10);
        while frames.send(Bytes::from_static(b"x")).await.is_ok() {
            tick.tick().await;
        }
    });
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    trickle.abort();
}

/// An instance that answers with so many bytes, behind a gateway that lets its
/// clients take at least a kilobyte in a window.
async fn large_responses(size: usize) -> (Setup, Instance) {
    let large = Bytes::from(vec![0; size]);
    let app = Instance::start(move |_| {
        let large = large.clone();
        async move { hyper::Response::new(text(large)) }
    })
    .await;
    let routes = vec![route("app.localhost", &[app.address])];
    let setup = Setup::with(routes, |config| {
        config.client_window = WINDOW;
        config.client_min_bytes = 1024;
    })
    .await;
    (setup, app)
}

/// It holds memory here and a connection of the instance.
#[tokio::test]
async fn a_client_that_does_not_take_its_response_is_cut_off() {
    // More than the kernel's buffers hold, in and out.
    let (setup, _app) = large_responses(64 << 20).await;
    let mut stream = TcpStream::connect(setup.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: app.localhost\r\n\r\n").await.unwrap();
    let cut = async {
        loop {
            let metrics = setup.gateway.get("localhost", "/.well-known/launchway/metrics").await.1;
            if metrics.contains("launchway_gateway_slow_clients_total 1") {
                break;
            }
        }
    };
    timeout(PATIENCE, cut).await.expect("it is cut off");
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it is closed");
    assert!(rest.len() < 64 << 20, "{} bytes came after all", rest.len());
}

#[tokio::test]
async fn a_client_that_takes_its_response_slowly_but_steadily_gets_all_of_it() {
    const SIZE: usize = 12 << 20;
    let (setup, _app) = large_responses(SIZE).await;
    let mut stream = TcpStream::connect(setup.address()).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: app.localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let (mut tick, mut read, mut buffer) = (interval(WINDOW / 10), 0, vec![0; SIZE / 20]);
    loop {
        match timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap() {
            0 => break,
            more => read += more,
        }
        tick.tick().await;
    }
    assert!(read > SIZE, "{read} bytes");
}
