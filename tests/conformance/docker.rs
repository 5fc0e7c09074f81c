//! krane on this machine's Docker engine, served by the test itself.

use std::{net::SocketAddr, process::Command, sync::Mutex, time::Duration};

use async_trait::async_trait;
use launchway::{
    krane::{DockerBackend, DockerSettings, KraneService},
    registry::Login,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;

use crate::{
    harness::{Harness, run},
    image::import,
};

/// An owner of its own, with everything it made removed at the end.
pub struct Docker {
    owner: String,
    /// As it was made.
    local: String,
    /// As krane is told it.
    image: String,
    login: Option<Login>,
    server: Mutex<Option<Server>>,
}

struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Docker {
    async fn start() -> Self {
        Self::start_with(None, str::to_owned).await
    }

    /// With the image put somewhere else.
    pub async fn start_with(login: Option<Login>, put: impl FnOnce(&str) -> String) -> Self {
        let owner = format!("conformance-{}", uuid::Uuid::new_v4().simple());
        let local = format!("launchway/{owner}:1");
        import(&local);
        let image = put(&local);
        let this = Self { owner, local, image, login, server: Mutex::default() };
        this.serve().await;
        this
    }

    async fn serve(&self) {
        let settings = DockerSettings { owner: self.owner.clone(), login: self.login.clone() };
        let backend = std::sync::Arc::new(DockerBackend::start(settings).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(KraneService::server(backend))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        *self.server.lock().unwrap() = Some(Server { address, task });
    }

    fn list(&self, what: &[&str]) -> Vec<String> {
        let label = format!("label=launchway.owner={}", self.owner);
        docker(&[what, &["-q", "--filter", &label]].concat())
    }
}

#[async_trait]
impl Harness for Docker {
    fn url(&self) -> String {
        format!("http://{}", self.server.lock().unwrap().as_ref().unwrap().address)
    }

    fn image(&self) -> String {
        self.image.clone()
    }

    /// About 190 ms without load, of which an exec takes 150.
    fn report_limit(&self) -> Duration {
        Duration::from_millis(500)
    }

    /// Networks too: environments come and go.
    async fn left_over(&self) -> Vec<String> {
        [self.list(&["ps", "-a"]), self.list(&["network", "ls"])].concat()
    }

    async fn restart(&self) -> bool {
        let server = self.server.lock().unwrap().take().unwrap();
        server.task.abort();
        let _ = server.task.await;
        self.serve().await;
        true
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        for container in self.list(&["ps", "-a"]) {
            docker(&["rm", "-f", &container]);
        }
        for network in self.list(&["network", "ls"]) {
            docker(&["network", "rm", &network]);
        }
        docker(&["rmi", "-f", &self.image, &self.local]);
    }
}

pub fn docker(args: &[&str]) -> Vec<String> {
    let output = Command::new("docker").args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

macro_rules! on_docker {
    ($($group:ident::$case:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let harness = Docker::start().await;
            run(&harness, crate::cases::$group::$case).await;
        }
    )*};
}
crate::every_case!(on_docker);
