//! The end of a build by itself: the commit point of what moves no domain.

use std::sync::Arc;

use crate::{
    engine::{
        run::bounded_run,
        steps::{Steps, Stop, handler_error},
    },
    model::Routed,
    step::Step,
};
use restate_sdk::prelude::*;

/// From here on a cancel is too late, and nothing is taken back.
pub(super) async fn finish_build(steps: &Steps<'_, '_>) -> Result<Routed, Stop> {
    let (core, id, owner) =
        (Arc::clone(steps.core()), steps.deployment_id().clone(), steps.owner());
    let passed = steps.take_passed();
    let recorded = passed.clone();
    let finished = bounded_run!(steps.ctx(), "finish-build", move || async move {
        let finished = core.store.finish_build(&id, &owner, &recorded).await;
        finished.map(Json).map_err(|error| handler_error(error.into()))
    });
    match finished.await {
        Ok(Json(Some(built))) => Ok(built),
        Ok(Json(None)) => Err(Stop::Overtaken),
        Err(error) => {
            steps.record_next(passed);
            Err(Stop::from_terminal(&error, Step::PushImage))
        }
    }
}
