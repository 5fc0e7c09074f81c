//! Random interleavings of everything that moves a deployment or its domains,
//! kills included. After every event each domain has exactly one target, which
//! was ready once and whose instances nobody has stopped, and no ended deployment has changed by itself.

use std::collections::{HashMap, HashSet};

use launchway_workflows::{
    domains::claims,
    engine::retry::RestartPoint,
    error::{ErrorCode, StepFailure},
    model::DeploymentPlan,
    ports::{AttemptEnd, CancelRequest, Guarded, ReleaseStart, StepRun, Store as _, UnwindStart},
    services::{
        release::{ReleaseKind, ReleaseRequest},
        routing::SwapRequest,
    },
    status::DeploymentStatus as S,
    step::Step,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use sqlx::Row;

use super::{
    DeploymentId, InvocationId, Store, WorkspaceId, create_from, invocation, on_both_databases,
    submission,
};

on_both_databases!(every_order_of_events_leaves_every_domain_with_a_healthy_target);

const ORDERS: u64 = 6;
const EVENTS: usize = 120;

async fn every_order_of_events_leaves_every_domain_with_a_healthy_target(store: &Store) {
    for seed in 0..ORDERS {
        let mut world = World::new(store, seed);
        for event in 0..EVENTS {
            let what = world.event().await;
            world.check(&format!("seed {seed}, event {event}: {what}")).await;
        }
        assert!(world.moved > 5, "seed {seed} has hardly moved anything");
    }
}

/// A deployment as its workflow would remember it.
struct Workflow {
    plan: Option<DeploymentPlan>,
    owner: InvocationId,
    at: usize,
}

struct World<'a> {
    store: &'a Store,
    random: StdRng,
    seed: u64,
    made: u64,
    workflows: HashMap<DeploymentId, Workflow>,
    /// Owners that were killed or have lost the row: they may write no more.
    ghosts: Vec<(DeploymentId, InvocationId, DeploymentPlan)>,
    ended: HashMap<DeploymentId, S>,
    /// Whose instances are gone.
    stopped: HashSet<DeploymentId>,
    moved: u32,
}

/// The way of a prebuilt image up to the commit point.
const WAY: [(Step, S); 3] = [
    (Step::DeployToKrane, S::Deploying),
    (Step::AwaitReady, S::Checking),
    (Step::AssignDomains, S::Routing),
];

impl<'a> World<'a> {
    fn new(store: &'a Store, seed: u64) -> Self {
        Self {
            store,
            random: StdRng::seed_from_u64(seed),
            seed,
            made: 0,
            workflows: HashMap::new(),
            ghosts: Vec::new(),
            ended: HashMap::new(),
            stopped: HashSet::new(),
            moved: 0,
        }
    }

    fn next_owner(&mut self) -> InvocationId {
        self.made += 1;
        invocation(&format!("inv-{}-{}", self.seed, self.made))
    }

    async fn event(&mut self) -> &'static str {
        match self.random.random_range(0..100) {
            0..18 => self.deploy().await,
            18..62 => self.advance().await,
            62..65 => self.kill().await,
            65..68 => self.cancel().await,
            68..73 => self.retry().await,
            73..83 => self.release(ReleaseKind::Rollback).await,
            83..90 => self.release(ReleaseKind::Promote).await,
            90..96 => self.retire().await,
            _ => self.haunt().await,
        }
    }

    async fn deploy(&mut self) -> &'static str {
        // Few at a time, so that they get somewhere.
        if self.workflows.len() >= 3 {
            return self.advance().await;
        }
        self.made += 1;
        let mut new = submission(&format!("{}-{}", self.seed, self.made));
        new.branch = ["main", "feature"].choose(&mut self.random).unwrap().to_string();
        new.environment = ["preview", "production"].choose(&mut self.random).unwrap().to_string();
        new.project = format!("shop{}", self.seed);
        let id = create_from(self.store, new).await;
        let owner = self.next_owner();
        self.workflows.insert(id, Workflow { plan: None, owner, at: 0 });
        "deploy"
    }

    fn any_running(&mut self) -> Option<DeploymentId> {
        let mut ids: Vec<_> = self.workflows.keys().cloned().collect();
        ids.sort();
        ids.choose(&mut self.random).cloned()
    }

    /// One step of one workflow.
    async fn advance(&mut self) -> &'static str {
        let Some(id) = self.any_running() else { return "nothing runs" };
        let workflow = self.workflows.get_mut(&id).unwrap();
        let Some(plan) = &workflow.plan else {
            workflow.plan = self.store.begin_attempt(&id, &workflow.owner).await.unwrap();
            assert!(workflow.plan.is_some(), "its own row");
            return "load";
        };
        let plan = plan.clone();
        if workflow.at < WAY.len() {
            let (step, status) = WAY[workflow.at];
            let run = StepRun { deployment_id: id, owner: workflow.owner.clone(), step };
            assert!(self.store.step_started(&run, Some(status), &[]).await.unwrap().is_some());
            workflow.at += 1;
            return "step";
        }
        let wanted = claims(&plan, "localhost");
        let owner = workflow.owner.clone();
        let routed = self.store.commit_routes(&id, &owner, &wanted).await.unwrap();
        assert!(routed.is_some(), "nobody has taken the row from it");
        self.moved += 1;
        self.workflows.remove(&id);
        self.ghosts.push((id, owner, plan));
        "commit"
    }

    /// The invocation is killed; another one unwinds.
    async fn kill(&mut self) -> &'static str {
        let Some(id) = self.any_running() else { return "nothing to kill" };
        let by = self.next_owner();
        let left = self.store.take_over(&id, &by).await.unwrap().expect("it is in flight");
        let workflow = self.workflows.remove(&id).unwrap();
        self.end(&id, &by, S::Failed, ErrorCode::Interrupted).await;
        self.ghosts.push((id, workflow.owner, left.plan));
        "kill"
    }

    async fn end(&mut self, id: &DeploymentId, owner: &InvocationId, status: S, code: ErrorCode) {
        let failure = StepFailure::new(code, "ended").at(Step::AwaitReady);
        let end = AttemptEnd { status, failure, undone: Vec::new() };
        let ended = self.store.finish_attempt(id, owner, &end).await.unwrap();
        assert_eq!(ended, Guarded::Applied);
        self.ended.insert(id.clone(), status);
    }

    async fn cancel(&mut self) -> &'static str {
        let Some(id) = self.any_running() else { return "nothing to cancel" };
        let workflow = self.workflows.remove(&id).unwrap();
        match self.store.request_cancel(&id).await.unwrap() {
            CancelRequest::Unstarted => {
                self.ended.insert(id, S::Cancelled);
            }
            CancelRequest::Asked => {
                let cause = StepFailure::new(ErrorCode::Cancelled, "cancelled");
                let begun = self.store.begin_unwind(&id, &workflow.owner, &cause).await.unwrap();
                assert_eq!(begun, UnwindStart::Begun);
                self.end(&id, &workflow.owner, S::Cancelled, ErrorCode::Cancelled).await;
                self.ghosts.extend(workflow.plan.map(|plan| (id, workflow.owner, plan)));
            }
            other => panic!("{other:?}"),
        }
        "cancel"
    }

    async fn retry(&mut self) -> &'static str {
        let mut ids: Vec<_> = self.ended.keys().cloned().collect();
        ids.sort();
        let Some(id) = ids.choose(&mut self.random).cloned() else { return "nothing to retry" };
        let (by, owner) = (self.next_owner(), self.next_owner());
        let point = RestartPoint { step: Step::LoadDeployment, why: String::new() };
        let ended = invocation("ended");
        let begun = self.store.begin_retry(&id, &by, &ended, &point).await.unwrap();
        assert_eq!(begun, Guarded::Applied);
        self.ended.remove(&id);
        self.workflows.insert(id, Workflow { plan: None, owner, at: 0 });
        "retry"
    }

    async fn release(&mut self, kind: ReleaseKind) -> &'static str {
        let mut all = self.all().await;
        // Most of them could be live again; the others are refused.
        all.retain(|(_, status)| status.has_served() || self.random.random_bool(0.1));
        let Some((id, _)) = all.choose(&mut self.random) else { return "nothing to release" };
        let request =
            ReleaseRequest { kind, target_deployment_id: id.clone(), source_deployment_id: None };
        if let Ok(ReleaseStart::Begun(target)) = self.store.begin_release(&request).await {
            // Something may have come between the check and the swap.
            if self.random.random_bool(0.3) {
                self.retire().await;
            }
            self.stopped.remove(id);
            let swap = SwapRequest { release: request, stops: target.stops };
            // Given up and stopped again, while its swap is on its way.
            if target.retired && self.random.random_bool(0.3) {
                assert_eq!(self.store.retire_again(id).await.unwrap(), Guarded::Applied);
                self.stop(id).await;
            }
            self.store.swap_routes(&swap).await.unwrap();
            self.moved += 1;
        }
        "release"
    }

    async fn retire(&mut self) -> &'static str {
        let all = self.all().await;
        let Some((live, _)) = all.iter().find(|(_, status)| *status == S::Live) else {
            return "nothing is live";
        };
        for candidate in self.store.retirement_candidates(live, 0).await.unwrap() {
            let begun = self.store.begin_retirement(&candidate).await.unwrap();
            if begun == Guarded::Applied && self.random.random_bool(0.7) {
                self.stop(&candidate.deployment_id).await;
            }
        }
        "retire"
    }

    async fn stop(&mut self, id: &DeploymentId) {
        self.stopped.insert(id.clone());
        self.store.finish_retirement(id).await.unwrap();
    }

    /// A workflow that has lost its row goes on as if nothing had happened.
    async fn haunt(&mut self) -> &'static str {
        let Some((id, owner, plan)) = self.ghosts.choose(&mut self.random).cloned() else {
            return "no ghosts";
        };
        let before = self.all().await;
        let run =
            StepRun { deployment_id: id.clone(), owner: owner.clone(), step: Step::AwaitReady };
        // Only what is being retried may be taken by a new invocation.
        if before.iter().any(|(known, status)| *known == id && *status == S::Retrying) {
            return "it is being retried";
        }
        let _ = self.store.step_started(&run, Some(S::Checking), &[]).await.unwrap();
        let wanted = claims(&plan, "localhost");
        let _ = self.store.commit_routes(&id, &owner, &wanted).await.unwrap();
        for status in S::IN_FLIGHT {
            super::moved(self.store, &id, &owner, *status).await;
        }
        assert_eq!(self.all().await, before, "a ghost of {id} has changed something");
        "haunt"
    }

    async fn all(&self) -> Vec<(DeploymentId, S)> {
        let filter =
            super::DeploymentFilter { project: format!("shop{}", self.seed), ..super::all() };
        let found = self.store.deployments(&WorkspaceId::local(), &filter).await.unwrap();
        found.into_iter().map(|view| (view.id, view.status)).collect()
    }

    async fn check(&self, when: &str) {
        let all: HashMap<_, _> = self.all().await.into_iter().collect();
        for (id, ended) in &self.ended {
            assert_eq!(all[id], *ended, "{when}: {id} has changed after its end");
        }
        let rows = sqlx::query(
            "SELECT m.name, m.kind, m.deployment_id, m.environment_id, e.live_deployment_id \
             FROM domains m JOIN environments e ON e.id = m.environment_id",
        )
        .fetch_all(&self.store.pool)
        .await
        .unwrap();
        for row in rows {
            let (name, kind): (String, String) = (row.get("name"), row.get("kind"));
            let target: DeploymentId = row.get::<String, _>("deployment_id").parse().unwrap();
            // Other seeds' rows were checked in their time.
            let Some(status) = all.get(&target) else { continue };
            assert!(status.has_served(), "{when}: {name} points to {target}, which is {status}");
            if kind != "commit" {
                let stopped = matches!(status, S::Retiring | S::Retired);
                assert!(!stopped, "{when}: {name} points to {target}, which is {status}");
            }
            if kind == "environment" {
                let live: Option<String> = row.get("live_deployment_id");
                assert_eq!(live.as_deref(), Some(target.as_str()), "{when}: {name}");
                assert_eq!(*status, S::Live, "{when}: {name}");
                assert!(!self.stopped.contains(&target), "{when}: {name}: {target} was stopped");
            }
        }
        self.check_live(when).await;
    }

    async fn check_live(&self, when: &str) {
        let rows = sqlx::query(
            "SELECT environment_id, count(*) AS live FROM deployments WHERE status = 'live' \
             GROUP BY environment_id",
        )
        .fetch_all(&self.store.pool)
        .await
        .unwrap();
        for row in rows {
            assert_eq!(row.get::<i64, _>("live"), 1, "{when}: two live ones");
        }
    }
}
