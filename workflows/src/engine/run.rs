//! The only way into `ctx.run`: with a name for people and bounds for Restate.

use std::time::Duration;

use futures::future::BoxFuture;
use restate_sdk::prelude::*;

use super::failpoint;

/// Restate delivers a cancel as this code at whatever await comes next.
pub(crate) const CANCELLED: u16 = 409;
/// Cancels absorbed during one run: more than people send, and a bound.
const MAX_CANCELS: u32 = 100;

/// Bounds of an undo and of the records around a step: about two minutes.
pub(crate) fn record_policy() -> RunRetryPolicy {
    RunRetryPolicy::new()
        .initial_delay(Duration::from_millis(100))
        .exponentiation_factor(2.0)
        .max_delay(Duration::from_secs(1))
        .max_attempts(failpoint::tries(120))
        .max_duration(Duration::from_secs(180))
}

/// `bounded_run!(ctx, name, [policy,] closure)`: a macro, because a function
/// over the SDK's context traits does not compile inside its macros
/// (rust#100013).
macro_rules! bounded_run {
    ($ctx:expr, $name:expr, $closure:expr) => {
        bounded_run!($ctx, $name, $crate::engine::run::record_policy(), $closure)
    };
    ($ctx:expr, $name:expr, $policy:expr, $closure:expr) => {{
        let (name, closure) = ($name, $closure);
        #[expect(clippy::disallowed_methods, reason = "the one place where a run begins")]
        let run = $ctx.run(move || $crate::engine::failpoint::observed(name, closure()));
        run.name(name).retry_policy($policy)
    }};
}
pub(crate) use bounded_run;

/// A run that a cancel cannot skip: a 409 means "run this again".
pub(crate) async fn uncancelled_run<T>(
    ctx: &ObjectContext<'_>,
    name: &'static str,
    action: impl Fn() -> BoxFuture<'static, HandlerResult<T>>,
) -> Result<T, TerminalError>
where
    T: restate_sdk::serde::Serialize + restate_sdk::serde::Deserialize + Send + 'static,
{
    let mut cancels = 0;
    loop {
        let future = action();
        match bounded_run!(ctx, name, move || future).await {
            Err(error) if error.code() == CANCELLED && cancels < MAX_CANCELS => cancels += 1,
            result => return result,
        }
    }
}
