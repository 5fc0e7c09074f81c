//! What runs instances and routes to them.

use async_trait::async_trait;
use futures::stream::BoxStream;

use super::{Found, RunInputs};
use crate::{
    error::StepError,
    ids::DeploymentId,
    model::{DeploymentPlan, Instance},
};

/// What to run.
#[derive(Debug, Clone)]
pub struct RunSpec {
    /// The plan it comes from.
    pub plan: DeploymentPlan,
    /// Pullable reference with digest, or a local image id.
    pub image: String,
    /// Port, replicas, variables, limits.
    pub inputs: RunInputs,
}

/// Runs instances, through krane.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Idempotent: leaves exactly the wanted instances.
    async fn apply(&self, spec: &RunSpec) -> Result<(), StepError>;

    /// Returns when the instances are gone; unknown ones are gone.
    async fn delete(&self, namespace: &str, id: &DeploymentId) -> Result<(), StepError>;

    /// The instances now.
    async fn instances(
        &self,
        namespace: &str,
        id: &DeploymentId,
    ) -> Result<Vec<Instance>, StepError>;

    /// Everything of deployments that it has.
    async fn found(&self) -> Result<Vec<Found>, StepError>;

    /// The instances now, then after each change. Ends only with an error.
    async fn watch(
        &self,
        namespace: &str,
        id: &DeploymentId,
    ) -> Result<BoxStream<'static, Result<Vec<Instance>, StepError>>, StepError>;
}

/// Tells the gateways that routes changed.
#[async_trait]
pub trait RouteAnnouncer: Send + Sync + 'static {
    /// Returns when every connected gateway routes by the present table, or
    /// after a short while: the routes are committed either way.
    async fn announce(&self);
}

/// Fetches the OpenAPI description of a running application.
#[async_trait]
pub trait OpenapiScraper: Send + Sync + 'static {
    /// `None`: the application has none. Bounded in time and size.
    async fn scrape(&self, address: &str) -> Result<Option<String>, StepError>;
}
