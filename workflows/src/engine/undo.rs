//! Undos: data, registered before the action they undo, idempotent, bounded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{BuildId, WorkspaceId},
    model::DeploymentPlan,
    step::Step,
};

/// What takes back one effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undo {
    /// Gives back the build slot, or leaves the queue for one.
    ReleaseSlot {
        /// Whose slots.
        workspace_id: WorkspaceId,
    },
    /// Ends a build that may still run.
    AbortBuild {
        /// Which one.
        build_id: BuildId,
    },
    /// Ends the release command and forgets that it was started.
    DeleteTask {
        /// The runtime's namespace.
        namespace: String,
    },
    /// Stops the instances.
    DeleteInstances {
        /// The runtime's namespace.
        namespace: String,
    },
}

/// What became of an undo, as recorded and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Undone {
    /// The step whose effect it takes back.
    pub step: Step,
    /// For people: what was done, or what is left behind.
    pub note: String,
    /// It failed: something is left behind.
    #[serde(default)]
    pub failed: bool,
}

impl Undo {
    /// The undo of a step's effect, if it has one that must not stay.
    pub fn of(step: Step, plan: &DeploymentPlan) -> Option<Self> {
        match step {
            Step::AcquireSlot => {
                Some(Undo::ReleaseSlot { workspace_id: plan.workspace_id.clone() })
            }
            Step::BuildImage => Some(Undo::AbortBuild { build_id: plan.build_id.clone() }),
            Step::ReleaseCommand => {
                Some(Undo::DeleteTask { namespace: plan.environment_id.to_string() })
            }
            Step::DeployToKrane => {
                Some(Undo::DeleteInstances { namespace: plan.environment_id.to_string() })
            }
            Step::LoadDeployment
            | Step::PresignContext
            | Step::ReleaseSlot
            | Step::PushImage
            | Step::AwaitReady
            | Step::AssignDomains
            | Step::ScrapeOpenapi
            | Step::RetirePrevious => None,
        }
    }

    /// The step after whose end there is nothing to take back any more.
    fn settled_by(&self) -> Option<Step> {
        match self {
            Undo::AbortBuild { .. } => Some(Step::BuildImage),
            // The message that gives the slot back follows the step's record; the
            // task of a release command that has ended is still there.
            Undo::ReleaseSlot { .. } | Undo::DeleteTask { .. } | Undo::DeleteInstances { .. } => {
                None
            }
        }
    }

    /// The step whose effect it takes back.
    pub fn step(&self) -> Step {
        match self {
            Undo::ReleaseSlot { .. } => Step::AcquireSlot,
            Undo::AbortBuild { .. } => Step::BuildImage,
            Undo::DeleteTask { .. } => Step::ReleaseCommand,
            Undo::DeleteInstances { .. } => Step::DeployToKrane,
        }
    }

    /// The journal's name of it: `undo-` and the step.
    pub fn name(&self) -> &'static str {
        match self {
            Undo::ReleaseSlot { .. } => "undo-acquire-slot",
            Undo::AbortBuild { .. } => "undo-build-image",
            Undo::DeleteTask { .. } => "undo-release-command",
            Undo::DeleteInstances { .. } => "undo-deploy-to-krane",
        }
    }

    /// What it did, for people.
    pub fn describe(&self) -> &'static str {
        match self {
            Undo::ReleaseSlot { .. } => "gave back the build slot",
            Undo::AbortBuild { .. } => "ended the build",
            Undo::DeleteTask { .. } => "removed the release command's container",
            Undo::DeleteInstances { .. } => "stopped the instances",
        }
    }
}

/// A step of an attempt, as its row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Which one.
    pub step: Step,
    /// It is done or was skipped.
    pub ended: bool,
}

/// The undos of one attempt, newest last.
///
/// They are not kept in the object's state: a restarted invocation replays its
/// registrations into memory, but not its writes of state. What a killed
/// invocation had started is read from the rows of its steps, which are written
/// before each action.
#[derive(Default)]
pub struct Undos {
    list: Vec<Undo>,
}

impl Undos {
    /// What an invocation that was killed has to have undone.
    pub fn of_started(plan: &DeploymentPlan, started: &[Started]) -> Self {
        let ended = |step| started.iter().any(|known| known.step == step && known.ended);
        let list = started
            .iter()
            .filter_map(|known| Undo::of(known.step, plan))
            .filter(|undo| !undo.settled_by().is_some_and(ended))
            .collect();
        Self { list }
    }

    /// Registers the undo of a step; call it before the action.
    pub fn register(&mut self, step: Step, plan: &DeploymentPlan) {
        self.list.extend(Undo::of(step, plan));
    }

    /// Forgets the undo of a step whose effect has ended in the normal course.
    pub fn settle(&mut self, step: Step) {
        self.list.retain(|undo| undo.step() != step);
    }

    /// Past the commit point there is nothing to take back.
    pub fn clear(&mut self) {
        self.list.clear();
    }

    /// Newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Undo> {
        self.list.iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_plan;

    fn steps(started: &[(Step, bool)]) -> Vec<Step> {
        let started: Vec<_> =
            started.iter().map(|(step, ended)| Started { step: *step, ended: *ended }).collect();
        Undos::of_started(&test_plan(), &started).newest_first().map(Undo::step).collect()
    }

    #[test]
    fn a_killed_attempt_undoes_what_it_had_started_and_not_ended() {
        assert_eq!(steps(&[(Step::LoadDeployment, true)]), []);
        let building =
            [(Step::AcquireSlot, true), (Step::PresignContext, true), (Step::BuildImage, false)];
        assert_eq!(steps(&building), [Step::BuildImage, Step::AcquireSlot]);
        let running = [
            (Step::AcquireSlot, true),
            (Step::BuildImage, true),
            (Step::ReleaseSlot, true),
            (Step::DeployToKrane, true),
            (Step::AwaitReady, false),
        ];
        assert_eq!(steps(&running), [Step::DeployToKrane, Step::AcquireSlot]);
        // A retry that began at a later step has rows of that only.
        assert_eq!(steps(&[(Step::AssignDomains, false)]), []);
    }
}
