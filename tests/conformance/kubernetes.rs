//! krane on Kubernetes, with the API server of the tests: its kubelet runs pods as
//! containers of this machine's Docker engine.

use std::{net::SocketAddr, sync::Mutex, time::Duration};

use async_trait::async_trait;
use launchway::krane::{
    Admitted, Cluster, KraneService, KubernetesBackend, KubernetesSettings, Patience, PodSecurity,
    Probes, Quota,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;

use crate::{
    cluster::TestCluster,
    docker::docker,
    harness::{Harness, run},
    image::import,
};

pub struct Kubernetes {
    image: String,
    probes: Probes,
    cluster: TestCluster,
    server: Mutex<Option<Server>>,
}

struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Kubernetes {
    async fn start(probes: Probes) -> Self {
        let image = format!("launchway/conformance-{}:1", uuid::Uuid::new_v4().simple());
        import(&image);
        let (cluster, server) = (TestCluster::start(), Mutex::default());
        let this = Self { image, probes, cluster, server };
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
            probes: self.probes,
            patience: Patience { schedule: Duration::from_secs(10), pull: Duration::from_secs(3) },
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

    fn reaches_instances(&self) -> bool {
        self.probes == Probes::Krane
    }

    fn tells_answers(&self) -> bool {
        self.probes == Probes::Krane
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
            let harness = Kubernetes::start(Probes::Krane).await;
            run(&harness, crate::cases::$group::$case).await;
        }
    )*};
}
crate::every_case!(on_kubernetes);

/// krane is not in the cluster: the kubelet asks.
mod probed_by_the_kubelet {
    use super::*;

    macro_rules! on_kubernetes {
        ($($group:ident::$case:ident,)*) => {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let harness = Kubernetes::start(Probes::Kubelet).await;
                run(&harness, crate::cases::$group::$case).await;
            }
        )*};
    }
    on_kubernetes! {
        lifecycle::scaling_only_adds_and_removes,
        lifecycle::a_change_makes_new_instances_while_some_are_ready,
        lifecycle::another_krane_takes_up_what_runs,
        failures::an_exit_before_ready_is_told_with_code_and_last_lines,
        failures::one_that_ends_after_it_was_ready_is_started_again,
        failures::an_image_that_is_nowhere_is_named_and_leaves_nothing,
        health::a_slow_start_is_told_and_waited_for,
        health::an_answer_of_500_is_not_ready,
        health::a_command_in_the_instance_decides,
        health::one_that_is_not_ready_within_its_start_period_is_ended,
    }
}
