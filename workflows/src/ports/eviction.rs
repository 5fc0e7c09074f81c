//! Deployments that nobody asks for anything: stopped, and started again.

use std::{fmt, str::FromStr};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Guarded, StoreError};
use crate::{error::StepFailure, ids::DeploymentId, model::DeploymentPlan};

/// A deployment that has had no request for longer than its idle timeout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Idle {
    /// Which one.
    pub deployment_id: DeploymentId,
    /// When it was last asked for anything, in milliseconds since the epoch.
    pub active_at: i64,
    /// How often its instances have been stopped so far.
    pub stops: i64,
}

/// Where a deployment is that does not simply run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvictionState {
    /// Its instances are about to be stopped: requests wait.
    Evicting,
    /// They are stopped: requests wait, and have it started.
    Evicted,
    /// They are being started; the first that is ready is sent requests.
    Starting,
}

impl EvictionState {
    /// The name in the database, in JSON and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Evicting => "evicting",
            Self::Evicted => "evicted",
            Self::Starting => "starting",
        }
    }
}

impl fmt::Display for EvictionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EvictionState {
    type Err = String;

    fn from_str(input: &str) -> Result<Self, String> {
        [Self::Evicting, Self::Evicted, Self::Starting]
            .into_iter()
            .find(|state| state.as_str() == input)
            .ok_or_else(|| format!("`{input}` is not evicting, evicted or starting"))
    }
}

/// What is recorded of a deployment that does not simply run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvictionRecord {
    /// Where it is.
    pub state: EvictionState,
    /// Since when its instances are stopped or about to be, or start, in
    /// milliseconds since the epoch.
    pub since: i64,
    /// Why the last start has failed.
    pub start_failure: Option<StepFailure>,
}

/// A deployment that is started again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartTarget {
    /// What it is.
    pub plan: DeploymentPlan,
    /// What it runs, pinned.
    pub image: String,
}

/// The record of what is evicted. Each change is guarded by the one before it.
#[async_trait]
pub trait Evictions: Send + Sync + 'static {
    /// From now on requests wait. Lost: it is not idle any more, or is not to run.
    /// The same again, and one whose eviction was ended from outside, is applied.
    async fn begin_eviction(&self, idle: &Idle) -> Result<Guarded, StoreError>;

    /// Its instances are stopped.
    async fn finish_eviction(&self, id: &DeploymentId) -> Result<Guarded, StoreError>;

    /// Whether its instances are stopped or about to be: whoever starts it applies
    /// what is recorded then.
    async fn is_evicted(&self, id: &DeploymentId) -> Result<bool, StoreError>;

    /// Whether somebody has asked for it since it was seen to be idle.
    async fn asked_since(&self, idle: &Idle) -> Result<bool, StoreError>;

    /// From now on its ready instances are sent requests. `None`: it is not evicted,
    /// or is not to run, or its instances have been stopped again since `stops`.
    async fn begin_start(
        &self,
        id: &DeploymentId,
        stops: Option<i64>,
    ) -> Result<Option<StartTarget>, StoreError>;

    /// Its instances are ready.
    async fn finish_start(&self, id: &DeploymentId) -> Result<Guarded, StoreError>;

    /// They cannot be made ready: those that there are are about to be stopped, and
    /// requests wait.
    async fn undo_start(
        &self,
        id: &DeploymentId,
        failure: &StepFailure,
    ) -> Result<Guarded, StoreError>;
}
