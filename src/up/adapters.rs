//! What an installation builds and runs with.

use std::sync::Arc;

use async_trait::async_trait;
use launchway_workflows::ports::{Builder, ContextStore, OpenapiScraper};

use super::SetupError;
use crate::{
    builder::{DockerBuilder, engine_version},
    krane::{Backend, DockerBackend, DockerSettings},
    storage::S3Storage,
    worker::HttpScraper,
};

/// Makes the adapters behind the ports to the outside. An installation for
/// tests brings its own; everything else is the same.
#[async_trait]
pub trait Adapters: Send + Sync + 'static {
    /// Answers when what the adapters need is there.
    ///
    /// # Errors
    /// One sentence with the remedy.
    async fn check(&self) -> Result<(), SetupError>;

    /// What builds images; they are marked as `owner`'s.
    ///
    /// # Errors
    /// Its settings cannot be read.
    fn builder(&self, owner: &str) -> Result<Arc<dyn Builder>, SetupError>;

    /// What krane runs instances with; they are marked as `owner`'s.
    ///
    /// # Errors
    /// Its settings cannot be read.
    fn backend(&self, owner: &str) -> Result<Arc<dyn Backend>, SetupError>;

    /// Where workflows find build contexts.
    fn contexts(&self, storage: &S3Storage) -> Arc<dyn ContextStore>;

    /// What reads OpenAPI descriptions.
    fn scraper(&self) -> Arc<dyn OpenapiScraper>;
}

/// The Docker engine of this machine.
pub struct OnDocker;

#[async_trait]
impl Adapters for OnDocker {
    async fn check(&self) -> Result<(), SetupError> {
        engine_version().await.map(drop).map_err(SetupError)
    }

    fn builder(&self, owner: &str) -> Result<Arc<dyn Builder>, SetupError> {
        Ok(Arc::new(DockerBuilder::connect(None, owner).map_err(SetupError)?))
    }

    fn backend(&self, owner: &str) -> Result<Arc<dyn Backend>, SetupError> {
        let settings = DockerSettings { owner: owner.to_owned() };
        Ok(Arc::new(DockerBackend::start(settings).map_err(SetupError::from)?))
    }

    fn contexts(&self, storage: &S3Storage) -> Arc<dyn ContextStore> {
        Arc::new(storage.clone())
    }

    fn scraper(&self) -> Arc<dyn OpenapiScraper> {
        Arc::new(HttpScraper::new())
    }
}
