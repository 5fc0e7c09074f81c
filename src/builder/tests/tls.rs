//! Who is let in to a BuildKit behind mutual TLS, what a cut connection is, and a
//! BuildKit on a socket.

use std::time::Duration;

use launchway_workflows::{
    error::{ErrorCode, StepError},
    model::BuildOptions,
    ports::Builder,
};
use tokio::sync::mpsc;

use super::{
    bench::{Backend, Bench, HEAD, OWNER, run},
    servers::{engine::current_engine, forwarder::forward_socket, registry::PASSWORD},
    suite::{gone, started, unique_seconds},
};
use crate::builder::{Address, BuildkitBuilder};

#[tokio::test]
async fn only_a_client_with_its_certificate_is_let_in() {
    let bench = Bench::new(Backend::Buildkit, HEAD).await;
    bench.run().await.image();
    let forwarder = bench.forwarder.as_ref().unwrap();
    let unnamed = match forwarder.client() {
        Address::Tcp { host, port, tls: Some(mut tls) } => {
            tls.server_name = "another.test".to_owned();
            Address::Tcp { host, port, tls: Some(tls) }
        }
        other => other,
    };
    for (who, address) in [
        ("a stranger's certificate", forwarder.stranger()),
        ("no TLS", forwarder.bare()),
        ("another authority of the server", forwarder.distrusting()),
        ("another name of the server", unnamed),
    ] {
        let settings = bench.registry.settings(PASSWORD);
        let builder = BuildkitBuilder::new(address, settings, OWNER);
        let (events, _received) = mpsc::channel(16);
        let spec = bench.spec(BuildOptions::default()).await;
        let error = builder.build(&spec, events).await.expect_err(who);
        assert_eq!(error.failure().code, ErrorCode::BuilderUnavailable, "{who}: {error:?}");
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_is_a_lost_builder_and_ends_the_build() {
    let seconds = unique_seconds(3);
    let dockerfile = run(&format!("/bin/busybox sleep {seconds}"));
    let bench = Bench::new(Backend::Buildkit, &dockerfile).await;
    let spec = bench.spec(BuildOptions::default()).await;
    let building = started(&bench, spec, &seconds).await;
    bench.forwarder.as_ref().unwrap().cut();
    let lost = building.await.unwrap().unwrap_err();
    assert!(matches!(lost, StepError::Transient(_)), "{lost:?}");
    assert_eq!(lost.failure().code, ErrorCode::BuilderUnavailable, "{lost:?}");
    gone(&seconds, Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_buildkitd_on_a_socket_builds_and_pushes() {
    let bench = Bench::new(Backend::Buildkit, HEAD).await;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("buildkitd.sock");
    forward_socket(&socket, current_engine());
    let settings = bench.registry.settings(PASSWORD);
    let builder = BuildkitBuilder::new(Address::Unix(socket), settings, OWNER);
    let spec = bench.spec(BuildOptions::default()).await;
    let (events, mut received) = mpsc::channel(16);
    let (built, ()) = tokio::join!(builder.build(&spec, events), async {
        while received.recv().await.is_some() {}
    });
    assert!(builder.has_image(&built.unwrap()).await.unwrap());
}
