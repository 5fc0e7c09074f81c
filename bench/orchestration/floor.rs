//! The floors: a virtual object with as many steps as a deployment, all empty;
//! and the same with the calls that a deployment makes of other objects, empty
//! too. What a deployment costs beyond the second is launchway's own.

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

    /// Where a deployment calls another object, this calls one of the same kind
    /// that does nothing.
    #[handler]
    async fn run_and_call(&self, ctx: ObjectContext<'_>) -> HandlerResult<()> {
        for step in Step::ALL {
            ctx.run(|| async { Ok(()) }).name(step.name()).await?;
            match step {
                Step::AcquireSlot => ctx.object_client::<QueueClient>("all").take().call().await?,
                Step::ReleaseSlot => {
                    ctx.object_client::<QueueClient>("all").give_back().send();
                }
                Step::AssignDomains => {
                    ctx.object_client::<LeafClient>(ctx.key()).commit().call().await?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// State that everybody contends for, as the build slots are.
struct Queue;

#[restate_sdk::object]
impl Queue {
    #[handler]
    async fn take(&self, ctx: ObjectContext<'_>) -> HandlerResult<()> {
        let taken = ctx.get::<u64>("taken").await?.unwrap_or(0);
        ctx.set("taken", taken + 1);
        Ok(())
    }

    #[handler]
    async fn give_back(&self, ctx: ObjectContext<'_>) -> HandlerResult<()> {
        let taken = ctx.get::<u64>("taken").await?.unwrap_or(0);
        ctx.set("taken", taken.saturating_sub(1));
        Ok(())
    }
}

/// One run in an object of its own, as the domains of an environment are.
struct Leaf;

#[restate_sdk::object]
impl Leaf {
    #[handler]
    async fn commit(&self, ctx: ObjectContext<'_>) -> HandlerResult<()> {
        ctx.run(|| async { Ok(()) }).name("commit").await?;
        Ok(())
    }
}

pub async fn serve(listener: TcpListener) {
    let endpoint = Endpoint::builder().bind(Floor).bind(Queue).bind(Leaf).build();
    HttpServer::new(endpoint).serve(listener).await;
}
