use std::path::Path;

use serde_json::Value;

use super::support::*;
use crate::gateway::AccessLog;

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Checklist 59-61.
#[tokio::test]
async fn each_request_is_one_line_of_plain_fields_without_its_query() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let app = Instance::mirror().await;
    let routes = vec![route("app.localhost", &[closed_address().await, app.address])];
    let file = AccessLog::File(log.clone());
    let setup = Setup::with(routes, |config| config.access_log = file).await;
    let request = b"POST /path?token=s3cret HTTP/1.1\r\nhost: App.localhost:80\r\n\
                    content-length: 4\r\nconnection: close\r\n\r\nbody";
    let (_, seen) = split(&setup.gateway.raw(request).await);
    setup.gateway.get("nobody.localhost", "/").await;
    setup.gateway.stopped().await;

    let lines = lines(&log);
    assert_eq!(lines.len(), 2, "{lines:?}");
    let line = &lines[0];
    assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    assert!(line["duration_ms"].as_f64().unwrap() > 0.0, "{line}");
    assert_eq!(line["request_id"].as_str().unwrap().len(), 32, "{line}");
    for (field, expected) in [
        ("client", Value::from("127.0.0.1")),
        ("method", "POST".into()),
        ("host", "app.localhost".into()),
        ("path", "/path".into()),
        ("protocol", "HTTP/1.1".into()),
        ("status", 200.into()),
        ("complete", true.into()),
        ("request_bytes", 4.into()),
        ("response_bytes", seen.len().into()),
        ("deployment_id", "dep_app".into()),
        ("attempts", 2.into()),
    ] {
        assert_eq!(line[field], expected, "{field} of {line}");
    }
    assert_eq!(lines[1]["status"], 404);
    assert_eq!(lines[1]["deployment_id"], "");
    assert_eq!(lines[1]["attempts"], 0);
}

#[tokio::test]
async fn a_log_that_cannot_be_written_is_named_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(closed_address().await, dir.path());
    config.access_log = AccessLog::File(dir.path().to_owned());
    let listener = config.listen().unwrap();
    let error = crate::gateway::serve(config, listener, std::future::pending()).await.unwrap_err();
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
}

#[tokio::test]
async fn metrics_tell_what_has_happened() {
    let app = Instance::named("hello").await;
    let routes = vec![route("app.localhost", &[closed_address().await, app.address])];
    let setup = Setup::new(routes).await;
    for _ in 0..3 {
        assert_eq!(setup.gateway.get("app.localhost", "/").await.0, 200);
    }
    setup.gateway.get("nobody.localhost", "/").await;
    let (status, text) = setup.gateway.get("127.0.0.1", "/.well-known/launchway/metrics").await;
    assert_eq!(status, 200);
    for expected in [
        "launchway_gateway_requests_total{status=\"2xx\"} 3",
        "launchway_gateway_requests_total{status=\"4xx\"} 1",
        "launchway_gateway_faults_total{code=\"unknown_host\"} 1",
        "launchway_gateway_request_duration_seconds_count 4",
        "launchway_gateway_response_bytes_total ",
        "launchway_gateway_retries_total 1",
        "launchway_gateway_instance_failures_total{kind=\"refused\"} 1",
        "launchway_gateway_requests_in_flight 0",
        // This one, and earlier ones whose end has not been noticed yet.
        "launchway_gateway_connections ",
        "launchway_gateway_routes 1",
        "launchway_gateway_table_version 1",
        "launchway_gateway_feed_connected 1",
    ] {
        assert!(text.contains(expected), "{expected} is missing in {text}");
    }
}

/// A proxy on this machine must not tell them to the world.
#[tokio::test]
async fn metrics_are_not_told_through_a_proxy() {
    let setup = Setup::new(vec![]).await;
    let request = b"GET /.well-known/launchway/metrics HTTP/1.1\r\nhost: localhost\r\n\
                    x-forwarded-for: 192.0.2.7\r\nconnection: close\r\n\r\n";
    assert_eq!(split(&setup.gateway.raw(request).await).0, 404);
}

#[tokio::test]
async fn metrics_may_have_an_address_of_their_own() {
    let bind = closed_address().await;
    let setup = Setup::with(vec![], |config| config.metrics_bind = Some(bind)).await;
    let mut client = h1_client(bind).await;
    let request = hyper::Request::get("/metrics").header("host", "any").body(text("")).unwrap();
    let (status, text) = read(client.send_request(request).await.unwrap()).await;
    assert_eq!(status, 200);
    assert!(text.contains("launchway_gateway_routes 0"), "{text}");
    drop(setup);
}
