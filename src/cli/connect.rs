//! Connecting to the control API.

use std::time::Duration;

use launchway_proto::ctrl::v1::{
    build_service_client::BuildServiceClient, cleanup_service_client::CleanupServiceClient,
    deployment_service_client::DeploymentServiceClient, domain_service_client::DomainServiceClient,
    environment_service_client::EnvironmentServiceClient, key_service_client::KeyServiceClient,
    project_service_client::ProjectServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use super::{Failure, args::Global, exit::Exit};
use crate::up::{config_path, read_credentials};

const DEFAULT_URL: &str = "http://127.0.0.1:7091";
const CONNECT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Adds the API key to every call.
#[derive(Clone)]
pub(super) struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

type Authorized = InterceptedService<Channel, Bearer>;

/// The control API.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) deployments: DeploymentServiceClient<Authorized>,
    pub(super) builds: BuildServiceClient<Authorized>,
    pub(super) domains: DomainServiceClient<Authorized>,
    pub(super) cleanup: CleanupServiceClient<Authorized>,
    pub(super) runtime: RuntimeServiceClient<Authorized>,
    pub(super) environments: EnvironmentServiceClient<Authorized>,
    pub(super) projects: ProjectServiceClient<Authorized>,
    pub(super) keys: KeyServiceClient<Authorized>,
}

pub(super) async fn connect(global: &Global) -> Result<Api, Failure> {
    let path = config_path();
    let credentials = read_credentials(&path)
        .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", path.display())))?;
    let url = global.url.clone().unwrap_or_else(|| match credentials.default.is_empty() {
        true => DEFAULT_URL.to_owned(),
        false => credentials.default.clone(),
    });
    let url = url.trim_end_matches('/').to_owned();
    let known = credentials.servers.get(&url).map(|server| server.token.clone());
    let token = global.token.clone().or(known).ok_or_else(|| {
        Failure::new(
            Exit::Auth,
            format!(
                "no API key for {url}: start `launchway up` as this user, or pass --token or LAUNCHWAY_TOKEN"
            ),
        )
    })?;
    let bearer = format!("Bearer {token}").parse().map_err(|_| {
        Failure::new(Exit::Auth, "the API key has characters that a key cannot have")
    })?;
    let channel = Endpoint::from_shared(url.clone())
        .map_err(|error| Failure::usage(format!("--url {url}: {error}")))?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect()
        .await
        .map_err(|error| {
            let cause = crate::http::deepest(&error);
            Failure::usage(format!(
                "the control API does not answer at {url} ({cause}): start it with `launchway up --detach`, or pass --url"
            ))
        })?;
    let bearer = Bearer(bearer);
    Ok(Api {
        deployments: DeploymentServiceClient::with_interceptor(channel.clone(), bearer.clone()),
        runtime: RuntimeServiceClient::with_interceptor(channel.clone(), bearer.clone()),
        domains: DomainServiceClient::with_interceptor(channel.clone(), bearer.clone()),
        cleanup: CleanupServiceClient::with_interceptor(channel.clone(), bearer.clone()),
        environments: EnvironmentServiceClient::with_interceptor(channel.clone(), bearer.clone()),
        projects: ProjectServiceClient::with_interceptor(channel.clone(), bearer.clone()),
        keys: KeyServiceClient::with_interceptor(channel.clone(), bearer.clone()),
        builds: BuildServiceClient::with_interceptor(channel, bearer),
    })
}
