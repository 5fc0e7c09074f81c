//! Resolves waits for readiness: watches the instances of every parked wait
//! and tells Restate how it ended. Waits live in the database, so that a
//! worker that was killed takes them up again.
#![expect(clippy::disallowed_methods, reason = "a background task and a clock, not a handler")]

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use futures::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    error::{ErrorCode, StepFailure},
    model::{Instance, NotReadyReason},
    ports::{ReadinessWait, Runtime, Store},
};

/// Pause before a lost watch or a lost resolve is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// How often parked waits of other workers are looked for.
const SWEEP: Duration = Duration::from_secs(10);
/// From a wait's deadline until it is forgotten; its own timer ends it earlier.
const FORGOTTEN_MS: i64 = 60_000;
/// Tries to hand a verdict to Restate before the sweep starts over.
const RESOLVE_TRIES: u32 = 50;

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "verdict", content = "failure", rename_all = "snake_case")]
pub enum ReadyVerdict {
    /// Every instance answered.
    Ready,
    /// They will not, or did not in time.
    Failed(StepFailure),
}

/// Completes awakeables.
#[async_trait]
pub trait AwakeableResolver: Send + Sync + 'static {
    /// Completing one twice is harmless.
    async fn resolve(&self, awakeable_id: &str, verdict: &ReadyVerdict) -> Result<(), String>;
}

/// See the module.
pub struct ReadinessWatcher {
    store: Arc<dyn Store>,
    runtime: Arc<dyn Runtime>,
    resolver: Arc<dyn AwakeableResolver>,
    watched: Mutex<HashSet<String>>,
}

impl ReadinessWatcher {
    /// A watcher; [`ReadinessWatcher::run`] must be spawned for parked waits
    /// to be found.
    pub fn new(
        store: Arc<dyn Store>,
        runtime: Arc<dyn Runtime>,
        resolver: Arc<dyn AwakeableResolver>,
    ) -> Arc<Self> {
        Arc::new(Self { store, runtime, resolver, watched: Mutex::default() })
    }

    /// Takes up parked waits at once and every ten seconds, forever.
    pub async fn run(self: Arc<Self>) {
        loop {
            match self.store.readiness_waits().await {
                Ok(waits) => {
                    for wait in waits {
                        self.take_up(wait).await;
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot read the parked readiness waits"),
            }
            tokio::time::sleep(SWEEP).await;
        }
    }

    /// Nobody hears of one that is long over: whoever waited was killed.
    async fn take_up(self: &Arc<Self>, wait: ReadinessWait) {
        if now_ms() < wait.deadline + FORGOTTEN_MS {
            return self.watch(wait);
        }
        if let Err(error) = self.store.close_readiness_wait(&wait.awakeable_id).await {
            tracing::warn!(deployment = %wait.deployment_id, %error, "cannot close the readiness wait");
        }
    }

    /// Watches in the background, unless this process does so already.
    pub fn watch(self: &Arc<Self>, wait: ReadinessWait) {
        let new = self.lock().insert(wait.awakeable_id.clone());
        if new {
            let this = Arc::clone(self);
            tokio::spawn(async move {
                this.settle(&wait).await;
                this.lock().remove(&wait.awakeable_id);
            });
        }
    }

    /// The verdict, if there is one within a moment.
    pub async fn decided_within(
        &self,
        wait: &ReadinessWait,
        moment: Duration,
    ) -> Option<ReadyVerdict> {
        let mut last = Vec::new();
        tokio::time::timeout(moment, self.watch_until_decided(wait, &mut last)).await.ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn settle(&self, wait: &ReadinessWait) {
        let verdict = self.verdict(wait).await;
        for _ in 0..RESOLVE_TRIES {
            match self.resolver.resolve(&wait.awakeable_id, &verdict).await {
                // Whoever waits closes the wait once it has heard. Restate may
                // take a verdict and then die: the next sweep tells it again.
                Ok(()) => return,
                Err(error) => {
                    tracing::debug!(deployment = %wait.deployment_id, %error, "readiness is known, Restate is not reached yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn verdict(&self, wait: &ReadinessWait) -> ReadyVerdict {
        let mut last = Vec::new();
        let remaining = Duration::from_millis(u64::try_from(wait.deadline - now_ms()).unwrap_or(0));
        let watching = self.watch_until_decided(wait, &mut last);
        match tokio::time::timeout(remaining, watching).await {
            Ok(verdict) => verdict,
            Err(_) => ReadyVerdict::Failed(not_ready(wait, &last)),
        }
    }

    async fn watch_until_decided(
        &self,
        wait: &ReadinessWait,
        last: &mut Vec<Instance>,
    ) -> ReadyVerdict {
        loop {
            if let Ok(mut changes) = self.runtime.watch(&wait.namespace, &wait.deployment_id).await
            {
                while let Some(Ok(instances)) = changes.next().await {
                    if let Some(verdict) = decide(wait.replicas, &instances) {
                        return verdict;
                    }
                    *last = instances;
                }
            }
            // krane restarts: its containers go on, so the wait goes on.
            tokio::time::sleep(RETRY).await;
        }
    }
}

fn decide(replicas: u32, instances: &[Instance]) -> Option<ReadyVerdict> {
    let ready = instances.iter().filter(|instance| instance.ready).count();
    if ready >= replicas.max(1) as usize {
        return Some(ReadyVerdict::Ready);
    }
    let hopeless = instances.iter().find(|instance| instance.permanent)?;
    Some(ReadyVerdict::Failed(failed(hopeless)))
}

/// Waiting cannot help this one.
fn failed(instance: &Instance) -> StepFailure {
    let mut message = format!("instance {} ", instance.id);
    match instance.exit_code {
        Some(code) => message.push_str(&format!("exited with code {code} before it was ready")),
        None => message.push_str("will not be ready"),
    }
    if !instance.message.is_empty() {
        message.push_str(&format!(": {}", instance.message));
    }
    StepFailure::new(code_of(instance), message).with_log_tail(instance.log_tail.clone())
}

fn code_of(instance: &Instance) -> ErrorCode {
    instance.reason.map_or(ErrorCode::NotReady, NotReadyReason::code)
}

fn not_ready(wait: &ReadinessWait, last: &[Instance]) -> StepFailure {
    let ready = last.iter().filter(|instance| instance.ready).count();
    let mut message = format!("{ready} of {} instances were ready in time", wait.replicas.max(1));
    let others = || last.iter().filter(|instance| !instance.ready);
    for instance in others() {
        message.push_str(&format!(
            "; instance {} at {}: {} after {} probes",
            instance.id, instance.address, instance.message, instance.probe_attempts
        ));
    }
    let code = others().next().map_or(ErrorCode::NotReady, code_of);
    StepFailure::new(code, message)
}

/// Milliseconds since the epoch. Never called from handler code, only from
/// closures of steps and from background tasks.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(ready: bool) -> Instance {
        Instance { id: "i".to_owned(), ready, ..Instance::default() }
    }

    fn failure(instances: &[Instance]) -> StepFailure {
        match decide(2, instances) {
            Some(ReadyVerdict::Failed(failure)) => failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn waits_for_every_replica() {
        assert_eq!(decide(2, &[instance(true)]), None);
        assert_eq!(decide(2, &[instance(true), instance(false)]), None);
        let both = [instance(true), instance(true)];
        assert_eq!(decide(2, &both), Some(ReadyVerdict::Ready));
    }

    #[test]
    fn fails_at_once_when_an_instance_exits() {
        let dead = Instance {
            exit_code: Some(3),
            log_tail: vec!["boom".to_owned()],
            reason: Some(NotReadyReason::Exited),
            permanent: true,
            ..instance(false)
        };
        let failure = failure(&[instance(true), dead]);
        assert_eq!(failure.code, ErrorCode::InstanceExited);
        assert!(failure.message.contains("code 3"), "{failure}");
        assert_eq!(failure.log_tail, ["boom"]);
    }

    #[test]
    fn what_waiting_cannot_help_fails_at_once_with_the_code_of_its_reason() {
        for (reason, code) in [
            (NotReadyReason::ImagePull, ErrorCode::ImageUnavailable),
            (NotReadyReason::Unschedulable, ErrorCode::Unschedulable),
            (NotReadyReason::QuotaExceeded, ErrorCode::QuotaExceeded),
            (NotReadyReason::OutOfMemory, ErrorCode::OutOfMemory),
        ] {
            let passing = Instance {
                reason: Some(reason),
                message: "the runtime's word".to_owned(),
                ..instance(false)
            };
            assert_eq!(decide(2, &[instance(true), passing.clone()]), None, "{reason:?}");
            let failure = failure(&[instance(true), Instance { permanent: true, ..passing }]);
            assert_eq!(failure.code, code);
            assert!(failure.message.contains("the runtime's word"), "{failure}");
        }
    }
}
