//! The one way a handler does something: a named, bounded, recorded step.

use std::{fmt, future::Future, sync::Arc, sync::Mutex, time::Duration};

use futures::future::{BoxFuture, Either};
use restate_sdk::prelude::*;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tracing::Instrument;

use super::{
    core::Core,
    failpoint::{self, Point},
    run::{CANCELLED, bounded_run},
};
use crate::{
    error::{ErrorCode, StepError, StepFailure},
    ids::{DeploymentId, InvocationId},
    ports::{Passed, StepEnd, StepRun},
    status::DeploymentStatus,
    step::Step,
};

/// Longest pause between tries: a step that can go on again does so within a
/// second of its cause being gone.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);
/// How often a held step looks for a cancel that another process recorded.
const CANCEL_POLL: Duration = Duration::from_millis(500);
/// Largest journaled result of a step, in bytes.
pub(crate) const MAX_RESULT: usize = 64 * 1024;

/// Why `deploy` does not go on.
#[derive(Debug, Clone)]
pub enum Stop {
    /// A step failed for good.
    Failed(StepFailure),
    /// Somebody cancelled.
    Cancelled,
    /// A newer one took its place in the queue.
    Superseded(DeploymentId),
    /// The row is not this invocation's any more: nothing may be touched.
    Overtaken,
}

impl Stop {
    /// What an await of the SDK ended with, as happened at `step`.
    pub fn from_terminal(error: &TerminalError, step: Step) -> Self {
        if error.code() == CANCELLED {
            return Self::Cancelled;
        }
        Self::Failed(exhausted(error.message()).at(step))
    }
}

/// How far a step may go. Every field is a bound.
#[derive(Debug, Clone, Copy)]
pub struct StepLimits {
    /// Tries, the first included.
    pub tries: u32,
    /// Longest single try.
    pub time_limit: Duration,
    /// The closure watches for a cancel and is dropped when one comes.
    pub held: bool,
}

impl StepLimits {
    /// A call of a local database or API: short tries, for half a minute in
    /// all, so that a restart of that service is waited out.
    pub const CALL: Self = Self { tries: 30, time_limit: Duration::from_secs(15), held: false };

    /// Work of minutes that is started again when its process is lost.
    pub fn held(time_limit: Duration) -> Self {
        Self { tries: 10, time_limit, held: true }
    }

    fn retry_policy(self) -> RunRetryPolicy {
        RunRetryPolicy::new()
            .initial_delay(Duration::from_millis(100))
            .exponentiation_factor(2.0)
            .max_delay(MAX_RETRY_DELAY)
            .max_attempts(failpoint::tries(self.tries))
            .max_duration(self.time_limit.saturating_mul(self.tries) + MAX_RETRY_DELAY * self.tries)
    }
}

/// What a step's action did.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done<T> {
    value: T,
    #[serde(default, skip_serializing_if = "Left::is_nothing")]
    left: Left,
}

/// What a run leaves of its step. Journaled, because the end of a step is
/// recorded by the run that follows: one transaction each, not two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Left {
    /// It is done.
    #[default]
    Nothing,
    /// There was nothing to do; why, for people.
    Skipped(String),
    /// The step goes on after this run.
    More,
}

impl Left {
    fn is_nothing(&self) -> bool {
        *self == Self::Nothing
    }
}

impl<T> Done<T> {
    /// Did its work.
    pub fn with(value: T) -> Self {
        Self { value, left: Left::Nothing }
    }

    /// Had nothing to do; `why` is shown.
    pub fn skipped(value: T, why: impl Into<String>) -> Self {
        Self { value, left: Left::Skipped(why.into()) }
    }

    fn passed(&self, step: Step) -> Option<Passed> {
        match &self.left {
            Left::Nothing => Some(Passed { step, skipped: None }),
            Left::Skipped(why) => Some(Passed { step, skipped: Some(why.clone()) }),
            Left::More => None,
        }
    }
}

/// A step's journaled result. Errors are values: no error type survives a
/// journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "verdict", content = "value", rename_all = "snake_case")]
enum Verdict<T> {
    Done(Done<T>),
    Failed(StepFailure),
    Cancelled,
    Overtaken,
}

/// A try that failed and may be repeated; carries the failure through
/// Restate's retries, to be read back by [`exhausted`].
#[derive(Debug)]
struct Retryable(StepFailure);

impl fmt::Display for Retryable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(&self.0).map_err(|_| fmt::Error)?)
    }
}

impl std::error::Error for Retryable {}

/// What a run of a called service fails with, so that its caller can read the
/// failure back.
pub(crate) fn handler_error(error: StepError) -> HandlerError {
    match error {
        StepError::Transient(failure) => Retryable(failure).into(),
        StepError::Permanent(failure) => TerminalError::new(Retryable(failure).to_string()).into(),
    }
}

/// The failure behind a terminal error of a run whose tries are used up.
pub(crate) fn exhausted(message: &str) -> StepFailure {
    let json = message.find('{').map(|start| &message[start..]);
    json.and_then(|json| {
        serde_json::Deserializer::from_str(json).into_iter::<StepFailure>().next()?.ok()
    })
    .unwrap_or_else(|| StepFailure::new(ErrorCode::Internal, message))
}

/// The steps of one attempt of one deployment.
pub struct Steps<'a, 'ctx> {
    ctx: &'a ObjectContext<'ctx>,
    core: Arc<Core>,
    deployment_id: DeploymentId,
    /// Steps that ended since the last run; the next run records them.
    passed: Mutex<Vec<Passed>>,
}

impl<'a, 'ctx> Steps<'a, 'ctx> {
    /// The steps of the deployment that is the object's key.
    pub fn new(ctx: &'a ObjectContext<'ctx>, core: Arc<Core>, deployment_id: DeploymentId) -> Self {
        Self { ctx, core, deployment_id, passed: Mutex::new(Vec::new()) }
    }

    /// The ports.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The context, for calls of other services.
    pub fn ctx(&self) -> &'a ObjectContext<'ctx> {
        self.ctx
    }

    /// The deployment.
    pub fn deployment_id(&self) -> &DeploymentId {
        &self.deployment_id
    }

    /// The invocation that owns the row. For closures only, never for
    /// arguments: a restarted attempt has another id.
    pub fn owner(&self) -> InvocationId {
        InvocationId(self.ctx.invocation_id().to_owned())
    }

    /// Begins a step whose work is a call of another service: recorded for
    /// people, and journaled, so that a retry can begin at it.
    ///
    /// # Errors
    /// [`Stop`] when the row is not this attempt's, or it was cancelled.
    pub async fn begin(&self, step: Step, status: Option<DeploymentStatus>) -> Result<(), Stop> {
        let begun = |_| async { Ok(Done { value: (), left: Left::More }) };
        self.execute(step, status, StepLimits::CALL, Work::Called, begun).await
    }

    /// Begins a step that may be decided at once: `action` says so with true,
    /// and with false that its work goes on in another service.
    ///
    /// # Errors
    /// [`Stop`] when it failed for good, the row is not this attempt's, or it was
    /// cancelled.
    pub async fn look<F, Fut>(
        &self,
        step: Step,
        status: Option<DeploymentStatus>,
        action: F,
    ) -> Result<bool, Stop>
    where
        F: FnOnce(Arc<Core>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<bool, StepError>> + Send + 'static,
    {
        let looked = |core| async move {
            let decided = action(core).await?;
            let left = if decided { Left::Nothing } else { Left::More };
            Ok(Done { value: decided, left })
        };
        self.execute(step, status, StepLimits::CALL, Work::Called, looked).await
    }

    /// Notes that a begun step has ended; the next run records it.
    pub async fn end(&self, step: Step) {
        self.pass(Passed { step, skipped: None }).await;
    }

    async fn pass(&self, passed: Passed) {
        failpoint::reach(&self.deployment_id, passed.step, Point::Journaled).await;
        if passed.step != Step::LAST {
            self.record_next(vec![passed]);
        }
    }

    /// What the next run records besides.
    pub(crate) fn record_next(&self, passed: Vec<Passed>) {
        if let Ok(mut all) = self.passed.lock() {
            all.extend(passed);
        }
    }

    /// What the next run has to record.
    pub fn take_passed(&self) -> Vec<Passed> {
        self.passed.lock().map(|mut passed| std::mem::take(&mut *passed)).unwrap_or_default()
    }

    /// Runs `action` as the step: recorded for people, journaled by Restate,
    /// repeated on transient errors within `limits`, never again once done.
    ///
    /// # Errors
    /// [`Stop`] when it failed for good or was cancelled.
    pub async fn run<T, F, Fut>(
        &self,
        step: Step,
        status: Option<DeploymentStatus>,
        limits: StepLimits,
        action: F,
    ) -> Result<T, Stop>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnOnce(Arc<Core>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Done<T>, StepError>> + Send + 'static,
    {
        self.execute(step, status, limits, Work::Here, action).await
    }

    async fn execute<T, F, Fut>(
        &self,
        step: Step,
        status: Option<DeploymentStatus>,
        limits: StepLimits,
        work: Work,
        action: F,
    ) -> Result<T, Stop>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnOnce(Arc<Core>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Done<T>, StepError>> + Send + 'static,
    {
        let passed = self.take_passed();
        let recorded = Recorded {
            core: Arc::clone(&self.core),
            run: StepRun { deployment_id: self.deployment_id.clone(), owner: self.owner(), step },
            status,
            limits,
            work,
            passed: passed.clone(),
        };
        let span = tracing::info_span!("step", deployment = %self.deployment_id, step = %step);
        // Boxed: rustc cannot prove `Send` for the nested future inside the
        // SDK's macros otherwise (rust#100013).
        let closure: BoxFuture<'static, HandlerResult<Json<Verdict<T>>>> =
            Box::pin(recorded.execute(action).instrument(span));
        let run = bounded_run!(self.ctx, step.name(), limits.retry_policy(), move || closure);
        match run.await {
            Ok(Json(Verdict::Done(done))) => {
                if let Some(passed) = done.passed(step) {
                    self.pass(passed).await;
                }
                Ok(done.value)
            }
            Ok(Json(Verdict::Failed(failure))) => Err(Stop::Failed(failure.at(step))),
            Ok(Json(Verdict::Cancelled)) => Err(Stop::Cancelled),
            Ok(Json(Verdict::Overtaken)) => Err(Stop::Overtaken),
            Err(error) => {
                // The run may not have begun: the unwind's then records them.
                self.record_next(passed);
                Err(Stop::from_terminal(&error, step))
            }
        }
    }
}

/// One try of a step, with its records.
struct Recorded {
    core: Arc<Core>,
    run: StepRun,
    status: Option<DeploymentStatus>,
    limits: StepLimits,
    work: Work,
    passed: Vec<Passed>,
}

/// Where a step does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// In its run.
    Here,
    /// In another service, which has the failpoints of its middle.
    Called,
}

impl Recorded {
    async fn execute<T, F, Fut>(self, action: F) -> HandlerResult<Json<Verdict<T>>>
    where
        T: Serialize + Send + 'static,
        F: FnOnce(Arc<Core>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Done<T>, StepError>> + Send + 'static,
    {
        let started = self.core.store.step_started(&self.run, self.status, &self.passed);
        let Some(tries) = started.await? else {
            tracing::warn!("the deployment is not this attempt's any more");
            return Ok(Json(Verdict::Overtaken));
        };
        tracing::info!(tries, "step starts");
        let (id, step) = (&self.run.deployment_id, self.run.step);
        let _running = failpoint::Running::enter(id, step);
        failpoint::reach(id, step, Point::Before).await;
        let outcome = self.outcome(action).await;
        let (end, verdict) = match outcome {
            Outcome::Cancelled => (Some(StepEnd::Cancelled), Verdict::Cancelled),
            Outcome::Ended(Ok(done)) => match oversized(&done.value) {
                None => {
                    let passed = done.passed(step);
                    if passed.is_some() {
                        failpoint::reach(id, step, Point::Done).await;
                    }
                    // Nothing follows that could record the end of the last one.
                    let end = passed.filter(|_| step == Step::LAST).map(Passed::end);
                    (end, Verdict::Done(done))
                }
                Some(failure) => (Some(StepEnd::Failed(failure.clone())), Verdict::Failed(failure)),
            },
            Outcome::Ended(Err(StepError::Permanent(failure))) => {
                tracing::warn!(code = %failure.code, message = %failure.message, "step failed");
                (Some(StepEnd::Failed(failure.clone())), Verdict::Failed(failure))
            }
            Outcome::Ended(Err(StepError::Transient(failure))) => {
                tracing::warn!(code = %failure.code, message = %failure.message, "step will be tried again");
                self.core.store.step_ended(&self.run, &StepEnd::WillRetry(failure.clone())).await?;
                return Err(Retryable(failure).into());
            }
        };
        if let Some(end) = end {
            self.core.store.step_ended(&self.run, &end).await?;
        }
        Ok(Json(verdict))
    }

    async fn outcome<T, F, Fut>(&self, action: F) -> Outcome<T>
    where
        F: FnOnce(Arc<Core>) -> Fut,
        Fut: Future<Output = Result<Done<T>, StepError>>,
    {
        let (id, step) = (&self.run.deployment_id, self.run.step);
        let action = action(Arc::clone(&self.core));
        let action = match self.work {
            Work::Here => Either::Left(failpoint::during(id, step, action)),
            Work::Called => Either::Right(action),
        };
        let timed = tokio::time::timeout(self.limits.time_limit, action);
        let ended = if self.limits.held {
            tokio::select! {
                ended = timed => ended,
                () = self.cancel_requested() => return Outcome::Cancelled,
            }
        } else {
            timed.await
        };
        let ended = ended.unwrap_or_else(|_| Err(self.too_slow()));
        Outcome::Ended(failpoint::faulty(id, step.name(), ended))
    }

    /// A held step that reaches its limit has used it up; a short call may
    /// have met a hiccup.
    fn too_slow(&self) -> StepError {
        let limit = self.limits.time_limit.as_secs();
        let message = format!("`{}` did not end within its limit of {limit} s", self.run.step);
        match self.run.step {
            Step::BuildImage => StepError::permanent(ErrorCode::BuildTimeout, message),
            _ if self.limits.held => StepError::permanent(ErrorCode::Internal, message),
            _ => StepError::transient(ErrorCode::Internal, message),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "inside a step's closure, not in a handler")]
    async fn cancel_requested(&self) {
        loop {
            tokio::time::sleep(CANCEL_POLL).await;
            // A database that is away must not end a build: look again later.
            if let Ok(true) = self.core.store.cancel_requested(&self.run.deployment_id).await {
                return;
            }
        }
    }
}

enum Outcome<T> {
    Ended(Result<Done<T>, StepError>),
    Cancelled,
}

fn oversized<T: Serialize>(value: &T) -> Option<StepFailure> {
    let size = serde_json::to_vec(value).map(|json| json.len()).unwrap_or(usize::MAX);
    (size > MAX_RESULT).then(|| {
        let message =
            format!("the step's result has {size} bytes; at most {MAX_RESULT} are journaled");
        StepFailure::new(ErrorCode::Internal, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_survives_restates_retries() {
        let failure = StepFailure::new(ErrorCode::ContextUnreachable, "no route {to} host");
        let message = format!("[500] {}", Retryable(failure.clone()));
        assert_eq!(exhausted(&message), failure);
    }

    #[test]
    fn an_unknown_terminal_error_keeps_its_text() {
        let failure = exhausted("something {else}");
        assert_eq!(
            (failure.code, failure.message.as_str()),
            (ErrorCode::Internal, "something {else}")
        );
    }
}
