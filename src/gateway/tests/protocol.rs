use std::time::Duration;

use hyper::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::support::*;

async fn mirrored() -> (Instance, Setup) {
    let app = Instance::mirror().await;
    let setup = Setup::new(vec![route("app.localhost", &[app.address])]).await;
    (app, setup)
}

#[tokio::test]
async fn ambiguous_hosts_are_refused_before_any_instance_sees_them() {
    let (app, setup) = mirrored().await;
    for request in [
        "GET / HTTP/1.1\r\nhost: app.localhost\r\nhost: app.localhost\r\n",
        "GET / HTTP/1.1\r\nhost: app.localhost\r\nhost: other.localhost\r\n",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
        "GET / HTTP/1.1\r\nhost: \r\n",
        "GET / HTTP/1.1\r\nhost: app.localhost, other.localhost\r\n",
        "GET / HTTP/1.1\r\nhost: user@app.localhost\r\n",
        "GET http://other.localhost/ HTTP/1.1\r\nhost: app.localhost\r\n",
        "GET http://app.localhost/ HTTP/1.1\r\n",
    ] {
        let whole = format!("{request}connection: close\r\n\r\n");
        let answer = setup.gateway.raw(whole.as_bytes()).await;
        assert_eq!(split(&answer).0, 400, "{request}");
    }
    assert_eq!(app.served(), 0);
}

#[tokio::test]
async fn absolute_form_that_agrees_becomes_origin_form() {
    let (_app, setup) = mirrored().await;
    let request = b"GET http://app.localhost/a?b=c HTTP/1.1\r\nhost: app.localhost\r\n\
                    connection: close\r\n\r\n";
    let (status, seen) = split(&setup.gateway.raw(request).await);
    assert_eq!(status, 200);
    assert!(seen.contains("GET /a?b=c HTTP/1.1"), "{seen}");
}

#[tokio::test]
async fn connect_is_refused() {
    let (app, setup) = mirrored().await;
    let request = b"CONNECT app.localhost:80 HTTP/1.1\r\nhost: app.localhost:80\r\n\
                    connection: close\r\n\r\n";
    let answer = setup.gateway.raw(request).await;
    assert_eq!(split(&answer).0, 405, "{answer}");
    assert_eq!(app.served(), 0);
}

#[tokio::test]
async fn http_1_0_is_served_and_closed() {
    let (_app, setup) = mirrored().await;
    let answer = setup.gateway.raw(b"GET / HTTP/1.0\r\nhost: app.localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert!(answer.contains("GET / HTTP/1.1"), "the instance is spoken to in 1.1: {answer}");
}

/// The rest of the body must not become a second request behind the gateway.
#[tokio::test]
async fn length_and_chunked_together_smuggle_nothing() {
    let (app, setup) = mirrored().await;
    let request = b"POST / HTTP/1.1\r\nhost: app.localhost\r\ncontent-length: 4\r\n\
                    transfer-encoding: chunked\r\nconnection: close\r\n\r\n\
                    23\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n\r\n0\r\n\r\n";
    let answer = setup.gateway.raw(request).await;
    let (status, seen) = split(&answer);
    assert_eq!(status, 200, "{answer}");
    assert!(!seen.contains("content-length: 4"), "{seen}");
    assert!(seen.contains("\nGET /smuggled"), "the body arrives as a body: {seen}");
    assert_eq!(app.served(), 1);
}

#[tokio::test]
async fn a_malformed_body_is_the_clients_error() {
    let (_app, setup) = mirrored().await;
    let request = b"POST / HTTP/1.1\r\nhost: app.localhost\r\ntransfer-encoding: chunked\r\n\
                    connection: close\r\n\r\nnonsense\r\n\r\n";
    let answer = setup.gateway.raw(request).await;
    assert_eq!(split(&answer).0, 400, "{answer}");
}

#[tokio::test]
async fn a_hundred_kilobytes_of_headers_are_refused() {
    let (app, setup) = mirrored().await;
    let request = format!(
        "GET / HTTP/1.1\r\nhost: app.localhost\r\nx-large: {}\r\n\r\n",
        "a".repeat(100 * 1024)
    );
    let answer = setup.gateway.raw(request.as_bytes()).await;
    // The refusal may be lost when the kernel resets on unread bytes.
    assert!(answer.is_empty() || split(&answer).0 == 431, "{answer}");
    assert_eq!(app.served(), 0);
    assert_eq!(setup.gateway.get("app.localhost", "/").await.0, 200);
}

#[tokio::test]
async fn a_client_that_dawdles_is_cut_off() {
    let (_app, setup) = mirrored().await;
    let limit = Duration::from_millis(200);
    let patient = Setup::with(vec![], |config| config.header_timeout = limit).await;
    // Before the protocol is known, within a head, and with half a preface.
    for start in ["", "GET / HTTP/1.1\r\nhost: app", "PRI * HT"] {
        let mut stream = TcpStream::connect(patient.address()).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let end = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "{start:?} still open");
    }
    drop(setup);
}

#[tokio::test]
async fn an_instance_learns_who_asked_for_what() {
    let (_app, setup) = mirrored().await;
    let request = b"GET / HTTP/1.1\r\nhost: app.localhost:8000\r\nx-forwarded-for: 6.6.6.6\r\n\
                    connection: x-hop, close\r\nx-hop: 1\r\n\r\n";
    let (_, seen) = split(&setup.gateway.raw(request).await);
    for expected in [
        "host: app.localhost:8000",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: app.localhost:8000",
        "forwarded: for=127.0.0.1;proto=http;host=\"app.localhost:8000\"",
        "x-request-id: ",
    ] {
        assert!(seen.contains(expected), "{expected} missing in {seen}");
    }
    assert!(!seen.contains("x-hop") && !seen.contains("6.6.6.6"), "{seen}");
}

#[tokio::test]
async fn http2_clients_reach_http1_instances() {
    let (_app, setup) = mirrored().await;
    let mut client = h2_client(setup.address()).await;
    let request = Request::post("http://app.localhost/h2").body(text("payload")).unwrap();
    let (status, seen) = read(client.send_request(request).await.unwrap()).await;
    assert_eq!(status, 200);
    assert!(seen.starts_with("POST /h2 HTTP/1.1"), "{seen}");
    assert!(seen.contains("host: app.localhost") && seen.ends_with("payload"), "{seen}");
    let request = Request::get("http://app.localhost/")
        .header("host", "other.localhost")
        .body(text(""))
        .unwrap();
    assert_eq!(client.send_request(request).await.unwrap().status(), 400);
}

#[tokio::test]
async fn grpc_stays_http2_and_keeps_its_trailers() {
    use http_body_util::{BodyExt, StreamBody};
    use hyper::{HeaderMap, Response, body::Frame};

    let app = Instance::start(|request| async move {
        assert_eq!(request.version(), hyper::Version::HTTP_2);
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), 0.into())]);
        let frames = [Frame::data("message".into()), Frame::trailers(trailers)];
        let frames = tokio_stream::iter(frames.map(Ok::<_, hyper::Error>));
        Response::new(BodyExt::boxed(StreamBody::new(frames)))
    })
    .await;
    let setup = Setup::new(vec![route("rpc.localhost", &[app.address])]).await;
    let mut client = h2_client(setup.address()).await;
    for _ in 0..2 {
        let request = Request::post("http://rpc.localhost/pkg.Service/Call")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(text("request"))
            .unwrap();
        let response = client.send_request(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(body.to_bytes(), "message");
    }
}

#[tokio::test]
async fn head_and_not_modified_keep_the_length_they_speak_of() {
    let app = Instance::start(|_| async {
        hyper::Response::builder().header("content-length", "5").body(text("hello")).unwrap()
    })
    .await;
    let setup = Setup::new(vec![route("app.localhost", &[app.address])]).await;
    let request = b"HEAD / HTTP/1.1\r\nhost: app.localhost\r\nconnection: close\r\n\r\n";
    let answer = setup.gateway.raw(request).await;
    assert!(answer.contains("content-length: 5") && answer.ends_with("\r\n\r\n"), "{answer}");
}
