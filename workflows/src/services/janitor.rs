//! `Janitor`, a virtual object per installation: removes what nobody needs any
//! more. One sweep at a time, for it is one object.

use std::sync::Arc;

use restate_sdk::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    engine::{
        core::Core,
        janitor::{self, Amounts},
        run::bounded_run,
        steps::handler_error,
    },
    ports::Garbage,
};

/// Where `sweep` is called: one object cleans up everything.
pub const SWEEP: &str = "Janitor/local/sweep";

/// Batches of one sweep: what is left then is the next one's.
const ROUNDS: usize = 20;

/// Input of `sweep`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SweepRequest {
    /// Removes nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Output of `sweep`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Swept {
    /// What was removed, or would be, by kind.
    pub amounts: Amounts,
    /// Each of them, of the first batch.
    pub items: Vec<Garbage>,
}

/// Cleans up.
pub struct Janitor {
    core: Arc<Core>,
}

impl Janitor {
    /// Handlers over these ports.
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

#[restate_sdk::object]
impl Janitor {
    /// Removes what is past its retention, never what is live, can be served
    /// again, or can be retried.
    #[handler]
    async fn sweep(
        &self,
        ctx: ObjectContext<'_>,
        request: Json<SweepRequest>,
    ) -> HandlerResult<Json<Swept>> {
        let mut swept = Swept::default();
        for round in 0..ROUNDS {
            let core = Arc::clone(&self.core);
            let Json(found) = bounded_run!(ctx, "find-garbage", move || async move {
                janitor::find(&core).await.map(Json).map_err(handler_error)
            })
            .await?;
            if request.0.dry_run {
                let amounts = janitor::amounts(&found);
                return Ok(Json(Swept { amounts, items: found }));
            }
            if found.is_empty() {
                break;
            }
            let (core, garbage) = (Arc::clone(&self.core), found.clone());
            let Json(removed) = bounded_run!(ctx, "remove-garbage", move || async move {
                Ok(Json(janitor::remove(&core, &garbage).await))
            })
            .await?;
            let none = removed.is_empty();
            janitor::add(&mut swept.amounts, removed);
            if round == 0 {
                swept.items = found;
            }
            if none {
                break;
            }
        }
        if !swept.amounts.is_empty() {
            tracing::info!(amounts = ?swept.amounts, "cleaned up");
        }
        Ok(Json(swept))
    }
}
