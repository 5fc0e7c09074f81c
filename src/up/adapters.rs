//! What an installation builds and runs with.

use std::sync::Arc;

use async_trait::async_trait;
use launchway_workflows::ports::{Builder, ContextStore, OpenapiScraper};

use super::{SetupError, depot::StoredLedger};
use crate::{
    builder::{BuildkitBuilder, DepotBuilder, DepotLimits, DockerBuilder, engine_version},
    config::{BuilderSettings, Config, RuntimeSettings},
    krane::{Backend, DockerBackend, KubernetesBackend},
    storage::S3Storage,
    store::Store,
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
    async fn check(&self, config: &Config) -> Result<(), SetupError>;

    /// What builds images; they are marked as `owner`'s.
    ///
    /// # Errors
    /// Its settings cannot be read.
    fn builder(
        &self,
        config: &Config,
        store: &Store,
        owner: &str,
    ) -> Result<Arc<dyn Builder>, SetupError>;

    /// What krane runs instances with; they are marked as `owner`'s.
    ///
    /// # Errors
    /// Its settings cannot be read.
    async fn backend(&self, config: &Config, owner: &str) -> Result<Arc<dyn Backend>, SetupError>;

    /// Where workflows find build contexts.
    fn contexts(&self, storage: &S3Storage) -> Arc<dyn ContextStore>;

    /// What reads OpenAPI descriptions.
    fn scraper(&self) -> Arc<dyn OpenapiScraper>;
}

/// The builder and the runtime that are configured.
pub struct OnDocker;

#[async_trait]
impl Adapters for OnDocker {
    async fn check(&self, config: &Config) -> Result<(), SetupError> {
        if config.needs_docker() {
            engine_version().await.map_err(SetupError)?;
        }
        Ok(())
    }

    fn builder(
        &self,
        config: &Config,
        store: &Store,
        owner: &str,
    ) -> Result<Arc<dyn Builder>, SetupError> {
        Ok(match config.builder().map_err(SetupError::from)? {
            BuilderSettings::Docker(registry) => {
                Arc::new(DockerBuilder::connect(registry, owner).map_err(SetupError)?)
            }
            BuilderSettings::Buildkit(address, registry) => {
                Arc::new(BuildkitBuilder::new(address, registry, owner))
            }
            BuilderSettings::Depot(account) => {
                let ledger = Arc::new(StoredLedger(store.clone()));
                let started = DepotBuilder::start(account, ledger, DepotLimits::default(), owner);
                Arc::new(started.map_err(SetupError)?)
            }
        })
    }

    async fn backend(&self, config: &Config, owner: &str) -> Result<Arc<dyn Backend>, SetupError> {
        Ok(match config.runtime(owner).map_err(SetupError::from)? {
            RuntimeSettings::Docker(settings) => {
                Arc::new(DockerBackend::start(settings).map_err(SetupError::from)?)
            }
            RuntimeSettings::Kubernetes(settings) => {
                Arc::new(KubernetesBackend::start(*settings).await.map_err(SetupError)?)
            }
        })
    }

    fn contexts(&self, storage: &S3Storage) -> Arc<dyn ContextStore> {
        Arc::new(storage.clone())
    }

    fn scraper(&self) -> Arc<dyn OpenapiScraper> {
        Arc::new(HttpScraper::new())
    }
}
