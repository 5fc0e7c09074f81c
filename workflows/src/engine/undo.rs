//! Undos: data, registered before the action they undo, idempotent, bounded.

use restate_sdk::prelude::*;
use serde::{Deserialize, Serialize};

use crate::ids::{BuildId, WorkspaceId};

/// The object state that holds the list, so that `unwind` can finish the job
/// of an invocation that was killed.
const STATE: &str = "undo";

/// What takes back one effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case")]
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
    /// Stops the instances.
    DeleteInstances {
        /// The runtime's namespace.
        namespace: String,
    },
}

impl Undo {
    /// The journal's name of it: `undo-` and the step.
    pub fn name(&self) -> &'static str {
        match self {
            Undo::ReleaseSlot { .. } => "undo-acquire-slot",
            Undo::AbortBuild { .. } => "undo-build-image",
            Undo::DeleteInstances { .. } => "undo-deploy-to-krane",
        }
    }

    /// What it did, for people.
    pub fn describe(&self) -> &'static str {
        match self {
            Undo::ReleaseSlot { .. } => "gave back the build slot",
            Undo::AbortBuild { .. } => "ended the build",
            Undo::DeleteInstances { .. } => "stopped the instances",
        }
    }
}

/// The undos of one attempt, newest last.
#[derive(Default)]
pub struct Undos {
    list: Vec<Undo>,
}

impl Undos {
    /// None yet; forgets what an earlier attempt left in the state.
    pub fn fresh(ctx: &ObjectContext<'_>) -> Self {
        ctx.clear(STATE);
        Self::default()
    }

    /// What an invocation that was killed had registered.
    ///
    /// # Errors
    /// The state cannot be read.
    pub async fn of_killed(ctx: &ObjectContext<'_>) -> Result<Self, TerminalError> {
        let list = ctx.get::<Json<Vec<Undo>>>(STATE).await?;
        Ok(Self { list: list.map(|Json(list)| list).unwrap_or_default() })
    }

    /// Registers an undo; call it before the action.
    pub fn register(&mut self, ctx: &ObjectContext<'_>, undo: Undo) {
        self.list.push(undo);
        ctx.set(STATE, Json(self.list.clone()));
    }

    /// Forgets an undo whose effect was taken back in the normal course.
    pub fn settle(&mut self, ctx: &ObjectContext<'_>, matches: impl Fn(&Undo) -> bool) {
        self.list.retain(|undo| !matches(undo));
        ctx.set(STATE, Json(self.list.clone()));
    }

    /// Past the commit point there is nothing to take back.
    pub fn clear(&mut self, ctx: &ObjectContext<'_>) {
        self.list.clear();
        ctx.clear(STATE);
    }

    /// Newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Undo> {
        self.list.iter().rev()
    }
}
