//! Gateways apart from the control plane, each with a data directory of its own.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use launchway_proto::gateway::v1::{WatchRoutesRequest, route_service_client::RouteServiceClient};

use crate::support::{App, Installation, binary, eventually, request};

const HOST: &str = "shop-preview-local.localhost";

/// `serve --role gateway`, ended when it is dropped.
struct Elsewhere {
    dir: tempfile::TempDir,
    bind: SocketAddr,
    gateway: Child,
}

impl Elsewhere {
    /// It has no key of `here` but the one of this file.
    fn start(here: &Installation, key_file: Option<&Path>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bind = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let key_file = key_file.map(|file| format!("gateway.key_file={}", file.display()));
        let settings = [
            Some(format!("gateway.bind={bind}")),
            Some(format!("control.url=http://{}", here.address("control.bind"))),
            key_file,
        ];
        let mut command = binary();
        command.args(["serve", "--role", "gateway", "--data-dir"]).arg(dir.path().join("data"));
        command.args(settings.iter().flatten().flat_map(|setting| ["--set", setting]));
        let log = File::create(dir.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self { gateway: command.spawn().unwrap(), bind, dir }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.gateway.kill();
        let _ = self.gateway.wait();
        if std::thread::panicking() {
            eprintln!("--- a gateway elsewhere\n{}", self.log());
        }
    }
}

fn key_of(here: &Installation) -> PathBuf {
    here.data().join("secrets/gateway-key")
}

#[test]
fn a_gateway_elsewhere_serves_with_the_key_and_is_told_nothing_without_it() {
    let here = Installation::start();
    here.deploy(App::new("hello", "").path(), &["--project", "shop"]);
    let stranger = Elsewhere::start(&here, None);
    let member = Elsewhere::start(&here, Some(&key_of(&here)));
    eventually("the one with the key serves", || {
        (request(member.bind, HOST, "/")?.body == "hello").then_some(())
    });
    eventually("the other one is told the remedy", || {
        stranger.log().contains("gateway.key_file").then_some(())
    });
    assert_ne!(request(stranger.bind, HOST, "/").unwrap().status, 200);
    // Nobody replaces a gateway that serves by one that never will.
    let health = |gateway: &Elsewhere| {
        request(gateway.bind, "localhost", "/.well-known/launchway/health").unwrap().status
    };
    eventually("it is unhealthy", || (health(&stranger) == 503).then_some(()));
    assert_eq!(health(&member), 200);
}

/// Not even an administrator's key is a gateway's.
#[tokio::test(flavor = "multi_thread")]
async fn routes_are_for_gateways_alone() {
    let here = Installation::start();
    let url = format!("http://{}", here.address("control.bind"));
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let watch = async |key: Option<&str>| {
        let mut asked = tonic::Request::new(tokio_stream::iter([WatchRoutesRequest::default()]));
        if let Some(key) = key {
            let bearer = format!("Bearer {}", key.trim()).parse().unwrap();
            asked.metadata_mut().insert("authorization", bearer);
        }
        RouteServiceClient::new(channel.clone()).watch_routes(asked).await.map(drop)
    };
    let admin = fs::read_to_string(here.data().join("secrets/admin-key")).unwrap();
    for refused in [None, Some(admin.as_str())] {
        let status = watch(refused).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unauthenticated);
        assert!(status.message().contains("gateway.key_file"), "{status}");
    }
    let key = fs::read_to_string(key_of(&here)).unwrap();
    watch(Some(&key)).await.unwrap();
}
