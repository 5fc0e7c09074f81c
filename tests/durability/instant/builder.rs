//! Builds that take no time and, like those of an engine, go on when their
//! worker is gone: only `abort` or their end ends them.

use async_trait::async_trait;
use launchway_workflows::{
    engine::failpoint::{self, Point},
    error::{ErrorCode, StepError},
    ids::BuildId,
    model::BuiltImage,
    ports::{BuildEvent, BuildEventKind, BuildSpec, Builder, OutputStream, Push, Removal},
    step::Step,
};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::world::World;

const BUILDS: &str = "builds";
const IMAGES: &str = "images";

pub struct InstantBuilder {
    world: World,
}

impl InstantBuilder {
    pub fn new(world: World) -> Self {
        Self { world }
    }
}

fn image(spec: &BuildSpec) -> BuiltImage {
    let build = spec.build_id.as_str();
    let digest: String = Sha256::digest(build).iter().map(|byte| format!("{byte:02x}")).collect();
    BuiltImage {
        reference: format!("instant.invalid/{}:{build}", spec.project_slug),
        digest: format!("sha256:{digest}"),
        local_only: false,
    }
}

#[async_trait]
impl Builder for InstantBuilder {
    async fn find_image(&self, spec: &BuildSpec) -> Result<Option<BuiltImage>, StepError> {
        Ok(self.world.get(IMAGES, spec.build_id.as_str()).map(|_| image(spec)))
    }

    async fn build(
        &self,
        spec: &BuildSpec,
        events: mpsc::Sender<BuildEvent>,
    ) -> Result<BuiltImage, StepError> {
        let build = spec.build_id.as_str();
        if !self.world.create(BUILDS, build) {
            self.world.note("two-builds-at-once", build);
        }
        self.world.note("build", build);
        let text = "built at once".to_owned();
        let kind = BuildEventKind::Output { stream: OutputStream::Stdout, text, ends: true };
        let event = BuildEvent { at: 0, vertex: "instant".to_owned(), kind };
        let _ = events.send(event).await;
        failpoint::reach(&spec.deployment_id, Step::BuildImage, Point::During).await;
        if !self.world.remove(BUILDS, build) {
            return Err(StepError::transient(ErrorCode::BuilderUnavailable, "it was aborted"));
        }
        self.world.create(IMAGES, build);
        self.world.note("image", build);
        Ok(image(spec))
    }

    async fn has_image(&self, image: &BuiltImage) -> Result<bool, StepError> {
        let build = image.reference.rsplit_once(':').map_or("", |(_, build)| build);
        Ok(self.world.get(IMAGES, build).is_some())
    }

    async fn abort(&self, build_id: &BuildId) -> Result<(), StepError> {
        if self.world.remove(BUILDS, build_id.as_str()) {
            self.world.note("abort", build_id.as_str());
        }
        Ok(())
    }

    async fn push(&self, image: &BuiltImage) -> Result<Push, StepError> {
        self.world.note("push", &image.reference);
        Ok(Push::Pushed(image.clone()))
    }

    async fn image_size(&self, image: &BuiltImage) -> Result<Option<u64>, StepError> {
        Ok(self.has_image(image).await?.then_some(1000))
    }

    async fn remove_image(&self, image: &BuiltImage) -> Result<Removal, StepError> {
        let build = image.reference.rsplit_once(':').map_or("", |(_, build)| build);
        if self.world.remove(IMAGES, build) {
            self.world.note("remove-image", build);
        }
        Ok(Removal::Gone)
    }
}
