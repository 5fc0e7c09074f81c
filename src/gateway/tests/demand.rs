//! Deployments that are evicted: their requests wait, and nobody else is asked for.

use std::time::Duration;

use http_body_util::BodyExt;
use launchway_proto::gateway::v1::Route;
use tokio::time::{Instant, timeout};

use super::support::*;

const SOON: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_request_for_an_evicted_deployment_has_it_started_and_is_answered() {
    let app = Instance::mirror().await;
    let mut setup = Setup::new(vec![evicted("app.localhost")]).await;
    let post = "POST /cart HTTP/1.1\r\nhost: app.localhost\r\ncontent-length: 4\r\nconnection: close\r\n\r\nmilk";
    let (answer, ()) = tokio::join!(setup.gateway.raw(post.as_bytes()), async {
        setup.control.wanted("dep_app").await;
        setup.control.publish(change(2, vec![route("app.localhost", &[app.address])], &[])).await;
    });
    let (status, body) = split(&answer);
    assert_eq!(status, 200, "{answer}");
    assert!(body.starts_with("POST /cart") && body.ends_with("milk"), "{body}");
}

/// Where an instance is comes a moment after that its deployment serves.
#[tokio::test]
async fn a_request_waits_a_moment_for_an_instance_and_is_told_when_none_comes() {
    let app = Instance::named("hello").await;
    let mut setup = Setup::new(vec![route("app.localhost", &[])]).await;
    let ((status, body), ()) = tokio::join!(setup.gateway.get("app.localhost", "/"), async {
        let waits =
            async { while !metrics(&setup.gateway).await.contains("requests_waiting 1") {} };
        timeout(PATIENCE, waits).await.expect("the request waits");
        setup.control.publish(change(2, vec![route("app.localhost", &[app.address])], &[])).await;
    });
    assert_eq!((status, body.as_str()), (200, "hello"));
    setup.control.publish(change(3, vec![route("app.localhost", &[])], &[])).await;
    let (status, body) = setup.gateway.get("app.localhost", "/").await;
    assert_eq!(status, 503);
    assert!(body.contains("no ready instance"), "{body}");
}

#[tokio::test]
async fn a_start_that_takes_too_long_is_told_with_the_way_to_the_reason() {
    let adjust = |config: &mut crate::gateway::GatewayConfig| config.start_wait = SOON;
    let setup = Setup::with(vec![evicted("app.localhost")], adjust).await;
    let request = "GET / HTTP/1.1\r\nhost: app.localhost\r\naccept: application/json\r\nconnection: close\r\n\r\n";
    let answer = setup.gateway.raw(request.as_bytes()).await;
    let (status, body) = split(&answer);
    let page: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, page["error"]["code"].as_str()), (503, Some("not_started")), "{answer}");
    assert!(page["error"]["remedy"].as_str().unwrap().contains("launchway why dep_app"), "{body}");
    assert!(answer.contains("retry-after: 5"), "{answer}");
}

/// Whoever waits hears of the failure at once, and whoever comes then has it tried
/// again.
#[tokio::test]
async fn requests_do_not_wait_for_a_start_that_has_failed() {
    let app = Instance::named("hello").await;
    let mut setup = Setup::new(vec![evicted("app.localhost")]).await;
    let failed = Route { start_failed: true, ..evicted("app.localhost") };
    let ((status, _), ()) = tokio::join!(setup.gateway.get("app.localhost", "/"), async {
        setup.control.wanted("dep_app").await;
        setup.control.publish(change(2, vec![failed.clone()], &[])).await;
    });
    assert_eq!(status, 503);
    let ((status, body), ()) = tokio::join!(setup.gateway.get("app.localhost", "/"), async {
        setup.control.wanted("dep_app").await;
        setup.control.publish(change(3, vec![evicted("app.localhost")], &[])).await;
        setup.control.publish(change(4, vec![route("app.localhost", &[app.address])], &[])).await;
    });
    assert_eq!((status, body.as_str()), (200, "hello"));
}

async fn metrics(gateway: &Running) -> String {
    gateway.get("localhost", "/.well-known/launchway/metrics").await.1
}

#[tokio::test]
async fn one_deployment_does_not_take_all_the_places() {
    let setup = Setup::new(vec![evicted("app.localhost"), evicted("other.localhost")]).await;
    let Setup { gateway, mut control, dir: _dir } = setup;
    let gateway = std::sync::Arc::new(gateway);
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let gateway = std::sync::Arc::clone(&gateway);
            tokio::spawn(async move { gateway.get("app.localhost", "/").await.0 })
        })
        .collect();
    let begun = Instant::now();
    while !metrics(&gateway).await.contains("launchway_gateway_requests_waiting 100\n") {
        assert!(begun.elapsed() < PATIENCE, "they do not wait");
    }
    assert_eq!(gateway.get("app.localhost", "/").await.0, 503, "one more of it");
    let other = Instance::named("other").await;
    let ((status, _), ()) = tokio::join!(gateway.get("other.localhost", "/"), async {
        control.wanted("dep_other").await;
        control.publish(change(2, vec![route("other.localhost", &[other.address])], &[])).await;
    });
    assert_eq!(status, 200);
    control.publish(change(3, vec![], &["app.localhost"])).await;
    for one in waiting {
        assert_eq!(one.await.unwrap(), 404);
    }
}

#[tokio::test]
async fn a_host_that_is_taken_away_while_requests_wait_is_unknown() {
    let mut setup = Setup::new(vec![evicted("app.localhost")]).await;
    let ((status, _), ()) = tokio::join!(setup.gateway.get("app.localhost", "/"), async {
        setup.control.wanted("dep_app").await;
        setup.control.publish(change(2, vec![], &["app.localhost"])).await;
    });
    assert_eq!(status, 404);
}

#[tokio::test]
async fn the_control_plane_is_asked_again_after_it_came_back() {
    let app = Instance::named("hello").await;
    let setup = Setup::new(vec![evicted("app.localhost")]).await;
    let Setup { gateway, mut control, dir: _dir } = setup;
    let ((status, body), _control) = tokio::join!(gateway.get("app.localhost", "/"), async {
        control.wanted("dep_app").await;
        // Killed before it has done anything.
        let mut control = Control::on(control.stop().await).await;
        control.send(snapshot(1, vec![evicted("app.localhost")])).await;
        control.wanted("dep_app").await;
        control.publish(change(2, vec![route("app.localhost", &[app.address])], &[])).await;
        control
    });
    assert_eq!((status, body.as_str()), (200, "hello"));
}

#[tokio::test]
async fn requests_and_open_streams_are_reported_and_silence_is_not() {
    let (sender, stream) = channel_body();
    let stream = std::sync::Arc::new(std::sync::Mutex::new(Some(stream)));
    let streaming = Instance::start(move |_| {
        let body = stream.lock().unwrap().take().unwrap();
        async move { hyper::Response::new(body) }
    });
    let (asked, silent) = (Instance::named("hello").await, Instance::named("").await);
    let streaming = streaming.await;
    let routes = vec![
        route("stream.localhost", &[streaming.address]),
        route("asked.localhost", &[asked.address]),
        route("silent.localhost", &[silent.address]),
    ];
    let adjust = |config: &mut crate::gateway::GatewayConfig| config.report_every = SOON;
    let mut setup = Setup::with(routes, adjust).await;
    let mut client = h1_client(setup.address()).await;
    let request = hyper::Request::get("/").header("host", "stream.localhost");
    let response = client.send_request(request.body(text("")).unwrap()).await.unwrap();
    setup.gateway.get("asked.localhost", "/").await;
    // The request counts once, the stream for as long as it is open.
    let begun = Instant::now();
    let mut seen = Vec::new();
    while seen.iter().filter(|id| *id == "dep_stream").count() < 4 {
        seen.extend(setup.control.active().await);
        assert!(begun.elapsed() < PATIENCE, "{seen:?}");
    }
    assert_eq!(seen.iter().filter(|id| *id == "dep_asked").count(), 1, "{seen:?}");
    assert!(!seen.contains(&"dep_silent".to_owned()), "{seen:?}");
    drop(sender);
    response.into_body().collect().await.unwrap();
}
