//! launchway on adapters that answer at once: what it does to the outside is
//! in a directory, so that it outlives every process and can be looked at.
//! Everything else is the product.

mod backend;
mod builder;
mod world;

use std::sync::Arc;

use async_trait::async_trait;
use launchway::{
    cli,
    config::{Config, RuntimeBackend},
    krane::Backend,
    storage::S3Storage,
    store::Store,
    up::{Adapters, OnDocker, SetupError},
};
use launchway_workflows::{
    error::StepError,
    ports::{Builder, ContextStore, ObjectMeta, OpenapiScraper, SignedUrl, StoredContext},
};
use world::World;

fn main() -> cli::Exit {
    let Some(world) = World::of_environment() else {
        eprintln!("error: name a directory for the world in {}", world::VARIABLE);
        return cli::Exit::Usage;
    };
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(cli::main(Arc::new(Instant(world)))),
        Err(error) => {
            eprintln!("error: no threads can be started: {error}");
            cli::Exit::Internal
        }
    }
}

struct Instant(World);

#[async_trait]
impl Adapters for Instant {
    async fn check(&self, _: &Config) -> Result<(), SetupError> {
        Ok(())
    }

    fn builder(&self, _: &Config, _: &Store, _owner: &str) -> Result<Arc<dyn Builder>, SetupError> {
        Ok(Arc::new(builder::InstantBuilder::new(self.0.clone())))
    }

    /// A cluster is the product's own affair: the tests bring one.
    async fn backend(&self, config: &Config, owner: &str) -> Result<Arc<dyn Backend>, SetupError> {
        Ok(match config.runtime.backend {
            RuntimeBackend::Kubernetes => OnDocker.backend(config, owner).await?,
            RuntimeBackend::Docker => Arc::new(backend::InstantBackend::new(self.0.clone())),
        })
    }

    fn contexts(&self, _storage: &S3Storage) -> Arc<dyn ContextStore> {
        Arc::new(EveryContext)
    }

    fn scraper(&self) -> Arc<dyn OpenapiScraper> {
        Arc::new(EmptyDescription)
    }
}

/// Has every context.
struct EveryContext;

#[async_trait]
impl ContextStore for EveryContext {
    async fn head(&self, _key: &str) -> Result<Option<ObjectMeta>, StepError> {
        Ok(Some(ObjectMeta { size: 1 }))
    }

    async fn presign_get(
        &self,
        key: &str,
        _lifetime: std::time::Duration,
    ) -> Result<SignedUrl, StepError> {
        Ok(SignedUrl(format!("http://contexts.invalid/{key}")))
    }

    async fn stored(&self) -> Result<Vec<StoredContext>, StepError> {
        Ok(Vec::new())
    }

    async fn delete(&self, _key: &str) -> Result<(), StepError> {
        Ok(())
    }
}

/// Every application has a description.
struct EmptyDescription;

#[async_trait]
impl OpenapiScraper for EmptyDescription {
    async fn scrape(&self, _address: &str) -> Result<Option<String>, StepError> {
        Ok(Some("{}".to_owned()))
    }
}
