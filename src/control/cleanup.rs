//! `ctrl.v1.CleanupService`.

use launchway_proto::ctrl::v1::{
    CollectGarbageRequest, CollectGarbageResponse, GarbageAmount, GarbageItem, ListGarbageRequest,
    ListGarbageResponse, cleanup_service_server::CleanupService,
};
use launchway_workflows::{
    engine::janitor::Amounts,
    ports::Garbage,
    services::janitor::{SWEEP, SweepRequest, Swept},
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Control, deployments::refusal};

#[tonic::async_trait]
impl CleanupService for Control {
    async fn list_garbage(
        &self,
        _request: Request<ListGarbageRequest>,
    ) -> Result<Response<ListGarbageResponse>, Status> {
        let swept = self.sweep(SweepRequest { dry_run: true }).await?;
        let (items, amounts) = (items(swept.items), amounts(swept.amounts));
        Ok(Response::new(ListGarbageResponse { items, amounts }))
    }

    async fn collect_garbage(
        &self,
        _request: Request<CollectGarbageRequest>,
    ) -> Result<Response<CollectGarbageResponse>, Status> {
        let swept = self.sweep(SweepRequest { dry_run: false }).await?;
        let (items, amounts) = (items(swept.items), amounts(swept.amounts));
        Ok(Response::new(CollectGarbageResponse { items, amounts }))
    }
}

impl Control {
    async fn sweep(&self, request: SweepRequest) -> Result<Swept, Status> {
        let key = Uuid::new_v4().to_string();
        self.ingress.call(SWEEP, &key, &request).await.map_err(refusal)
    }
}

fn items(found: Vec<Garbage>) -> Vec<GarbageItem> {
    let item = |garbage: Garbage| {
        let (kind, size) = (garbage.kind().to_owned(), garbage.size());
        let (name, deployment_id) = match garbage {
            Garbage::Context { key, .. } => (key, String::new()),
            Garbage::Image { deployment_id, image, .. } => {
                (image.reference, deployment_id.to_string())
            }
            Garbage::BuildLog { deployment_id, .. } | Garbage::Record { deployment_id } => {
                (deployment_id.to_string(), deployment_id.to_string())
            }
            Garbage::Task { deployment_id, task, .. } => (task, deployment_id.to_string()),
            Garbage::LeftOver { deployment_id, what, .. } => (what, deployment_id.to_string()),
        };
        GarbageItem { kind, name, deployment_id, size }
    };
    found.into_iter().map(item).collect()
}

fn amounts(amounts: Amounts) -> Vec<GarbageAmount> {
    let amount = |(kind, amount): (String, launchway_workflows::engine::janitor::Amount)| {
        GarbageAmount { kind, count: amount.count, bytes: amount.bytes }
    };
    amounts.into_iter().map(amount).collect()
}
