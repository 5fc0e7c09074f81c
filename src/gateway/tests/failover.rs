use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::support::*;

#[tokio::test]
async fn an_instance_that_refuses_costs_no_request() {
    let app = Instance::mirror().await;
    let addresses = [closed_address().await, app.address];
    let setup = Setup::new(vec![route("app.localhost", &addresses)]).await;
    for n in 0..10 {
        // A body proves that it was not consumed by the attempt that failed.
        let mut client = h1_client(setup.address()).await;
        let request = Request::post("/").header("host", "app.localhost");
        let request = request.body(text(format!("body {n}"))).unwrap();
        let (status, seen) = read(client.send_request(request).await.unwrap()).await;
        assert_eq!(status, 200);
        assert!(seen.ends_with(&format!("body {n}")), "{seen}");
    }
    assert_eq!(app.served(), 10);
}

/// The first byte may have had an effect: only the client may repeat it.
#[tokio::test]
async fn a_request_that_was_sent_in_part_is_not_repeated() {
    let breaking = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let broken_at = breaking.local_addr().unwrap();
    let app = Instance::mirror().await;
    let routes = vec![route("app.localhost", &[broken_at])];
    let mut setup = Setup::new(routes).await;
    let mut client = h1_client(setup.address()).await;
    let (frames, body) = channel_body();
    let request = Request::post("/").header("host", "app.localhost").body(body).unwrap();
    let response = client.send_request(request);
    frames.send(Bytes::from_static(b"part one")).await.unwrap();
    let (mut socket, _) = timeout(PATIENCE, breaking.accept()).await.unwrap().unwrap();
    let mut received = String::new();
    while !received.contains("part one") {
        let mut buffer = [0; 1024];
        let read = timeout(PATIENCE, socket.read(&mut buffer)).await.unwrap().unwrap();
        received.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    // A healthy instance is there before the first one breaks off.
    setup
        .control
        .publish(change(2, vec![route("app.localhost", &[broken_at, app.address])], &[]))
        .await;
    drop(socket);
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 502);
    assert_eq!(app.served(), 0);
}

/// Reads one request's head and breaks off, `times` times.
async fn breaking(times: usize) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    breaking_after("", times).await
}

/// As [`breaking`], once the beginning of an answer is written.
async fn breaking_after(
    beginning: &'static str,
    times: usize,
) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        for _ in 0..times {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 2048];
            assert_ne!(socket.read(&mut head).await.unwrap(), 0);
            socket.write_all(beginning.as_bytes()).await.unwrap();
        }
    });
    (address, task)
}

const PART: &str = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart of it";

/// An instance that is killed takes no safe request with it: neither before its answer
/// nor in the middle of a short one.
#[tokio::test]
async fn a_safe_request_that_an_instance_breaks_off_goes_to_another() {
    for beginning in ["", PART] {
        let (broken_at, breaks) = breaking_after(beginning, 1).await;
        let app = Instance::named("hello").await;
        let setup = Setup::new(vec![route("app.localhost", &[broken_at, app.address])]).await;
        for _ in 0..4 {
            let answer = setup.gateway.get("app.localhost", "/").await;
            assert_eq!(answer, (200, "hello".to_owned()), "after `{beginning}`");
        }
        timeout(PATIENCE, breaks).await.expect("the broken one was asked").unwrap();
        assert_eq!(app.served(), 4, "after `{beginning}`");
    }
}

/// Nothing of it is passed on as if it were whole, and nobody is put last for it.
#[tokio::test]
async fn an_answer_that_every_instance_breaks_off_is_a_clear_failure() {
    let (first, first_breaks) = breaking_after(PART, 1).await;
    let (second, second_breaks) = breaking_after(PART, 1).await;
    let setup = Setup::new(vec![route("app.localhost", &[first, second])]).await;
    assert_eq!(setup.gateway.get("app.localhost", "/").await.0, 502);
    for breaks in [first_breaks, second_breaks] {
        timeout(PATIENCE, breaks).await.expect("each was asked").unwrap();
    }
    let metrics = setup.gateway.get("localhost", "/.well-known/launchway/metrics").await.1;
    assert!(metrics.contains(r#"instance_failures_total{kind="cut"} 2"#), "{metrics}");
}

/// What may have had an effect is passed on as it comes, and as broken.
#[tokio::test]
async fn a_cut_answer_to_what_may_have_an_effect_is_passed_on_as_broken() {
    let (broken_at, _breaks) = breaking_after(PART, 1).await;
    let setup = Setup::new(vec![route("app.localhost", &[broken_at])]).await;
    let mut client = h1_client(setup.address()).await;
    let request = Request::post("/").header("host", "app.localhost").body(text("")).unwrap();
    let response = timeout(PATIENCE, client.send_request(request)).await.unwrap();
    if let Ok(response) = response {
        assert_eq!(response.status(), 200);
        assert!(response.into_body().collect().await.is_err(), "it passed for a whole one");
    }
}

/// The beginning of an answer that goes on slowly is not kept from its client.
#[tokio::test]
async fn a_short_answer_that_comes_slowly_streams() {
    let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow_at = slow.local_addr().unwrap();
    let setup = Setup::new(vec![route("app.localhost", &[slow_at])]).await;
    let mut client = h1_client(setup.address()).await;
    let request = Request::get("/").header("host", "app.localhost").body(text("")).unwrap();
    let response = client.send_request(request);
    let (mut socket, _) = timeout(PATIENCE, slow.accept()).await.unwrap().unwrap();
    let answering = async {
        let mut head = [0; 2048];
        assert_ne!(socket.read(&mut head).await.unwrap(), 0);
        socket.write_all(PART.as_bytes()).await.unwrap();
    };
    let (response, ()) = tokio::join!(timeout(PATIENCE, response), answering);
    let mut body = response.unwrap().unwrap().into_body();
    let first = timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "part of it");
    socket.write_all(&[b'x'; 90]).await.unwrap();
    let rest = timeout(PATIENCE, body.collect()).await.unwrap().unwrap().to_bytes();
    assert_eq!(rest.len(), 90);
}

#[tokio::test]
async fn what_may_have_an_effect_is_not_repeated() {
    for (request, repeat_safe) in [
        ("POST / HTTP/1.1\r\nhost: app.localhost\r\ncontent-length: 0\r\n", true),
        ("DELETE / HTTP/1.1\r\nhost: app.localhost\r\n", true),
        ("GET / HTTP/1.1\r\nhost: app.localhost\r\n", false),
    ] {
        let (broken_at, breaks) = breaking(1).await;
        let app = Instance::named("hello").await;
        let routes = vec![route("app.localhost", &[broken_at, app.address])];
        let setup = Setup::with(routes, |config| config.repeat_safe = repeat_safe).await;
        let request = format!("{request}connection: close\r\n\r\n");
        // They take turns: one of two reaches the broken one.
        let mut seen = Vec::new();
        for _ in 0..2 {
            seen.push(split(&setup.gateway.raw(request.as_bytes()).await).0);
        }
        seen.sort_unstable();
        assert_eq!(seen, [200, 502], "{request}");
        timeout(PATIENCE, breaks).await.expect("the broken one was asked").unwrap();
        assert_eq!(app.served(), 1);
    }
}

/// After a failure one request tries an instance again; the others stay away.
#[tokio::test]
async fn an_instance_that_failed_is_tried_again_by_one_request() {
    let app = Instance::named("hello").await;
    let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hung_at = hung.local_addr().unwrap();
    let routes = vec![route("app.localhost", &[hung_at, app.address])];
    let cooldown = Duration::from_millis(50);
    let setup = Setup::with(routes, |config| config.cooldown = cooldown).await;
    let accept = || async { timeout(PATIENCE, hung.accept()).await.unwrap().unwrap().0 };
    let ask = || setup.gateway.get("app.localhost", "/");
    // The first one to reach it fails there and is answered by the other.
    let (broken, _) =
        tokio::join!(async { drop(accept().await) }, async { tokio::join!(ask(), ask()) });
    let () = broken;
    let mut waits = tokio::time::interval(cooldown);
    waits.tick().await;
    waits.tick().await;
    // The trial hangs; twenty others meanwhile do not.
    let (trial, others) = tokio::join!(accept(), async {
        let asked: Vec<_> = (0..21).map(|_| ask()).collect();
        let mut answered = 0;
        let mut asked = futures::stream::FuturesUnordered::from_iter(asked);
        while answered < 20 {
            let (status, _) =
                timeout(PATIENCE, futures::StreamExt::next(&mut asked)).await.unwrap().unwrap();
            assert_eq!(status, 200);
            answered += 1;
        }
        asked
    });
    drop(trial);
    let last: Vec<_> = futures::StreamExt::collect(others).await;
    assert_eq!(last[0].0, 200);
    assert_eq!(app.served(), 2 + 21);
}

/// The instance closes connections that the gateway still keeps.
#[tokio::test]
async fn a_pooled_connection_that_was_closed_costs_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let instance = tokio::spawn(async move {
        for served in 0..20 {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 2048];
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let read = socket.read(&mut buffer).await.unwrap();
                assert_ne!(read, 0, "after {served} requests");
                head.extend_from_slice(&buffer[..read]);
            }
            // Keep-alive by its words, closed by its deeds.
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    });
    let setup = Setup::new(vec![route("app.localhost", &[address])]).await;
    for n in 0..20 {
        assert_eq!(setup.gateway.get("app.localhost", "/").await, (200, "ok".into()), "{n}");
    }
    timeout(PATIENCE, instance).await.unwrap().unwrap();
}

#[tokio::test]
async fn connections_to_instances_are_used_again() {
    let connections = Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    let app = Instance::named("ok").await;
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = relay.local_addr().unwrap();
    let (to, seen) = (app.address, Arc::clone(&connections));
    let relay = tokio::spawn(async move {
        loop {
            let (mut client, peer) = relay.accept().await.unwrap();
            seen.lock().unwrap().insert(peer);
            tokio::spawn(async move {
                let mut app = tokio::net::TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut app).await;
            });
        }
    });
    let setup = Setup::new(vec![route("app.localhost", &[address])]).await;
    for _ in 0..50 {
        assert_eq!(setup.gateway.get("app.localhost", "/").await.0, 200);
    }
    relay.abort();
    assert_eq!(app.served(), 50);
    let opened = connections.lock().unwrap().len();
    assert!(opened < 10, "{opened} connections for 50 requests");
}

#[tokio::test]
async fn switching_a_host_under_load_loses_no_request() {
    let (blue, green) = (Instance::named("blue").await, Instance::named("green").await);
    let mut setup = Setup::new(vec![route("app.localhost", &[blue.address])]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let address = setup.address();
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut client = h1_client(address).await;
                let mut served = 0;
                while !stop.load(SeqCst) {
                    client.ready().await.unwrap();
                    let request = Request::get("/").header("host", "app.localhost");
                    let response = client.send_request(request.body(text("")).unwrap()).await;
                    let (status, body) = read(response.unwrap()).await;
                    assert!(status == 200 && ["blue", "green"].contains(&body.as_str()), "{body}");
                    served += 1;
                }
                served
            })
        })
        .collect();
    for version in 2..40 {
        let target = if version % 2 == 0 { &green } else { &blue };
        let moved = change(version, vec![route("app.localhost", &[target.address])], &[]);
        setup.control.publish(moved).await;
        // What is acknowledged is what the next request sees.
        let expected = if version % 2 == 0 { "green" } else { "blue" };
        assert_eq!(setup.gateway.get("app.localhost", "/").await.1, expected);
    }
    stop.store(true, SeqCst);
    let mut served = 0;
    for client in clients {
        served += timeout(Duration::from_secs(10), client).await.unwrap().unwrap();
    }
    assert!(served > 100, "{served} requests are no load");
    assert_eq!(blue.served() + green.served(), served + 38);
}
