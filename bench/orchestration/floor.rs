//! The floor: a virtual object with as many steps as a deployment, all empty.

use launchway_workflows::step::Step;
use restate_sdk::prelude::*;
use tokio::net::TcpListener;

struct Floor;

#[restate_sdk::object]
impl Floor {
    #[handler]
    async fn run(&self, ctx: ObjectContext<'_>) -> HandlerResult<()> {
        for step in Step::ALL {
            ctx.run(|| async { Ok(()) }).name(step.name()).await?;
        }
        Ok(())
    }
}

pub async fn serve(listener: TcpListener) {
    let endpoint = Endpoint::builder().bind(Floor).build();
    HttpServer::new(endpoint).serve(listener).await;
}
