//! Why a deployment is where it is: what it does or waits for, since when, what
//! happens next by itself, and what a person can do. A pure function of facts,
//! so that every state and every error code has a text that is reviewed.

mod in_flight;
mod settled;
#[cfg(test)]
mod tests;
mod words;

use std::time::Duration;

use serde::Serialize;

use crate::{
    engine::{core::Settings, reconcile::RecoverySettings, undo::Undone},
    error::StepFailure,
    ids::DeploymentId,
    ports::{EvictionRecord, WorkflowState},
    status::DeploymentStatus,
    step::Step,
};

/// What is known of a deployment at one moment.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Which one.
    pub deployment_id: DeploymentId,
    /// Where it is.
    pub status: DeploymentStatus,
    /// When it came there, in milliseconds since the epoch.
    pub entered: i64,
    /// From 1.
    pub attempt: u32,
    /// The project's slug.
    pub project: String,
    /// Where it is deployed.
    pub environment: Environment,
    /// Its own URL, which never moves, once it has one.
    pub own_url: Option<String>,
    /// Whether it is built from source; a prebuilt image has no build.
    pub builds: bool,
    /// The step that runs.
    pub running: Option<Running>,
    /// The last step that the attempt has begun.
    pub last_step: Option<Step>,
    /// Whether its instances are stopped for want of requests.
    pub eviction: Option<EvictionRecord>,
    /// Since when it makes no progress, and why.
    pub stalled: Option<(i64, String)>,
    /// Somebody has asked for cancellation.
    pub cancelling: bool,
    /// Why it has ended, or is about to.
    pub failure: Option<StepFailure>,
    /// What was taken back, or is left behind.
    pub undone: Vec<Undone>,
    /// Where and why the present attempt began, when it is a retry.
    pub restarted: Option<(String, String)>,
    /// Why the environment's domain did not move to it.
    pub withheld: Option<String>,
    /// What its workflow does, in Restate's words.
    pub restate: RestateView,
    /// The present, in milliseconds since the epoch.
    pub now: i64,
}

/// The environment as it is now.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Its slug.
    pub name: String,
    /// Its URL, when that points to the deployment.
    pub url: Option<String>,
    /// What it serves.
    pub live: Option<DeploymentId>,
    /// What a rollback has pinned it to.
    pub pinned: Option<DeploymentId>,
    /// Newer deployments of a branch take the place of queued ones.
    pub supersedes: bool,
}

/// A step that runs.
#[derive(Debug, Clone)]
pub struct Running {
    /// Which one.
    pub step: Step,
    /// Its first try, in milliseconds since the epoch.
    pub started_at: i64,
    /// The present one included.
    pub tries: u32,
    /// What it says about itself, e.g. its position in the queue.
    pub message: String,
    /// How the last failed try ended.
    pub failure: Option<StepFailure>,
}

/// What Restate says of the deployment's workflow.
#[derive(Debug, Clone)]
pub enum RestateView {
    /// It does not answer; why not.
    Silent(String),
    /// It answers, and knows no such invocation (any more).
    Forgotten,
    /// It knows it.
    Known {
        /// What it does now.
        state: WorkflowState,
        /// Tries of the invocation.
        tries: u64,
        /// The last transient failure.
        last_failure: Option<String>,
    },
}

/// After how long what happens by itself, as configured.
#[derive(Debug, Clone)]
pub struct Limits {
    build: Duration,
    builds: u32,
    queue: Duration,
    ready: Duration,
    retire_after: Duration,
    keep_running: u32,
    resume_after: Duration,
    /// Until a lost workflow is noticed.
    lost_after: Duration,
}

impl Limits {
    /// Out of the settings of the durable core and of its recovery.
    pub fn of(core: &Settings, recovery: &RecoverySettings) -> Self {
        Self {
            build: core.build_time_limit,
            builds: core.build_concurrency,
            queue: core.queue_time_limit,
            ready: core.ready_timeout,
            retire_after: core.retire_after,
            keep_running: core.keep_running,
            resume_after: recovery.resume_after,
            lost_after: recovery.grace + recovery.every,
        }
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Where it is.
    pub state: DeploymentStatus,
    /// What has to happen before it goes on; `None`: it waits for nothing.
    pub waiting_for: Option<String>,
    /// Since when, in milliseconds since the epoch.
    pub since: i64,
    /// What happens next by itself; `None`: nothing does.
    pub next: Option<String>,
    /// What a person can do; `None`: there is nothing to do.
    pub remedy: Option<String>,
    /// All of it, for people.
    pub paragraph: String,
}

/// The parts of an explanation, as sentences.
#[derive(Debug, Default)]
struct Story {
    told: Vec<String>,
    waiting_for: Option<String>,
    since: i64,
    next: Option<String>,
    remedy: Vec<String>,
}

/// Explains.
pub fn explain(facts: &Facts, limits: &Limits) -> Explanation {
    let story = match facts.status.is_settled() {
        true => settled::story(facts, limits),
        false => in_flight::story(facts, limits),
    };
    let remedy = Some(story.remedy.join(" ")).filter(|text| !text.is_empty());
    let mut sentences = story.told;
    sentences.extend(story.next.clone());
    sentences.extend(remedy.clone());
    Explanation {
        state: facts.status,
        waiting_for: story.waiting_for,
        since: story.since,
        next: story.next,
        remedy,
        paragraph: sentences.join(" "),
    }
}
