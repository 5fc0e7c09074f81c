//! The local Docker engine's BuildKit.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use bollard::{
    Docker, body_full,
    errors::Error,
    models::{BuildInfo, BuildInfoAux},
    query_parameters::{BuildImageOptionsBuilder, BuilderVersion},
};
use futures::StreamExt;
use launchway_workflows::{
    error::{ErrorCode, StepError},
    ids::BuildId,
    model::BuiltImage,
    ports::{BuildEvent, BuildSpec, Builder, Push},
};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    failure::{of_build, of_engine},
    platform::Platform,
    progress::Progress,
};

/// Longest single call of the engine's API. A build sends progress as it goes,
/// and its own limit is the step's.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest wait for the engine's answer to a question.
const ASK: Duration = Duration::from_secs(5);

/// Builds with the Docker engine of this machine. Images stay in it.
#[derive(Clone)]
pub struct DockerBuilder {
    docker: Docker,
    owner: String,
}

impl DockerBuilder {
    /// The engine named by `DOCKER_HOST`, else its default socket. Images are
    /// labelled as `owner`'s. No connection is made yet.
    ///
    /// # Errors
    /// `DOCKER_HOST` cannot be read.
    pub fn connect(owner: &str) -> Result<Self, Error> {
        let docker = Docker::connect_with_defaults()?.with_timeout(ENGINE_TIMEOUT);
        Ok(Self { docker, owner: owner.to_owned() })
    }

    fn tag(spec: &BuildSpec) -> String {
        let build = spec.build_id.as_str().replace('_', "-");
        format!("launchway/{}-{}:{build}", spec.workspace_id, spec.project_slug)
    }

    async fn image_of(&self, tag: &str) -> Result<Option<BuiltImage>, StepError> {
        match self.docker.inspect_image(tag).await {
            Ok(image) => Ok(image.id.map(|digest| local(tag, digest))),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(of_engine(&error)),
        }
    }
}

#[async_trait]
impl Builder for DockerBuilder {
    async fn find_image(&self, spec: &BuildSpec) -> Result<Option<BuiltImage>, StepError> {
        self.image_of(&Self::tag(spec)).await
    }

    async fn has_image(&self, image: &BuiltImage) -> Result<bool, StepError> {
        Ok(self.image_of(&image.digest).await?.is_some())
    }

    async fn build(
        &self,
        spec: &BuildSpec,
        events: mpsc::Sender<BuildEvent>,
    ) -> Result<BuiltImage, StepError> {
        let tag = Self::tag(spec);
        let options = options(spec, &tag, &self.owner)?;
        // bollard wants a body even where the context is remote.
        let empty = body_full(bytes::Bytes::new());
        let mut stream = self.docker.build_image(options, None, Some(empty));
        let (mut progress, mut image) = (Progress::default(), None);
        while let Some(message) = stream.next().await {
            match message {
                Ok(BuildInfo { aux: Some(BuildInfoAux::BuildKit(status)), .. }) => {
                    for event in progress.absorb(status) {
                        // Nobody listens any more only when the step is gone.
                        let _ = events.send(event).await;
                    }
                }
                Ok(BuildInfo { aux: Some(BuildInfoAux::Default(id)), .. }) => image = id.id,
                Ok(_) => {}
                Err(Error::DockerStreamError { error }) => {
                    return Err(of_build(&error, spec, progress.tail()));
                }
                Err(error) => return Err(of_engine(&error)),
            }
        }
        match image {
            Some(digest) => Ok(local(&tag, digest)),
            // An engine that ends without an image and without an error was lost.
            None => self.image_of(&tag).await?.ok_or_else(|| {
                let message = "the Docker engine ended the build without an image or an error";
                StepError::transient(ErrorCode::BuilderUnavailable, message)
            }),
        }
    }

    /// The engine ends a build when its request's connection is closed, which
    /// dropping [`Builder::build`] and the death of this process both do.
    async fn abort(&self, build_id: &BuildId) -> Result<(), StepError> {
        tracing::debug!(build = %build_id, "a build of this id has no connection any more");
        Ok(())
    }

    async fn push(&self, _image: &BuiltImage) -> Result<Push, StepError> {
        Ok(Push::Skipped(
            "no registry is configured: the image is local to this machine's Docker engine"
                .to_owned(),
        ))
    }
}

/// The version of the Docker engine, when it answers.
///
/// # Errors
/// One sentence with the remedy.
pub async fn engine_version() -> Result<String, String> {
    let remedy =
        "start the Docker engine (`systemctl start docker`, or `./dev setup`) or set DOCKER_HOST";
    let docker = Docker::connect_with_defaults()
        .map_err(|error| format!("DOCKER_HOST cannot be read: {error}; {remedy}"))?;
    match tokio::time::timeout(ASK, docker.version()).await {
        Ok(Ok(version)) => Ok(version.version.unwrap_or_default()),
        Ok(Err(error)) => Err(format!("the Docker engine does not answer: {error}; {remedy}")),
        Err(_) => Err(format!("the Docker engine does not answer within 5 s; {remedy}")),
    }
}

fn local(tag: &str, digest: String) -> BuiltImage {
    BuiltImage { reference: tag.to_owned(), digest, local_only: true }
}

fn options(
    spec: &BuildSpec,
    tag: &str,
    owner: &str,
) -> Result<bollard::query_parameters::BuildImageOptions, StepError> {
    let platform = Platform::resolve(spec.options.platform.as_deref())
        .map_err(|error| StepError::permanent(ErrorCode::BuildFailed, error.to_string()))?;
    let mut labels: HashMap<&str, &str> =
        spec.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    labels.insert("launchway.owner", owner);
    labels.insert("launchway.build", spec.build_id.as_str());
    labels.insert("launchway.deployment", spec.deployment_id.as_str());
    let args: HashMap<&str, &str> = spec
        .options
        .build_args
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let session = Uuid::new_v4().to_string();
    let mut builder = BuildImageOptionsBuilder::new()
        .dockerfile(spec.dockerfile_path.as_deref().unwrap_or("Dockerfile"))
        .t(tag)
        .remote(&spec.context_url.0)
        .rm(true)
        .nocache(spec.options.no_cache)
        .labels(&labels)
        .buildargs(&args)
        .version(BuilderVersion::BuilderBuildKit)
        .session(&session);
    if let Some(target) = &spec.options.target {
        builder = builder.target(target);
    }
    let platform = platform.map(|platform| platform.to_string());
    if let Some(platform) = &platform {
        builder = builder.platform(platform);
    }
    Ok(builder.build())
}
