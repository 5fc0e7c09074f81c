//! The BuildKit of a Docker engine; images stay in it or are pushed from it.

use std::time::Duration;

use async_trait::async_trait;
use bollard::{
    Docker,
    errors::Error,
    query_parameters::{PruneBuildOptions, PushImageOptionsBuilder, RemoveImageOptions},
};
use futures::StreamExt;
use launchway_workflows::{
    error::{ErrorCode, StepError},
    ids::BuildId,
    model::BuiltImage,
    ports::{BuildEvent, BuildSpec, Builder, Push, Removal, Room},
};
use tokio::sync::mpsc;

use super::{
    buildkit::{Address, EngineAddress, Output, Solve, made, solve, unreachable},
    engine,
    failure::{of_engine, of_push},
    turn::Turn,
};
use crate::registry::{Login, Registry, tag};

/// Longest single call of the engine's API. A build sends progress as it goes,
/// and its own limit is the step's.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(120);

/// Between two looks at a build that another worker does.
const LOOK: Duration = Duration::from_millis(500);

/// Builds with a Docker engine.
#[derive(Clone)]
pub struct DockerBuilder {
    docker: Docker,
    buildkit: Address,
    registry: Option<Registry>,
    owner: String,
}

impl DockerBuilder {
    /// The engine named by `DOCKER_HOST`, else its default socket. Images are
    /// labelled as `owner`'s, and pushed where there is a registry. No
    /// connection is made yet.
    ///
    /// # Errors
    /// `DOCKER_HOST` cannot be read.
    pub fn connect(registry: Option<Registry>, owner: &str) -> Result<Self, String> {
        let host = std::env::var("DOCKER_HOST").ok();
        let docker = Docker::connect_with_defaults()
            .map_err(|error| format!("DOCKER_HOST cannot be read: {error}"))?;
        Self::with(docker, host.as_deref(), registry, owner)
    }

    /// The engine at an address in the form of `DOCKER_HOST`.
    ///
    /// # Errors
    /// The address cannot be read.
    pub fn at(host: &str, registry: Option<Registry>, owner: &str) -> Result<Self, String> {
        let docker = Docker::connect_with_host(host).map_err(|error| format!("{host}: {error}"))?;
        Self::with(docker, Some(host), registry, owner)
    }

    fn with(
        docker: Docker,
        host: Option<&str>,
        registry: Option<Registry>,
        owner: &str,
    ) -> Result<Self, String> {
        let buildkit = Address::Engine(engine::address(host)?);
        let docker = docker.with_timeout(ENGINE_TIMEOUT);
        Ok(Self { docker, buildkit, registry, owner: owner.to_owned() })
    }

    /// The image's name in the engine: the one it is pushed under.
    fn name(&self, spec: &BuildSpec) -> String {
        match &self.registry {
            Some(registry) => registry.reference(spec),
            None => format!("launchway/{}/{}:{}", spec.workspace_id, spec.project_slug, tag(spec)),
        }
    }

    async fn image_of(&self, name: &str) -> Result<Option<BuiltImage>, StepError> {
        match self.docker.inspect_image(name).await {
            Ok(image) => Ok(image.id.map(|digest| local(name, digest))),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(of_engine(&error)),
        }
    }

    async fn push_to(&self, registry: &Registry, image: &BuiltImage) -> Result<(), StepError> {
        let (repository, tag) = image.reference.rsplit_once(':').unwrap_or((&image.reference, ""));
        let options = PushImageOptionsBuilder::new().tag(tag).build();
        let credentials = registry.login.as_ref().map(Login::for_engine);
        let mut progress = self.docker.push_image(repository, Some(options), credentials);
        while let Some(message) = progress.next().await {
            match message {
                Ok(_) => {}
                Err(Error::DockerStreamError { error }) => return Err(of_push(error)),
                Err(Error::DockerResponseServerError { message, .. }) => {
                    return Err(of_push(message));
                }
                Err(error) => return Err(of_engine(&error)),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Builder for DockerBuilder {
    async fn find_image(&self, spec: &BuildSpec) -> Result<Option<BuiltImage>, StepError> {
        self.image_of(&self.name(spec)).await
    }

    async fn has_image(&self, image: &BuiltImage) -> Result<bool, StepError> {
        match &self.registry {
            Some(registry) if !image.local_only => {
                Ok(registry.digest_of(&image.pinned()).await?.is_some())
            }
            _ => Ok(self.image_of(&image.digest).await?.is_some()),
        }
    }

    async fn build(
        &self,
        spec: &BuildSpec,
        events: mpsc::Sender<BuildEvent>,
    ) -> Result<BuiltImage, StepError> {
        // Another worker may have it, and may be frozen: what the engine makes for
        // that one is what is wanted.
        let _turn = loop {
            let turn = Turn::take(&spec.build_id).map_err(no_turn)?;
            if let Some(image) = self.find_image(spec).await? {
                return Ok(image);
            }
            match turn {
                Some(turn) => break turn,
                None => tokio::time::sleep(LOOK).await,
            }
        };
        let channel = self.buildkit.connect().await.map_err(unreachable)?;
        let name = self.name(spec);
        let options = Solve {
            output: &Output::Engine(name.clone()),
            logins: self.registry.iter().filter_map(|registry| registry.login.clone()).collect(),
            // The engine keeps its own.
            cache: None,
            labels: &[("launchway.owner", &self.owner)],
            gzip: false,
            made: &|| made(self, spec),
        };
        solve(channel, spec, options, &events).await?;
        self.image_of(&name).await?.ok_or_else(|| {
            let message = "the Docker engine ended the build without an image or an error";
            StepError::transient(ErrorCode::BuilderUnavailable, message)
        })
    }

    /// The engine ends a build when its connection is closed, which dropping
    /// [`Builder::build`] and the death of this process both do. For one that another
    /// worker has not ended, [`Builder::build`] waits.
    async fn abort(&self, build_id: &BuildId) -> Result<(), StepError> {
        tracing::debug!(build = %build_id, "a build of this id has no connection any more");
        Ok(())
    }

    async fn push(&self, image: &BuiltImage) -> Result<Push, StepError> {
        let Some(registry) = &self.registry else {
            return Ok(Push::Skipped(
                "no registry is configured: the image is local to this machine's Docker engine"
                    .to_owned(),
            ));
        };
        self.push_to(registry, image).await?;
        let digest = registry.digest_of(&image.reference).await?.ok_or_else(|| {
            let message = format!("the registry has no `{}` after its push", image.reference);
            StepError::transient(ErrorCode::RegistryUnavailable, message)
        })?;
        Ok(Push::Pushed(BuiltImage { digest, local_only: false, ..image.clone() }))
    }

    /// What was pushed stays in the engine too.
    async fn image_size(&self, image: &BuiltImage) -> Result<Option<u64>, StepError> {
        match self.docker.inspect_image(&image.reference).await {
            Ok(found) => {
                Ok(Some(found.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0)))
            }
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(of_engine(&error)),
        }
    }

    async fn remove_image(&self, image: &BuiltImage) -> Result<Removal, StepError> {
        match self.docker.remove_image(&image.reference, None::<RemoveImageOptions>, None).await {
            Ok(_) | Err(Error::DockerResponseServerError { status_code: 404, .. }) => {
                Ok(Removal::Gone)
            }
            Err(Error::DockerResponseServerError { status_code: 409, .. }) => Ok(Removal::InUse),
            Err(error) => Err(of_engine(&error)),
        }
    }

    async fn room(&self) -> Option<Room> {
        let Address::Engine(EngineAddress::Unix(_)) = &self.buildkit else { return None };
        let path = self.docker.info().await.ok()?.docker_root_dir?;
        let disk = rustix::fs::statvfs(path.as_str()).ok()?;
        Some(Room { free: disk.f_bavail.saturating_mul(disk.f_frsize), path })
    }

    async fn make_room(&self) -> Result<(), StepError> {
        match self.docker.prune_build(None::<PruneBuildOptions>).await {
            Ok(pruned) => {
                tracing::info!(bytes = pruned.space_reclaimed, "gave up the builder's cache");
                Ok(())
            }
            Err(error) => Err(of_engine(&error)),
        }
    }
}

fn no_turn(error: std::io::Error) -> StepError {
    let message = format!("the turn to build cannot be taken: {error}");
    StepError::transient(ErrorCode::BuilderUnavailable, message)
}

fn local(name: &str, digest: String) -> BuiltImage {
    BuiltImage { reference: name.to_owned(), digest, local_only: true }
}
