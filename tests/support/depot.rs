//! A fake of Depot's API, written from its protocol, that hands out a real
//! BuildKit, and the faults that it may have.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use launchway::builder::Address;
use launchway_proto::depot::{
    cli::v1::{
        Cert, CreateBuildRequest, CreateBuildResponse, FinishBuildRequest, FinishBuildResponse,
        GetBuildKitConnectionRequest, GetBuildKitConnectionResponse, ReportBuildHealthRequest,
        ReportBuildHealthResponse,
        build_service_server::{BuildService, BuildServiceServer},
        finish_build_request::Result as Finished,
        get_build_kit_connection_response::{
            Active, Connection, Gzip, Identity, Pending, active::Compressor,
        },
    },
    core::v1::{
        CreateProjectRequest, CreateProjectResponse, GetProjectRequest, GetProjectResponse,
        Project,
        project_service_server::{ProjectService, ProjectServiceServer},
    },
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::forwarder::Forwarder;

/// What the organisation's token is.
pub const TOKEN: &str = "depot-organisation-token";

/// A running API.
pub struct FakeDepot {
    pub url: String,
    state: Arc<Mutex<State>>,
}

/// What it knows, and its faults.
pub struct State {
    machine: Active,
    /// Names of all projects that were created.
    pub projects: Vec<String>,
    pub builds: BTreeMap<String, Build>,
    /// Questions that are answered with "pending" before there is a machine.
    pub pending: u32,
    /// Ends of builds that are refused.
    pub lose_finishes: u32,
    /// Reports of health that are refused.
    pub refuse_health: bool,
    /// When builds are ended.
    pub cancels_in: Option<Duration>,
}

/// A registered build.
#[derive(Debug, Default)]
pub struct Build {
    token: String,
    pub project: String,
    pub tags: Vec<String>,
    /// Reports of health before the first question for a machine, and all.
    pub health_before: u32,
    pub health: u32,
    asked: bool,
    /// Every end that was told.
    pub finished: Vec<String>,
}

impl FakeDepot {
    /// Its only machine is the BuildKit behind the forwarder.
    pub async fn start(forwarder: &Forwarder, gzip: bool) -> Self {
        let Address::Tcp { host, port, tls: Some(tls) } = forwarder.client() else {
            panic!("it has no TLS")
        };
        let text = |pem: Vec<u8>| String::from_utf8(pem).unwrap();
        let compressor =
            if gzip { Compressor::Gzip(Gzip {}) } else { Compressor::Identity(Identity {}) };
        let machine = Active {
            endpoint: format!("tcp://{host}:{port}"),
            server_name: tls.server_name,
            cert: Some(Cert { cert: text(tls.cert), key: text(tls.key) }),
            ca_cert: Some(Cert { cert: text(tls.ca), key: String::new() }),
            compressor: Some(compressor),
        };
        let state = Arc::new(Mutex::new(State {
            machine,
            projects: Vec::new(),
            builds: BTreeMap::new(),
            pending: 2,
            lose_finishes: 0,
            refuse_health: false,
            cancels_in: None,
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let api = Service(Arc::clone(&state));
        let serving = Server::builder()
            .add_service(BuildServiceServer::new(api.clone()))
            .add_service(ProjectServiceServer::new(api))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        Self { url, state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The end that each build was told, in the order of their creation.
    pub fn ends(&self) -> Vec<Vec<String>> {
        self.state().builds.values().map(|build| build.finished.clone()).collect()
    }
}

#[derive(Clone)]
struct Service(Arc<Mutex<State>>);

impl Service {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

fn token<T>(request: &Request<T>) -> String {
    let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    header.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default().to_owned()
}

fn of_organisation<T>(request: Request<T>) -> Result<T, Status> {
    match token(&request) == TOKEN {
        true => Ok(request.into_inner()),
        false => Err(Status::unauthenticated("not the organisation's token")),
    }
}

impl State {
    /// The build, for whoever has its own token.
    fn build(&mut self, id: &str, token: &str) -> Result<&mut Build, Status> {
        let build = self.builds.get_mut(id).ok_or_else(|| Status::not_found("no such build"))?;
        match build.token == token {
            true => Ok(build),
            false => Err(Status::unauthenticated("not the build's token")),
        }
    }
}

#[tonic::async_trait]
impl ProjectService for Service {
    async fn create_project(
        &self,
        request: Request<CreateProjectRequest>,
    ) -> Result<Response<CreateProjectResponse>, Status> {
        let request = of_organisation(request)?;
        // Long enough for another one to come meanwhile.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut state = self.state();
        state.projects.push(request.name.clone());
        let project = Project {
            project_id: format!("depotproject{}", state.projects.len()),
            name: request.name,
            region_id: request.region_id,
            ..Project::default()
        };
        Ok(Response::new(CreateProjectResponse { project: Some(project) }))
    }

    async fn get_project(
        &self,
        request: Request<GetProjectRequest>,
    ) -> Result<Response<GetProjectResponse>, Status> {
        of_organisation(request)?;
        Err(Status::not_found("no such project"))
    }
}

#[tonic::async_trait]
impl BuildService for Service {
    async fn create_build(
        &self,
        request: Request<CreateBuildRequest>,
    ) -> Result<Response<CreateBuildResponse>, Status> {
        let request = of_organisation(request)?;
        let mut state = self.state();
        let build_id = format!("build{:03}", state.builds.len());
        let token = format!("token-of-{build_id}");
        let tags = request.options.into_iter().flat_map(|options| options.tags).collect();
        let project = request.project_id.clone();
        let build = Build { token: token.clone(), project, tags, ..Build::default() };
        state.builds.insert(build_id.clone(), build);
        Ok(Response::new(CreateBuildResponse {
            build_url: format!("https://depot.example/{build_id}"),
            build_id,
            build_token: token,
            project_id: request.project_id,
        }))
    }

    async fn finish_build(
        &self,
        request: Request<FinishBuildRequest>,
    ) -> Result<Response<FinishBuildResponse>, Status> {
        let token = token(&request);
        let request = request.into_inner();
        let mut state = self.state();
        if state.lose_finishes > 0 {
            state.lose_finishes -= 1;
            return Err(Status::unavailable("it was lost"));
        }
        let build = state.build(&request.build_id, &token)?;
        build.finished.push(match request.result {
            Some(Finished::Success(_)) => "success".to_owned(),
            Some(Finished::Error(error)) => format!("error: {}", error.error),
            Some(Finished::Canceled(_)) => "canceled".to_owned(),
            None => return Err(Status::invalid_argument("no result")),
        });
        Ok(Response::new(FinishBuildResponse {}))
    }

    async fn get_build_kit_connection(
        &self,
        request: Request<GetBuildKitConnectionRequest>,
    ) -> Result<Response<GetBuildKitConnectionResponse>, Status> {
        let token = token(&request);
        let mut state = self.state();
        let build = state.build(&request.into_inner().build_id, &token)?;
        build.asked = true;
        let connection = if state.pending > 0 {
            state.pending -= 1;
            Connection::Pending(Pending { wait_ms: 100 })
        } else {
            Connection::Active(state.machine.clone())
        };
        Ok(Response::new(GetBuildKitConnectionResponse { connection: Some(connection) }))
    }

    async fn report_build_health(
        &self,
        request: Request<ReportBuildHealthRequest>,
    ) -> Result<Response<ReportBuildHealthResponse>, Status> {
        let token = token(&request);
        let mut state = self.state();
        if state.refuse_health {
            return Err(Status::unavailable("not now"));
        }
        let cancels_at = state.cancels_in.map(|wait| (std::time::SystemTime::now() + wait).into());
        let build = state.build(&request.into_inner().build_id, &token)?;
        build.health += 1;
        build.health_before += u32::from(!build.asked);
        Ok(Response::new(ReportBuildHealthResponse { cancels_at }))
    }
}
