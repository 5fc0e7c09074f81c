//! The table in `docs/gateway.md`: what each strange request gets, over raw
//! sockets, and what an instance sees of it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::*;

async fn mirrored() -> (Instance, Setup) {
    let app = Instance::mirror().await;
    let setup = Setup::new(vec![route("app.localhost", &[app.address])]).await;
    (app, setup)
}

const GET: &str = "GET / HTTP/1.1\r\nhost: app.localhost\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: app.localhost\r\n";
/// Served, if anything behind the refused part is taken for a request.
const NEXT: &str = "GET /smuggled HTTP/1.1\r\nhost: app.localhost\r\nconnection: close\r\n\r\n";

/// Each with its status; none reaches an instance, and the connection is closed.
#[tokio::test]
async fn what_is_ambiguous_or_malformed_is_refused_before_any_instance_sees_it() {
    let (app, setup) = mirrored().await;
    let host = |line: &str, hosts: &str| format!("{line}\r\n{hosts}\r\n");
    let plain = "GET / HTTP/1.1";
    let cases = [
        ("the same Host twice", 400, host(plain, "host: app.localhost\r\nhost: app.localhost\r\n")),
        ("two Hosts", 400, host(plain, "host: app.localhost\r\nhost: other.localhost\r\n")),
        ("no Host", 400, host(plain, "")),
        ("no Host in HTTP/1.0", 400, host("GET / HTTP/1.0", "")),
        ("an empty Host", 400, host(plain, "host: \r\n")),
        ("two names in a Host", 400, host(plain, "host: app.localhost, other.localhost\r\n")),
        ("a user in the Host", 400, host(plain, "host: user@app.localhost\r\n")),
        ("a path in the Host", 400, host(plain, "host: app.localhost/x\r\n")),
        ("a port too large", 400, host(plain, "host: app.localhost:65536\r\n")),
        (
            "absolute form for another host",
            400,
            host("GET http://other.localhost/ HTTP/1.1", "host: app.localhost\r\n"),
        ),
        ("absolute form without a Host", 400, host("GET http://app.localhost/ HTTP/1.1", "")),
        ("CONNECT", 405, host("CONNECT app.localhost:80 HTTP/1.1", "host: app.localhost:80\r\n")),
        ("a blank before the colon", 400, format!("{GET}x-name : 1\r\n\r\n")),
        ("a folded header", 400, format!("{GET}x-name: 1\r\n 2\r\n\r\n")),
        ("a NUL in a header", 400, format!("{GET}x-name: a\0b\r\n\r\n")),
        ("a bare CR in a header", 400, format!("{GET}x-name: a\rb\r\n\r\n")),
        ("a header without a name", 400, format!("{GET}: 1\r\n\r\n")),
        ("a header without a colon", 400, format!("{GET}x-name\r\n\r\n")),
        ("two lengths", 400, format!("{POST}content-length: 4\r\ncontent-length: 5\r\n\r\n")),
        ("a list of lengths", 400, format!("{POST}content-length: 4, 4\r\n\r\n")),
        ("a signed length", 400, format!("{POST}content-length: +4\r\n\r\n")),
        ("a negative length", 400, format!("{POST}content-length: -1\r\n\r\n")),
        ("a hexadecimal length", 400, format!("{POST}content-length: 0x4\r\n\r\n")),
        (
            "a length over 64 bits",
            400,
            format!("{POST}content-length: 18446744073709551620\r\n\r\n"),
        ),
        ("an unknown coding", 400, format!("{POST}transfer-encoding: gzip\r\n\r\n")),
        (
            "chunked that is not last",
            400,
            format!("{POST}transfer-encoding: chunked, identity\r\n\r\n"),
        ),
        ("a disguised coding", 400, format!("{POST}transfer-encoding: xchunked\r\n\r\n")),
        (
            "chunked in HTTP/1.0",
            400,
            "POST / HTTP/1.0\r\nhost: app.localhost\r\ntransfer-encoding: chunked\r\n\r\n".into(),
        ),
        ("an unknown version", 400, "GET / HTTP/1.9\r\nhost: app.localhost\r\n\r\n".into()),
        ("HTTP/0.9", 400, "GET /\r\n\r\n".into()),
        (
            "two blanks in the first line",
            400,
            "GET  / HTTP/1.1\r\nhost: app.localhost\r\n\r\n".into(),
        ),
        ("a blank in the path", 400, "GET /a b HTTP/1.1\r\nhost: app.localhost\r\n\r\n".into()),
        ("a method of symbols", 400, "G@T / HTTP/1.1\r\nhost: app.localhost\r\n\r\n".into()),
        (
            "101 headers",
            431,
            format!("{GET}{}\r\n", (0..100).map(|n| format!("x-{n}: 1\r\n")).collect::<String>()),
        ),
    ];
    for (what, expected, request) in cases {
        let answer = setup.gateway.raw(format!("{request}{NEXT}").as_bytes()).await;
        assert_eq!(split(&answer).0, expected, "{what}: {answer}");
        assert!(!answer.contains("/smuggled"), "{what} was followed: {answer}");
    }
    assert_eq!(app.served(), 0);
}

#[tokio::test]
async fn absolute_form_that_agrees_becomes_origin_form() {
    let (_app, setup) = mirrored().await;
    let request = b"GET http://App.localhost:80/a?b=c HTTP/1.1\r\nhost: app.localhost\r\n\
                    connection: close\r\n\r\n";
    let (status, seen) = split(&setup.gateway.raw(request).await);
    assert_eq!(status, 200);
    assert!(seen.contains("GET /a?b=c HTTP/1.1"), "{seen}");
}

#[tokio::test]
async fn http_1_0_is_served_and_closed() {
    let (_app, setup) = mirrored().await;
    let answer = setup.gateway.raw(b"GET / HTTP/1.0\r\nhost: app.localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert!(answer.contains("GET / HTTP/1.1"), "the instance is spoken to in 1.1: {answer}");
}

/// RFC 9112 6.3: read as chunks, the length dropped, the connection closed.
#[tokio::test]
async fn a_length_beside_chunks_frames_nothing_and_ends_the_connection() {
    let (app, setup) = mirrored().await;
    let inside = "GET /inside HTTP/1.1\r\nhost: x\r\n\r\n";
    let body = format!("{:x}\r\n{inside}\r\n0\r\n\r\n", inside.len());
    let (length, chunked) = ("content-length: 4\r\n", "transfer-encoding: chunked\r\n");
    for (served, both) in
        [format!("{length}{chunked}"), format!("{chunked}{length}")].iter().enumerate()
    {
        let answer = setup.gateway.raw(format!("{POST}{both}\r\n{body}{NEXT}").as_bytes()).await;
        let (status, seen) = split(&answer);
        assert_eq!(status, 200, "{answer}");
        assert!(!seen.contains("content-length: 4"), "{seen}");
        assert!(seen.contains("\nGET /inside"), "the body arrives as a body: {seen}");
        assert!(!answer.contains("/smuggled"), "{answer}");
        assert_eq!(app.served(), served + 1);
    }
}

/// What a length frames is a body, whatever it looks like.
#[tokio::test]
async fn a_request_in_a_body_stays_a_body() {
    let (app, setup) = mirrored().await;
    let inside = "GET /inside HTTP/1.1\r\nhost: app.localhost\r\n\r\n";
    let request = format!("{POST}content-length: {}\r\n\r\n{inside}{NEXT}", inside.len());
    let answer = setup.gateway.raw(request.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    assert!(answer.contains("\nGET /inside") && answer.contains("GET /smuggled"), "{answer}");
    assert_eq!(app.served(), 2, "the outer one and the one behind it");
}

#[tokio::test]
async fn malformed_chunks_are_the_clients_error_and_end_the_connection() {
    let (_app, setup) = mirrored().await;
    for chunks in [
        "nonsense\r\n\r\n",
        "-1\r\nx\r\n0\r\n\r\n",
        "0x1\r\nx\r\n0\r\n\r\n",
        "1\r\nxy\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nx\r\n0\r\n\r\n",
    ] {
        let request = format!("{POST}transfer-encoding: chunked\r\n\r\n{chunks}{NEXT}");
        let answer = setup.gateway.raw(request.as_bytes()).await;
        assert_eq!(split(&answer).0, 400, "{chunks:?}: {answer}");
        assert!(!answer.contains("/smuggled"), "{chunks:?}: {answer}");
    }
}

/// Only the first can be sent at all; the instance is not left with half a body.
#[tokio::test]
async fn an_aborted_upload_reaches_the_instance_as_broken() {
    let (ended, mut endings) = tokio::sync::mpsc::channel(2);
    let app = Instance::start(move |request| {
        let ended = ended.clone();
        async move {
            let body = http_body_util::BodyExt::collect(request.into_body()).await;
            ended.send(body.is_ok()).await.unwrap();
            hyper::Response::new(text(""))
        }
    })
    .await;
    let setup = Setup::new(vec![route("app.localhost", &[app.address])]).await;
    for start in [
        format!("{POST}transfer-encoding: chunked\r\n\r\n4\r\npart\r\n"),
        format!("{POST}content-length: 100\r\n\r\npart"),
    ] {
        let mut client = tokio::net::TcpStream::connect(setup.address()).await.unwrap();
        client.write_all(start.as_bytes()).await.unwrap();
        let arrived = async {
            while app.served() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, arrived).await.unwrap();
        drop(client);
        let whole = tokio::time::timeout(PATIENCE, endings.recv()).await.unwrap().unwrap();
        assert!(!whole, "the instance took a part for the whole: {start:?}");
    }
    assert_eq!(setup.gateway.get("app.localhost", "/").await.0, 200);
}

#[tokio::test]
async fn a_hundred_kilobytes_of_headers_are_refused() {
    let (app, setup) = mirrored().await;
    let request = format!("{GET}x-large: {}\r\n\r\n", "a".repeat(100 * 1024));
    let answer = setup.gateway.raw(request.as_bytes()).await;
    // The refusal may be lost when the kernel resets on unread bytes.
    assert!(answer.is_empty() || split(&answer).0 == 431, "{answer}");
    let request =
        format!("GET /{} HTTP/1.1\r\nhost: app.localhost\r\n\r\n", "a".repeat(100 * 1024));
    let answer = setup.gateway.raw(request.as_bytes()).await;
    assert!(answer.is_empty() || [414, 431].contains(&split(&answer).0), "{answer}");
    assert_eq!(app.served(), 0);
    assert_eq!(setup.gateway.get("app.localhost", "/").await.0, 200);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_however_it_is_framed() {
    let app = Instance::mirror().await;
    let routes = vec![route("app.localhost", &[app.address])];
    let setup = Setup::with(routes, |config| config.max_body_bytes = 10).await;
    let fits = format!("{POST}content-length: 10\r\nconnection: close\r\n\r\n0123456789");
    assert_eq!(split(&setup.gateway.raw(fits.as_bytes()).await).0, 200);
    let announced = format!("{POST}content-length: 11\r\n\r\n");
    let answer = setup.gateway.raw(announced.as_bytes()).await;
    assert_eq!(split(&answer).0, 413, "{answer}");
    assert_eq!(app.served(), 1, "refused before an instance heard of it");
    let chunks = "6\r\n012345\r\n6\r\n678901\r\n0\r\n\r\n";
    let chunked = format!("{POST}transfer-encoding: chunked\r\nconnection: close\r\n\r\n{chunks}");
    let answer = setup.gateway.raw(chunked.as_bytes()).await;
    assert_eq!(split(&answer).0, 413, "{answer}");
}

/// An early answer to a body that never comes must not hold the connection.
#[tokio::test]
async fn a_refused_upload_does_not_keep_its_connection() {
    let (_app, setup) = mirrored().await;
    let mut client = tokio::net::TcpStream::connect(setup.address()).await.unwrap();
    let request = "POST / HTTP/1.1\r\nhost: nobody.localhost\r\ncontent-length: 1000000\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, client.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "still open");
    assert!(answer.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&answer));
}
