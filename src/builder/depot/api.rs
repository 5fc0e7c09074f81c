//! Depot's API, every call bounded.

use std::time::Duration;

use launchway_proto::depot::{
    cli::v1::{
        BuildOptions, BuilderPlatform, Command, CreateBuildRequest, FinishBuildRequest,
        GetBuildKitConnectionRequest, ReportBuildHealthRequest,
        build_service_client::BuildServiceClient, finish_build_request,
        get_build_kit_connection_response::Connection,
    },
    core::v1::{
        CachePolicy, CreateProjectRequest, GetProjectRequest,
        project_service_client::ProjectServiceClient,
    },
};
use launchway_workflows::{
    error::{ErrorCode, StepError},
    secret::Secret,
};
use tonic::{
    Code, Request, Response, Status,
    metadata::MetadataValue,
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use super::ledger::{Outcome, Registered};

/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Longest wait for the answer to a report of health.
const HEALTH_LIMIT: Duration = Duration::from_secs(30);
/// What a project's cache may take; older or larger is dropped.
const CACHE: CachePolicy = CachePolicy { keep_days: 14, keep_gb: 50 };

/// A client; cheap to clone.
#[derive(Clone)]
pub(super) struct Api {
    channel: Channel,
    token: Secret,
}

impl Api {
    /// No connection is made yet.
    ///
    /// # Errors
    /// The URL cannot be used.
    pub(super) fn new(url: &str, token: Secret) -> Result<Self, String> {
        let problem = |error: tonic::transport::Error| format!("depot.api_url = `{url}`: {error}");
        let mut endpoint = Endpoint::from_shared(url.to_owned()).map_err(problem)?;
        if url.starts_with("https://") {
            let tls = ClientTlsConfig::new().with_native_roots();
            endpoint = endpoint.tls_config(tls).map_err(problem)?;
        }
        let channel = endpoint.connect_timeout(ANSWER_LIMIT).connect_lazy();
        Ok(Self { channel, token })
    }

    /// Creates a project; its id.
    pub(super) async fn create_project(
        &self,
        name: &str,
        region: &str,
        organization: Option<&str>,
    ) -> Result<String, StepError> {
        let request = CreateProjectRequest {
            name: name.to_owned(),
            organization_id: organization.map(str::to_owned),
            region_id: region.to_owned(),
            cache_policy: Some(CACHE),
        };
        let mut client = ProjectServiceClient::new(self.channel.clone());
        let asked = client.create_project(with_token(request, &self.token)?);
        let created = answer("CreateProject", ANSWER_LIMIT, asked).await?;
        match created.project {
            Some(project) if !project.project_id.is_empty() => Ok(project.project_id),
            _ => Err(nonsense("CreateProject without a project")),
        }
    }

    /// Whether the token is taken.
    pub(super) async fn check(&self) -> Result<(), StepError> {
        let request = GetProjectRequest { project_id: "launchway-check".to_owned() };
        let mut client = ProjectServiceClient::new(self.channel.clone());
        let asked = client.get_project(with_token(request, &self.token)?);
        match tokio::time::timeout(ANSWER_LIMIT, asked).await {
            Ok(Err(status)) if matches!(status.code(), Code::NotFound | Code::InvalidArgument) => {
                Ok(())
            }
            Ok(answered) => answered.map(drop).map_err(|status| failed("GetProject", &status)),
            Err(_) => Err(silent("GetProject", ANSWER_LIMIT)),
        }
    }

    /// Registers a build.
    pub(super) async fn create_build(
        &self,
        project: &str,
        reference: &str,
    ) -> Result<Registered, StepError> {
        let options = BuildOptions {
            command: Command::Build.into(),
            tags: vec![reference.to_owned()],
            push: true,
        };
        let request = CreateBuildRequest { project_id: project.to_owned(), options: vec![options] };
        let mut client = self.builds();
        let asked = client.create_build(with_token(request, &self.token)?);
        let created = answer("CreateBuild", ANSWER_LIMIT, asked).await?;
        if created.build_id.is_empty() || created.build_token.is_empty() {
            return Err(nonsense("CreateBuild without an id or a token"));
        }
        Ok(Registered { id: created.build_id, token: Secret::new(created.build_token) })
    }

    /// Asks for the machine of a build.
    pub(super) async fn connection(
        &self,
        build: &Registered,
        platform: BuilderPlatform,
    ) -> Result<Connection, StepError> {
        let request =
            GetBuildKitConnectionRequest { build_id: build.id.clone(), platform: platform.into() };
        let mut client = self.builds();
        let asked = client.get_build_kit_connection(with_token(request, &build.token)?);
        let answer = answer("GetBuildKitConnection", ANSWER_LIMIT, asked).await?;
        answer.connection.ok_or_else(|| nonsense("GetBuildKitConnection without an answer"))
    }

    /// Says that the build goes on. When Depot ends it by itself, in
    /// milliseconds since the epoch, where it says so.
    pub(super) async fn report_health(
        &self,
        build: &Registered,
        platform: BuilderPlatform,
    ) -> Result<Option<i64>, StepError> {
        let request =
            ReportBuildHealthRequest { build_id: build.id.clone(), platform: platform.into() };
        let mut client = self.builds();
        let asked = client.report_build_health(with_token(request, &build.token)?);
        let answer = answer("ReportBuildHealth", HEALTH_LIMIT, asked).await?;
        Ok(answer.cancels_at.map(|at| at.seconds * 1000 + i64::from(at.nanos) / 1_000_000))
    }

    /// Tells the end of a build; one that Depot has ended already is fine.
    pub(super) async fn finish(
        &self,
        build: &Registered,
        outcome: &Outcome,
    ) -> Result<(), StepError> {
        use finish_build_request::{Canceled, Error, Result as Told, Success};
        let result = match outcome {
            Outcome::Success => Told::Success(Success {}),
            Outcome::Error(error) => Told::Error(Error { error: error.clone() }),
            Outcome::Canceled => Told::Canceled(Canceled {}),
        };
        let request = FinishBuildRequest { build_id: build.id.clone(), result: Some(result) };
        let mut client = self.builds();
        let asked = client.finish_build(with_token(request, &build.token)?);
        match tokio::time::timeout(ANSWER_LIMIT, asked).await {
            Ok(Err(status)) if is_over(&status) => Ok(()),
            Ok(told) => told.map(drop).map_err(|status| failed("FinishBuild", &status)),
            Err(_) => Err(silent("FinishBuild", ANSWER_LIMIT)),
        }
    }

    fn builds(&self) -> BuildServiceClient<Channel> {
        BuildServiceClient::new(self.channel.clone())
    }
}

fn with_token<T>(request: T, token: &Secret) -> Result<Request<T>, StepError> {
    let mut request = Request::new(request);
    let header = format!("Bearer {}", token.expose());
    let mut header = MetadataValue::try_from(header).map_err(|_| {
        let message = "Depot's API token has characters that no token has: check depot.token_file";
        StepError::permanent(ErrorCode::BuilderUnavailable, message)
    })?;
    header.set_sensitive(true);
    request.metadata_mut().insert("authorization", header);
    Ok(request)
}

async fn answer<T>(
    call: &str,
    limit: Duration,
    asked: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, StepError> {
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(failed(call, &status)),
        Err(_) => Err(silent(call, limit)),
    }
}

/// Depot has forgotten the build or knows its end.
fn is_over(status: &Status) -> bool {
    matches!(status.code(), Code::NotFound | Code::FailedPrecondition | Code::AlreadyExists)
}

fn failed(call: &str, status: &Status) -> StepError {
    let message = format!("Depot's {call} failed: {} ({:?})", status.message(), status.code());
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => StepError::permanent(
            ErrorCode::BuilderUnavailable,
            format!("{message}: check depot.token_file; the registry's password is another secret"),
        ),
        Code::InvalidArgument => StepError::permanent(ErrorCode::BuilderUnavailable, message),
        _ => StepError::transient(ErrorCode::BuilderUnavailable, message),
    }
}

fn silent(call: &str, limit: Duration) -> StepError {
    let message = format!("Depot's {call} did not answer within {} s", limit.as_secs());
    StepError::transient(ErrorCode::BuilderUnavailable, message)
}

fn nonsense(what: &str) -> StepError {
    let message = format!("Depot answered {what}");
    StepError::transient(ErrorCode::BuilderUnavailable, message)
}
