use super::support::*;

#[tokio::test]
async fn a_host_is_routed_whatever_its_spelling() {
    let app = Instance::named("hello").await;
    let setup = Setup::new(vec![route("app.localhost", &[app.address])]).await;
    for host in ["app.localhost", "APP.Localhost:8000", "app.localhost.", "app.localhost.:80"] {
        assert_eq!(setup.gateway.get(host, "/").await, (200, "hello".to_owned()), "{host}");
    }
}

#[tokio::test]
async fn an_unknown_host_is_404_with_host_and_request_id() {
    let setup = Setup::new(vec![]).await;
    let request = b"GET / HTTP/1.1\r\nhost: Nobody.localhost\r\nx-request-id: trace-7\r\n\
                    connection: close\r\n\r\n";
    let answer = setup.gateway.raw(request).await;
    let (status, body) = split(&answer);
    assert_eq!(status, 404);
    assert!(body.contains("nobody.localhost") && body.contains("trace-7"), "{body}");
    assert!(answer.contains("x-request-id: trace-7") && answer.contains("text/plain"), "{answer}");
}

#[tokio::test]
async fn browsers_get_html_and_programs_get_json() {
    let setup = Setup::new(vec![]).await;
    let ask = |accept: &str| {
        format!(
            "GET / HTTP/1.1\r\nhost: x.localhost\r\naccept: {accept}\r\nconnection: close\r\n\r\n"
        )
    };
    let html = setup.gateway.raw(ask("text/html,*/*;q=0.8").as_bytes()).await;
    assert!(html.contains("content-type: text/html") && html.contains("<h1>"), "{html}");
    let json = setup.gateway.raw(ask("application/json").as_bytes()).await;
    let (_, body) = split(&json);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["error"]["code"], "unknown_host");
    assert_eq!(body["host"], "x.localhost");
    assert_eq!(body["request_id"].as_str().unwrap().len(), 32);
}

#[tokio::test]
async fn a_retired_deployment_names_the_way_back() {
    let setup = Setup::new(vec![retired("old.localhost")]).await;
    let (status, body) = setup.gateway.get("old.localhost", "/").await;
    assert_eq!(status, 503);
    assert!(body.contains("launchway promote dep_old"), "{body}");
}

#[tokio::test]
async fn no_ready_instance_is_503_and_says_when_to_come_back() {
    let setup = Setup::new(vec![route("new.localhost", &[])]).await;
    let request = b"GET / HTTP/1.1\r\nhost: new.localhost\r\nconnection: close\r\n\r\n";
    let answer = setup.gateway.raw(request).await;
    assert_eq!(split(&answer).0, 503);
    assert!(answer.contains("retry-after: 2"), "{answer}");
}

#[tokio::test]
async fn an_instance_that_refuses_is_502_without_its_address() {
    let closed = closed_address().await;
    let setup = Setup::new(vec![route("down.localhost", &[closed])]).await;
    let (status, body) = setup.gateway.get("down.localhost", "/").await;
    assert_eq!(status, 502);
    assert!(!body.contains("127.0.0.1") && !body.contains(&closed.port().to_string()), "{body}");
}

#[tokio::test]
async fn an_instance_that_does_not_answer_is_504() {
    let hung = Instance::start(|_| std::future::pending()).await;
    let routes = vec![route("slow.localhost", &[hung.address])];
    let limit = std::time::Duration::from_millis(200);
    let setup = Setup::with(routes, |config| config.response_timeout = limit).await;
    assert_eq!(setup.gateway.get("slow.localhost", "/").await.0, 504);
}

#[tokio::test]
async fn before_the_first_routes_it_says_that_it_is_starting() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Running::start(config(closed_address().await, dir.path())).await;
    let (status, body) = gateway.get("app.localhost", "/").await;
    assert_eq!(status, 503);
    assert!(body.contains("no routes yet"), "{body}");
    let (status, body) = gateway.get("localhost", "/.well-known/launchway/health").await;
    let health: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &health["feed"]), (200, &"disconnected".into()));
}

#[tokio::test]
async fn health_tells_the_version_and_the_routes() {
    let app = Instance::named("hello").await;
    let setup = Setup::new(vec![route("app.localhost", &[app.address])]).await;
    for host in ["localhost:8000", "127.0.0.1", "[::1]:8000"] {
        let (status, body) = setup.gateway.get(host, "/.well-known/launchway/health").await;
        let health: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, 200, "{host}");
        assert_eq!(health["applied_version"], 1);
        assert_eq!(health["routes"], 1);
    }
    // An application's own path of that name stays its own.
    let (_, body) = setup.gateway.get("app.localhost", "/.well-known/launchway/health").await;
    assert_eq!(body, "hello");
}
