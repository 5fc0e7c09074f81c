//! The product's database as the memory of the Depot builder.

use async_trait::async_trait;
use launchway_workflows::{
    ids::{BuildId, ProjectId},
    ports::StoreError,
    secret::Secret,
};

use crate::{
    builder::{Claim, DepotOutcome, Ledger, Registered},
    store::{DepotClaim, Store},
};

/// See [`Ledger`].
pub(crate) struct StoredLedger(pub(crate) Store);

#[async_trait]
impl Ledger for StoredLedger {
    async fn depot_project(&self, project: &ProjectId) -> Result<Option<String>, StoreError> {
        self.0.depot_project(project).await
    }

    async fn claim_depot_project(&self, project: &ProjectId) -> Result<Claim, StoreError> {
        Ok(match self.0.claim_depot_project(project).await? {
            DepotClaim::Exists(depot) => Claim::Exists(depot),
            DepotClaim::Yours => Claim::Yours,
            DepotClaim::Taken => Claim::Taken,
        })
    }

    async fn set_depot_project(
        &self,
        project: &ProjectId,
        depot: &str,
    ) -> Result<String, StoreError> {
        self.0.set_depot_project(project, depot).await
    }

    async fn opened(&self, build: &BuildId, registered: &Registered) -> Result<(), StoreError> {
        self.0.depot_build_opened(build, &registered.id, registered.token.expose()).await
    }

    async fn open(&self, build: &BuildId) -> Result<Vec<Registered>, StoreError> {
        let rows = self.0.depot_builds(Some(build)).await?;
        Ok(rows.into_iter().map(|(id, token, _)| registered(id, token)).collect())
    }

    async fn ended(&self, depot: &str, outcome: &DepotOutcome) -> Result<(), StoreError> {
        let outcome = serde_json::to_string(outcome)
            .map_err(|error| StoreError(format!("to JSON: {error}")))?;
        self.0.depot_build_ended(depot, &outcome).await
    }

    async fn untold(&self) -> Result<Vec<(Registered, DepotOutcome)>, StoreError> {
        let rows = self.0.depot_builds(None).await?;
        let told = rows.into_iter().filter_map(|(id, token, outcome)| {
            let outcome = serde_json::from_str(&outcome?).ok()?;
            Some((registered(id, token), outcome))
        });
        Ok(told.collect())
    }

    async fn told(&self, depot: &str) -> Result<(), StoreError> {
        self.0.depot_build_told(depot).await
    }
}

fn registered(id: String, token: String) -> Registered {
    Registered { id, token: Secret::new(token) }
}
