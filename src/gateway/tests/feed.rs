use std::{fs, path::Path};

use tokio::time::{Instant, sleep, timeout};

use super::support::*;
use crate::gateway::GatewayError;

/// Polls the file, which is written off the request path.
async fn await_stored(dir: &Path, version: u64) {
    let path = dir.join("routes.json");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stored = fs::read(&path).ok().and_then(|bytes| {
            serde_json::from_slice::<serde_json::Value>(&bytes).ok()?["version"].as_u64()
        });
        if stored == Some(version) {
            return;
        }
        assert!(Instant::now() < deadline, "stored {stored:?} instead of {version}");
        sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn changes_add_replace_and_remove_hosts() {
    let (one, two) = (Instance::named("one").await, Instance::named("two").await);
    let first = vec![route("a.localhost", &[one.address]), route("b.localhost", &[one.address])];
    let mut setup = Setup::new(first).await;
    let moved = vec![route("a.localhost", &[two.address]), route("c.localhost", &[two.address])];
    setup.control.publish(change(2, moved, &["b.localhost"])).await;
    assert_eq!(setup.gateway.get("a.localhost", "/").await.1, "two");
    assert_eq!(setup.gateway.get("b.localhost", "/").await.0, 404);
    assert_eq!(setup.gateway.get("c.localhost", "/").await.1, "two");
    setup.control.publish(snapshot(3, vec![route("b.localhost", &[one.address])])).await;
    assert_eq!(setup.gateway.get("a.localhost", "/").await.0, 404);
    assert_eq!(setup.gateway.get("b.localhost", "/").await.1, "one");
}

#[tokio::test]
async fn a_route_that_cannot_be_served_does_not_stop_the_others() {
    let app = Instance::named("hello").await;
    let mut bad = route("bad.localhost", &[]);
    bad.addresses = vec!["no-port".to_owned()];
    let setup = Setup::new(vec![bad, route("good.localhost", &[app.address])]).await;
    assert_eq!(setup.gateway.get("good.localhost", "/").await.1, "hello");
    assert_eq!(setup.gateway.get("bad.localhost", "/").await.0, 404);
}

#[tokio::test]
async fn the_table_survives_a_control_plane_that_goes_and_comes_back() {
    let (one, two) = (Instance::named("one").await, Instance::named("two").await);
    let setup = Setup::new(vec![route("app.localhost", &[one.address])]).await;
    let Setup { gateway, control, dir: _dir } = setup;
    let address = control.stop().await;
    assert_eq!(gateway.get("app.localhost", "/").await.1, "one");

    let mut control = Control::on(address).await;
    // The new one counts from 1 again: the old number must not pass for it.
    control.await_applied(0).await;
    assert_eq!(gateway.get("app.localhost", "/").await.1, "one");
    control.publish(snapshot(1, vec![route("app.localhost", &[two.address])])).await;
    assert_eq!(gateway.get("app.localhost", "/").await.1, "two");
}

#[tokio::test]
async fn a_restarted_gateway_serves_the_last_table_without_a_control_plane() {
    let app = Instance::named("hello").await;
    let mut setup = Setup::new(vec![]).await;
    let routes = vec![route("app.localhost", &[app.address]), retired("old.localhost")];
    setup.control.publish(change(2, routes, &[])).await;
    await_stored(setup.dir.path(), 2).await;
    let Setup { gateway, control, dir } = setup;
    let address = control.stop().await;
    gateway.stopped().await;

    let gateway = Running::start(config(address, dir.path())).await;
    assert_eq!(gateway.get("app.localhost", "/").await.1, "hello");
    assert_eq!(gateway.get("old.localhost", "/").await.0, 503);
    assert_eq!(gateway.get("new.localhost", "/").await.0, 404);
}

#[tokio::test]
async fn a_feed_that_skips_the_snapshot_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let app = Instance::named("hello").await;
    let mut control = Control::start().await;
    let gateway = Running::start(config(control.address, dir.path())).await;
    control.await_applied(0).await;
    let stray = change(7, vec![route("app.localhost", &[app.address])], &[]);
    control.send(stray).await;
    control.closed().await;
    assert_eq!(gateway.get("app.localhost", "/").await.0, 503);
}

#[tokio::test]
async fn the_token_travels_with_the_feed() {
    let setup = Setup::with(vec![], |config| config.control_token = Some("s3cret".into())).await;
    assert_eq!(setup.control.bearer.lock().unwrap().as_deref(), Some("Bearer s3cret"));
}

/// Checklist 32.
#[tokio::test]
async fn settings_that_cannot_work_are_named_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let start = |adjust: fn(&mut crate::gateway::GatewayConfig)| {
        let mut config = config("127.0.0.1:1".parse().unwrap(), dir.path());
        adjust(&mut config);
        async move {
            let listener = config.listen().unwrap();
            let serving = crate::gateway::serve(config, listener, std::future::pending());
            timeout(PATIENCE, serving).await.unwrap().unwrap_err().to_string()
        }
    };
    let error = start(|config| config.control_url = "control plane".into()).await;
    assert!(error.contains("`control plane`") && error.contains("http://"), "{error}");
    let error = start(|config| config.max_header_bytes = 10).await;
    assert!(error.contains("max_header_bytes = 10") && error.contains("8192"), "{error}");
    let error = start(|config| config.control_token = Some("a\nb".into())).await;
    assert!(!error.contains("a\nb"), "{error}");
}

#[tokio::test]
async fn a_taken_port_is_named_and_shared_only_on_purpose() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = config("127.0.0.1:1".parse().unwrap(), dir.path());
    first.reuse_port = true;
    let listener = first.listen().unwrap();
    let mut second = first.clone();
    second.bind = listener.local_addr().unwrap();
    let shared = second.listen();
    assert!(shared.is_ok());
    second.reuse_port = false;
    let error = second.listen().unwrap_err();
    assert!(matches!(error, GatewayError::Bind { .. }));
    assert!(error.to_string().contains(&second.bind.to_string()), "{error}");
}
