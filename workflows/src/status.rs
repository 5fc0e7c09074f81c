//! The states of a deployment and the only ways between them.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a deployment is. Every write of a status is a compare-and-set
/// against [`DeploymentStatus::sources`].
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum DeploymentStatus {
    /// Accepted; its workflow has not begun.
    Pending,
    /// Waiting for a build slot.
    Queued,
    /// The builder is at work.
    Building,
    /// The image is on its way to the registry, or being verified there.
    Pushing,
    /// Instances are being started.
    Deploying,
    /// Instances run and are not ready yet.
    Checking,
    /// Domains are about to move.
    Routing,
    /// The environment's domain points here.
    Live,
    /// Only an image was asked for, and it is there.
    Built,
    /// Healthy and reachable, but the environment's domain points elsewhere.
    Ready,
    /// A newer deployment took its place in the queue.
    Superseded,
    /// Draining before its instances stop.
    Retiring,
    /// Its instances are stopped; `promote` brings it back.
    Retired,
    /// About to run again from a chosen step.
    Retrying,
    /// Ended at a step; what it had started is undone.
    Failed,
    /// Ended by request; what it had started is undone.
    Cancelled,
}

use DeploymentStatus as S;

impl DeploymentStatus {
    /// All states, in the order of a deployment's life.
    pub const ALL: [S; 16] = [
        S::Pending,
        S::Queued,
        S::Building,
        S::Pushing,
        S::Deploying,
        S::Checking,
        S::Routing,
        S::Live,
        S::Built,
        S::Ready,
        S::Superseded,
        S::Retiring,
        S::Retired,
        S::Retrying,
        S::Failed,
        S::Cancelled,
    ];

    /// The states from which this one may be entered.
    pub fn sources(self) -> &'static [S] {
        match self {
            S::Pending => &[],
            S::Queued => &[S::Pending, S::Retrying, S::Queued],
            S::Building => &[S::Pending, S::Retrying, S::Queued, S::Building],
            S::Pushing => &[S::Retrying, S::Building, S::Pushing],
            S::Deploying => &[S::Pending, S::Retrying, S::Building, S::Pushing, S::Deploying],
            S::Checking => &[S::Retrying, S::Deploying, S::Checking],
            S::Routing => &[S::Retrying, S::Checking, S::Routing],
            S::Live => &[S::Routing, S::Ready, S::Retired, S::Retiring],
            S::Built => &[S::Pushing],
            S::Ready => &[S::Routing, S::Live, S::Retiring],
            S::Superseded => &[S::Queued],
            S::Retiring => &[S::Ready],
            S::Retired => &[S::Retiring],
            S::Retrying => &[S::Failed, S::Cancelled],
            S::Failed | S::Cancelled => Self::IN_FLIGHT,
        }
    }

    /// The states in which a workflow owns the deployment.
    pub const IN_FLIGHT: &'static [S] = &[
        S::Pending,
        S::Queued,
        S::Building,
        S::Pushing,
        S::Deploying,
        S::Checking,
        S::Routing,
        S::Retrying,
    ];

    /// Whether `deploy` has ended, well or not.
    pub fn is_settled(self) -> bool {
        !Self::IN_FLIGHT.contains(&self)
    }

    /// Whether its domains have moved to it at some time.
    pub fn has_served(self) -> bool {
        matches!(self, S::Live | S::Ready | S::Retiring | S::Retired)
    }

    /// Whether it has ended, and not as it was meant to.
    pub fn has_failed(self) -> bool {
        matches!(self, S::Failed | S::Cancelled | S::Superseded)
    }

    /// The name in the database, in JSON and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            S::Pending => "pending",
            S::Queued => "queued",
            S::Building => "building",
            S::Pushing => "pushing",
            S::Deploying => "deploying",
            S::Checking => "checking",
            S::Routing => "routing",
            S::Live => "live",
            S::Built => "built",
            S::Ready => "ready",
            S::Superseded => "superseded",
            S::Retiring => "retiring",
            S::Retired => "retired",
            S::Retrying => "retrying",
            S::Failed => "failed",
            S::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for DeploymentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DeploymentStatus {
    type Err = String;

    fn from_str(input: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|status| status.as_str() == input).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            format!("`{input}` is not a deployment status; those are {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_states_are_never_overwritten_by_a_running_workflow() {
        for end in [S::Failed, S::Cancelled, S::Superseded, S::Retired, S::Live, S::Built] {
            for status in
                DeploymentStatus::IN_FLIGHT.iter().filter(|status| **status != S::Retrying)
            {
                assert!(!status.sources().contains(&end), "{end} -> {status}");
            }
        }
    }

    #[test]
    fn names_read_back_as_the_same_state() {
        for status in DeploymentStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
        }
    }
}
