//! `Retirement`, a virtual object per deployment: stops what no domain except
//! its own commit domain points to. Keyed apart from `Deployment`, so that it
//! never queues behind `deploy`.

use std::{str::FromStr, sync::Arc};

use restate_sdk::prelude::*;

use crate::{
    engine::{core::Core, run::bounded_run},
    error::StepError,
    ids::DeploymentId,
    ports::{Guarded, Retirable},
};

/// Stops deployments that have lost their domains.
pub struct Retirement {
    core: Arc<Core>,
}

impl Retirement {
    /// Handlers over these ports.
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

#[restate_sdk::object]
impl Retirement {
    /// Sent with a delay, in which open requests drain. Does nothing when a
    /// domain has come back meanwhile.
    #[handler]
    async fn retire(
        &self,
        ctx: ObjectContext<'_>,
        candidate: Json<Retirable>,
    ) -> HandlerResult<()> {
        let id = DeploymentId::from_str(ctx.key())
            .map_err(|error| TerminalError::new_with_code(400, error.to_string()))?;
        let Json(candidate) = candidate;
        let wanted = candidate.clone();
        let begin = move |core, _| begin(core, wanted);
        let begun = self.run(&ctx, "begin-retirement", &id, begin).await?;
        if !begun {
            return Ok(());
        }
        match self.run(&ctx, "stop-instances", &id, stop).await {
            Ok(_) => tracing::info!(deployment = %id, "retired"),
            Err(error) => {
                // There is no way back from `retiring`, and nobody else would
                // stop the instances: krane may be away for longer than a run.
                tracing::warn!(deployment = %id, %error, "its instances are not stopped yet");
                let again = ctx.object_client::<RetirementClient>(ctx.key());
                again.retire(Json(candidate)).send_after(self.core.settings.retire_after);
            }
        }
        Ok(())
    }
}

impl Retirement {
    async fn run<F, Fut>(
        &self,
        ctx: &ObjectContext<'_>,
        name: &'static str,
        id: &DeploymentId,
        action: F,
    ) -> Result<bool, TerminalError>
    where
        F: FnOnce(Arc<Core>, DeploymentId) -> Fut + Send + 'static,
        Fut: Future<Output = HandlerResult<bool>> + Send + 'static,
    {
        let (core, id) = (Arc::clone(&self.core), id.clone());
        bounded_run!(ctx, name, move || action(core, id)).await
    }
}

/// From here on the commit domain answers "retired".
async fn begin(core: Arc<Core>, candidate: Retirable) -> HandlerResult<bool> {
    let begun = core.store.begin_retirement(&candidate).await? == Guarded::Applied;
    if begun {
        core.announcer.announce().await;
    }
    Ok(begun)
}

async fn stop(core: Arc<Core>, id: DeploymentId) -> HandlerResult<bool> {
    if let Some(namespace) = core.store.run_target(&id).await? {
        core.runtime.delete(&namespace, &id).await.map_err(stop_error)?;
    }
    Ok(core.store.finish_retirement(&id).await? == Guarded::Applied)
}

/// What cannot be stopped now is tried again: nothing else depends on it.
fn stop_error(error: StepError) -> HandlerError {
    error.failure().to_string().into()
}
