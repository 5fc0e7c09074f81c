use hyper::Request;

use super::support::*;

async fn mirrored() -> (Instance, Setup) {
    let app = Instance::mirror().await;
    let setup = Setup::new(vec![route("app.localhost", &[app.address])]).await;
    (app, setup)
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

/// Forwarded, it would be a tunnel around every rule of the gateway. Who knows
/// that it speaks HTTP/2 begins with it.
#[tokio::test]
async fn an_upgrade_to_h2c_is_not_taken() {
    let (_app, setup) = mirrored().await;
    let request = b"GET / HTTP/1.1\r\nhost: app.localhost\r\n\
                    connection: Upgrade, HTTP2-Settings, close\r\nupgrade: h2c\r\n\
                    http2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n";
    let (status, seen) = split(&setup.gateway.raw(request).await);
    assert_eq!(status, 200);
    assert!(!seen.contains("h2c") && !seen.contains("http2-settings"), "{seen}");
}
