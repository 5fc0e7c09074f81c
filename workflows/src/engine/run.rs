//! The only way into `ctx.run`: with a name for people and bounds for Restate.

use std::time::Duration;

use restate_sdk::prelude::RunRetryPolicy;

use super::failpoint;

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
