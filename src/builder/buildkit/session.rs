//! What BuildKit may ask back for during one build: registry logins and build
//! secrets. BuildKit calls these services over the build's own channel.

use std::{collections::BTreeMap, io, sync::Arc};

use bollard_buildkit_proto::moby::{
    buildkit::{
        secrets::v1::{
            GetSecretRequest, GetSecretResponse,
            secrets_server::{Secrets, SecretsServer},
        },
        v1::BytesMessage,
    },
    filesync::v1::{
        CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
        GetTokenAuthorityRequest, GetTokenAuthorityResponse, VerifyTokenAuthorityRequest,
        VerifyTokenAuthorityResponse,
        auth_server::{Auth, AuthServer},
    },
};
use futures::{StreamExt, TryStreamExt};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use launchway_workflows::secret::Secret;
use tokio_util::{
    io::{ReaderStream, StreamReader},
    task::AbortOnDropHandle,
};
use tonic::{Request, Response, Status, metadata::MetadataValue, service::Routes};
use uuid::Uuid;

use super::Control;
use crate::registry::Login;

/// Between the session's server and its stream.
const BUFFER: usize = 64 * 1024;
/// What BuildKit is told that it may call.
const METHODS: [&str; 3] = [
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    "/grpc.health.v1.Health/Check",
];

/// An open session; dropping it closes it.
pub(super) struct Session {
    /// What a solve names it by.
    pub(super) id: String,
    _serving: AbortOnDropHandle<()>,
}

impl Session {
    /// Opens a session that answers with `logins` and `secrets`.
    pub(super) async fn open(
        control: &mut Control,
        logins: Vec<Login>,
        secrets: BTreeMap<String, Secret>,
    ) -> Result<Self, Status> {
        let id = Uuid::new_v4().simple().to_string();
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        // A stream that cannot be read any more has simply ended.
        let outgoing = ReaderStream::new(theirs)
            .filter_map(|chunk| std::future::ready(chunk.ok()))
            .map(|chunk| BytesMessage { data: chunk.to_vec() });
        let mut request = Request::new(outgoing);
        let headers = request.metadata_mut();
        let value =
            |text: &str| MetadataValue::try_from(text).map_err(|_| Status::internal("header"));
        headers.insert("x-docker-expose-session-uuid", value(&id)?);
        headers.insert("x-docker-expose-session-name", value("launchway")?);
        for method in METHODS {
            headers.append("x-docker-expose-session-grpc-method", value(method)?);
        }
        let incoming = control.session(request).await?.into_inner();
        let incoming =
            incoming.map_ok(|message| io::Cursor::new(message.data)).map_err(io::Error::other);
        let answers = Answers { logins: logins.into(), secrets: Arc::new(secrets) };
        let stream = tokio::io::join(StreamReader::new(incoming), ours);
        let (_, health) = tonic_health::server::health_reporter();
        let routes = Routes::new(AuthServer::new(answers.clone()))
            .add_service(SecretsServer::new(answers))
            .add_service(health)
            .prepare();
        let serving = tokio::spawn(async move {
            let service = TowerToHyperService::new(routes);
            let server = http2::Builder::new(TokioExecutor::new());
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a build's session has ended");
            }
        });
        Ok(Self { id, _serving: AbortOnDropHandle::new(serving) })
    }
}

#[derive(Clone)]
struct Answers {
    logins: Arc<[Login]>,
    secrets: Arc<BTreeMap<String, Secret>>,
}

#[tonic::async_trait]
impl Auth for Answers {
    /// Empty for a registry that we have no login for.
    async fn credentials(
        &self,
        request: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        let host = request.into_inner().host;
        let login = self.logins.iter().find(|login| login.is_for(&host));
        Ok(Response::new(login.map_or_else(CredentialsResponse::default, |login| {
            CredentialsResponse {
                username: login.username.clone(),
                secret: login.password.expose().to_owned(),
            }
        })))
    }

    /// BuildKit then fetches its token itself, with the credentials.
    async fn fetch_token(
        &self,
        _: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        Err(Status::unimplemented("ask for the credentials"))
    }

    async fn get_token_authority(
        &self,
        _: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("ask for the credentials"))
    }

    async fn verify_token_authority(
        &self,
        _: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("ask for the credentials"))
    }
}

#[tonic::async_trait]
impl Secrets for Answers {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        match self.secrets.get(&id) {
            Some(secret) => {
                Ok(Response::new(GetSecretResponse { data: secret.expose().as_bytes().to_vec() }))
            }
            // BuildKit goes on without it where the Dockerfile does not require it.
            None => Err(Status::not_found(format!("no build secret `{id}` was given"))),
        }
    }
}
