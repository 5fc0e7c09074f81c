//! BuildKit: the one way everything is built, whoever runs it.

mod channel;
mod request;
mod session;
mod solve;

use async_trait::async_trait;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use futures::future::BoxFuture;
use launchway_workflows::{
    error::{ErrorCode, StepError},
    ids::BuildId,
    model::BuiltImage,
    ports::{BuildEvent, BuildSpec, Builder, Push},
};
use tokio::sync::mpsc;
use tonic::{codec::CompressionEncoding, transport::Channel};

use super::{failure, redact::Redactor};
use crate::registry::{CacheRef, Login, Registry};
pub use channel::{Address, EngineAddress, Tls};
pub(super) use request::Output;
use solve::{Exported, Made};

pub(super) type Control = ControlClient<Channel>;

/// Largest message of the status stream; BuildKit cuts its own at this.
const MAX_MESSAGE: usize = 16 << 20;

/// A client; with `gzip` both sides compress.
pub(super) fn control(channel: Channel, gzip: bool) -> Control {
    let control = ControlClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    if !gzip {
        return control;
    }
    control.send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip)
}

/// What one build on a BuildKit gets besides its spec.
pub(super) struct Solve<'a> {
    pub(super) output: &'a Output,
    pub(super) logins: Vec<Login>,
    pub(super) cache: Option<CacheRef>,
    pub(super) labels: &'a [(&'a str, &'a str)],
    pub(super) gzip: bool,
    pub(super) made: Made<'a>,
}

/// Builds on an open channel.
pub(super) async fn solve(
    channel: Channel,
    spec: &BuildSpec,
    solve: Solve<'_>,
    events: &mpsc::Sender<BuildEvent>,
) -> Result<Exported, StepError> {
    let mut request = request::of(spec, solve.output, solve.cache.as_ref(), solve.labels)?;
    let passwords = solve.logins.iter().map(|login| &login.password);
    let redactor = Redactor::new(spec.secrets.values().chain(passwords));
    let job = |request| solve::Job {
        request,
        logins: solve.logins.clone(),
        secrets: spec.secrets.clone(),
        redactor: &redactor,
        max_output: spec.max_output,
        gzip: solve.gzip,
        dockerfile: spec.dockerfile_path.as_deref().unwrap_or("Dockerfile"),
        made: solve.made,
    };
    match solve::run(channel.clone(), job(request.clone()), events).await {
        // Its cache names a layer that it does not have any more, and would for
        // ever: seen on 28.5 after a build was cancelled.
        Err(error) if failure::is_of_cache(&error) && !spec.options.no_cache => {
            tracing::warn!(build = %spec.build_id, error = %error.failure(), "building without the cache");
            request.frontend_attrs.insert("no-cache".to_owned(), String::new());
            solve::run(channel, job(request), events).await
        }
        built => built,
    }
}

/// The digest of the manifest that was pushed.
pub(super) fn pushed_digest(
    response: &std::collections::BTreeMap<String, String>,
) -> Result<String, StepError> {
    response.get("containerimage.digest").cloned().ok_or_else(|| {
        let message = "BuildKit ended the build without the digest of its image";
        StepError::transient(ErrorCode::BuilderUnavailable, message)
    })
}

/// Builds on a buildkitd of the operator's and pushes inside the build.
pub struct BuildkitBuilder {
    address: Address,
    registry: Registry,
    owner: String,
}

impl BuildkitBuilder {
    /// No connection is made yet. Images are labelled as `owner`'s.
    pub fn new(address: Address, registry: Registry, owner: &str) -> Self {
        Self { address, registry, owner: owner.to_owned() }
    }
}

#[async_trait]
impl Builder for BuildkitBuilder {
    async fn find_image(&self, spec: &BuildSpec) -> Result<Option<BuiltImage>, StepError> {
        find_pushed(&self.registry, self.registry.reference(spec)).await
    }

    async fn has_image(&self, image: &BuiltImage) -> Result<bool, StepError> {
        Ok(self.registry.digest_of(&image.pinned()).await?.is_some())
    }

    async fn build(
        &self,
        spec: &BuildSpec,
        events: mpsc::Sender<BuildEvent>,
    ) -> Result<BuiltImage, StepError> {
        let channel = self.address.connect().await.map_err(unreachable)?;
        let reference = self.registry.reference(spec);
        let options = Solve {
            output: &Output::push(&self.registry, reference.clone()),
            logins: self.registry.login.iter().cloned().collect(),
            cache: self.registry.cache(spec),
            labels: &[("launchway.owner", &self.owner)],
            gzip: false,
            made: &|| made(self, spec),
        };
        match solve(channel, spec, options, &events).await? {
            Some(response) => {
                Ok(BuiltImage { reference, digest: pushed_digest(&response)?, local_only: false })
            }
            None => made_before(self, spec).await,
        }
    }

    /// BuildKit ends a build when its connection is closed, which dropping
    /// [`Builder::build`] and the death of this process both do; until it has,
    /// it refuses another one of the same id, and [`Builder::build`] waits.
    async fn abort(&self, build_id: &BuildId) -> Result<(), StepError> {
        tracing::debug!(build = %build_id, "a build of this id has no connection any more");
        Ok(())
    }

    async fn push(&self, image: &BuiltImage) -> Result<Push, StepError> {
        self.registry.verify(&image.reference, &image.digest).await?;
        Ok(Push::Pushed(image.clone()))
    }
}

/// Whether the image of a build is there, as far as can be told now.
pub(super) fn made<'a>(builder: &'a dyn Builder, spec: &'a BuildSpec) -> BoxFuture<'a, bool> {
    Box::pin(async move { matches!(builder.find_image(spec).await, Ok(Some(_))) })
}

/// The image that an earlier build of the same id has made.
pub(super) async fn made_before(
    builder: &dyn Builder,
    spec: &BuildSpec,
) -> Result<BuiltImage, StepError> {
    builder.find_image(spec).await?.ok_or_else(|| {
        let message = "the image of an earlier build of this id is gone again";
        StepError::transient(ErrorCode::BuilderUnavailable, message)
    })
}

/// The image of a build, where a registry has it.
pub(super) async fn find_pushed(
    registry: &Registry,
    reference: String,
) -> Result<Option<BuiltImage>, StepError> {
    let digest = registry.digest_of(&reference).await?;
    Ok(digest.map(|digest| BuiltImage { reference, digest, local_only: false }))
}

/// A builder that cannot be reached; trying again may help.
pub(super) fn unreachable(message: String) -> StepError {
    StepError::transient(ErrorCode::BuilderUnavailable, message)
}
