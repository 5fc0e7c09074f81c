//! The control API: `ctrl.v1` for people and programs, `gateway.v1` for
//! gateways, on one port, with health and reflection.

mod actions;
mod auth;
mod builds;
mod cleanup;
mod convert;
mod demand;
mod deployments;
mod domains;
mod environments;
mod explain;
mod journal;
mod keys;
mod projects;
mod routes;
mod runtime;
mod secrets;
mod watch;

use std::{future::Future, sync::Arc};

use launchway_proto::{
    DESCRIPTORS,
    ctrl::v1::{
        build_service_server::BuildServiceServer, cleanup_service_server::CleanupServiceServer,
        deployment_service_server::DeploymentServiceServer,
        domain_service_server::DomainServiceServer,
        environment_service_server::EnvironmentServiceServer, key_service_server::KeyServiceServer,
        project_service_server::ProjectServiceServer, runtime_service_server::RuntimeServiceServer,
    },
    gateway::v1::route_service_server::RouteServiceServer,
};
use launchway_workflows::{ids::WorkspaceId, secret::Secret, why::Limits};
use tokio::net::TcpListener;
use tonic::{
    Status,
    service::interceptor::InterceptedService,
    transport::server::{Router, TcpIncoming},
};

pub use demand::{Demand, IdleSettings};
pub use journal::keep as keep_journals;
pub use routes::RouteFeed;

use crate::{
    config::Gateway,
    krane::KraneClient,
    restate::{admin::AdminClient, ingress::IngressClient, workflows::Workflows},
    storage::S3Storage,
    store::Store,
    vault::Vault,
};

/// Why nothing new is begun; `None`: it is.
pub type Closed = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// What the API is made of.
#[derive(Clone)]
pub struct Control {
    /// Database.
    pub store: Store,
    /// Object store.
    pub storage: S3Storage,
    /// Where workflows are started.
    pub ingress: IngressClient,
    /// Where journals are read.
    pub admin: AdminClient,
    /// Where workflows are ended.
    pub workflows: Workflows,
    /// For the URLs that are shown.
    pub gateway: Gateway,
    /// Under it launchway gives names itself.
    pub apex: String,
    /// Whose projects these are.
    pub workspace: WorkspaceId,
    /// Larger contexts get no upload URL.
    pub max_context_bytes: u64,
    /// After how long what happens by itself.
    pub limits: Limits,
    /// Seals build secrets and variables.
    pub vault: Vault,
    /// What runs.
    pub krane: KraneClient,
    /// Who asks for what.
    pub demand: Arc<Demand>,
    /// Routes for gateways.
    pub routes: Arc<RouteFeed>,
    /// What gateways show to be given them.
    pub gateway_key: Secret,
    /// Whether new work is taken.
    pub closed: Closed,
}

impl Control {
    /// Serves on the listener until `stop`.
    ///
    /// # Errors
    /// The server breaks.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        self.router().await?.serve_with_incoming_shutdown(incoming, stop).await
    }

    fn shown(&self) -> convert::Shown<'_> {
        convert::Shown { gateway: &self.gateway, idle_timeout: self.demand.idle_timeout() }
    }

    /// Refuses to begin what somebody who stops launchway would have to wait for.
    fn open_for(&self, what: &str) -> Result<(), Status> {
        match (self.closed)() {
            None => Ok(()),
            Some(why) => Err(Status::failed_precondition(format!("the {what} is refused: {why}"))),
        }
    }

    async fn router(self) -> Result<Router, tonic::transport::Error> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<DeploymentServiceServer<Control>>().await;
        health.set_serving::<BuildServiceServer<Control>>().await;
        let authenticate = auth::Authenticate::new(self.store.clone());
        let routes = RouteServiceServer::from_arc(Arc::clone(&self.routes));
        let routes = InterceptedService::new(routes, auth::of_gateways(&self.gateway_key));
        let api = Arc::new(self);
        let deployments = DeploymentServiceServer::from_arc(Arc::clone(&api));
        let domains = DomainServiceServer::from_arc(Arc::clone(&api));
        let cleanup = CleanupServiceServer::from_arc(Arc::clone(&api));
        let runtime = RuntimeServiceServer::from_arc(Arc::clone(&api));
        let environments = EnvironmentServiceServer::from_arc(Arc::clone(&api));
        let keys = KeyServiceServer::from_arc(Arc::clone(&api));
        let projects = ProjectServiceServer::from_arc(Arc::clone(&api));
        let builds = BuildServiceServer::from_arc(api);
        let mut router = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(std::time::Duration::from_secs(5)))
            .http2_keepalive_timeout(Some(std::time::Duration::from_secs(5)))
            .add_service(health_service)
            .add_service(auth::guard(authenticate.clone(), deployments))
            .add_service(auth::guard(authenticate.clone(), domains))
            .add_service(auth::guard(authenticate.clone(), cleanup))
            .add_service(auth::guard(authenticate.clone(), runtime))
            .add_service(auth::guard(authenticate.clone(), environments))
            .add_service(auth::guard(authenticate.clone(), keys))
            .add_service(auth::guard(authenticate.clone(), projects))
            .add_service(auth::guard(authenticate, builds))
            .add_service(routes);
        // The descriptors are made by our own build: they are well-formed.
        if let Ok(reflection) = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .build_v1()
        {
            router = router.add_service(reflection);
        }
        Ok(router)
    }
}
