//! krane on Kubernetes, with the API server of the tests: its kubelet runs pods as
//! containers of this machine's Docker engine.

use std::{net::SocketAddr, sync::Mutex, time::Duration};

use async_trait::async_trait;
use launchway::krane::{
    Admitted, Cluster, KraneService, KubernetesBackend, KubernetesSettings, PodSecurity, Probes,
    Quota,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;

use crate::{
    cluster::TestCluster,
    docker::{docker, import},
    harness::{Harness, run},
};

pub struct Kubernetes {
    image: String,
    cluster: TestCluster,
    server: Mutex<Option<Server>>,
}

struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Kubernetes {
    async fn start() -> Self {
        let image = format!("launchway/conformance-{}:1", uuid::Uuid::new_v4().simple());
        import(&image);
        let this = Self { image, cluster: TestCluster::start(), server: Mutex::default() };
        this.serve().await;
        this
    }

    async fn serve(&self) {
        let settings = KubernetesSettings {
            owner: "conformance".to_owned(),
            cluster: Cluster { kubeconfig: Some(self.cluster.kubeconfig()), context: None },
            namespace_prefix: "launchway-".to_owned(),
            registry: None,
            gateway: Admitted { namespace: "launchway".to_owned(), ..Admitted::default() },
            quota: Quota::default(),
            security: PodSecurity::Baseline,
            read_only_root: false,
            run_as_user: None,
            autoscale: None,
            probes: Probes::Krane,
            schedule_timeout: Duration::from_secs(10),
        };
        let backend = std::sync::Arc::new(KubernetesBackend::start(settings).await.unwrap());
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
}

#[async_trait]
impl Harness for Kubernetes {
    fn url(&self) -> String {
        format!("http://{}", self.server.lock().unwrap().as_ref().unwrap().address)
    }

    fn image(&self) -> String {
        self.image.clone()
    }

    async fn restart(&self) -> bool {
        let server = self.server.lock().unwrap().take().unwrap();
        server.task.abort();
        let _ = server.task.await;
        self.serve().await;
        true
    }

    fn splits_streams(&self) -> bool {
        false
    }

    fn ends_unread_commands(&self) -> bool {
        false
    }

    fn limits_processes(&self) -> bool {
        false
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        self.cluster.remove_containers();
        docker(&["rmi", "-f", &self.image]);
    }
}

macro_rules! on_kubernetes {
    ($($group:ident::$case:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let harness = Kubernetes::start().await;
            run(&harness, crate::cases::$group::$case).await;
        }
    )*};
}
crate::every_case!(on_kubernetes);
