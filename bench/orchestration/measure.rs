//! Calls of a handler, so many at once, and how long each took.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use launchway::store::Store;
use launchway_workflows::{
    ids::{BuildId, DeploymentId, InvocationId, WorkspaceId},
    model::{BuildContext, BuildOptions, NewDeployment, Purpose, RunOptions, Source, Submission},
    ports::Store as _,
    services::deployment::DeployRequest,
};

/// Longest single call.
const LIMIT: Duration = Duration::from_secs(300);

/// Whatever went wrong: there is nothing to measure then.
pub type Failed = Box<dyn Error + Send + Sync>;

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Empty steps.
    Floor,
    /// Empty steps, and the calls of a deployment, empty too.
    Calls,
    Deployment,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Floor, Kind::Calls, Kind::Deployment];
}

/// Where.
pub struct Target {
    store: Store,
    ingress: String,
    http: reqwest::Client,
    made: AtomicUsize,
}

impl Target {
    pub async fn new(store: Store, ingress: String) -> Result<Self, Failed> {
        store.ensure_workspace(&WorkspaceId::local()).await?;
        let http = reqwest::Client::builder().timeout(LIMIT).build()?;
        Ok(Self { store, ingress, http, made: AtomicUsize::new(0) })
    }

    /// The call of one handler; a deployment's row is inserted before anything
    /// is measured, in a project of its own.
    async fn prepare(&self, kind: Kind) -> Result<reqwest::RequestBuilder, Failed> {
        let made = self.made.fetch_add(1, Ordering::Relaxed);
        match kind {
            Kind::Floor => Ok(self.http.post(format!("{}/Floor/{made}/run", self.ingress))),
            Kind::Calls => {
                Ok(self.http.post(format!("{}/Floor/{made}/run_and_call", self.ingress)))
            }
            Kind::Deployment => {
                let deployment_id = self.insert(made).await?;
                let url = format!("{}/Deployment/{deployment_id}/deploy", self.ingress);
                let request = DeployRequest { deployment_id, key_auth_id: None };
                Ok(self.http.post(url).json(&request))
            }
        }
    }

    async fn insert(&self, made: usize) -> Result<DeploymentId, Failed> {
        let (workspace, slug) = (WorkspaceId::local(), format!("bench-{made}"));
        let project = self.store.ensure_project(&workspace, &slug).await??;
        let context = BuildContext {
            build_context_path: format!("contexts/{project}/{made}"),
            dockerfile_path: None,
        };
        let new = NewDeployment {
            id: DeploymentId::generate(),
            build_id: BuildId::generate(),
            purpose: Purpose::Deploy,
            workspace_id: workspace,
            project: slug,
            environment: "preview".to_owned(),
            branch: "main".to_owned(),
            source: Source::BuildContext(context),
            git_commit: None,
            build: BuildOptions::default(),
            run: RunOptions::default(),
            queue_policy: None,
            submitted_by: InvocationId(format!("bench-{made}")),
            idempotency_key: format!("bench-{made}"),
            content_hash: String::new(),
        };
        match self.store.create_deployment(&new).await? {
            Submission::Created { deployment_id } => Ok(deployment_id),
            other => Err(format!("{other:?}").into()),
        }
    }
}

/// One turn.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Per second.
    pub rate: f64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
}

impl Measured {
    /// Of several turns, each figure by itself.
    pub fn median(mut turns: Vec<Measured>) -> Measured {
        let mut middle = |figure: fn(&Measured) -> f64| {
            turns.sort_by(|a, b| figure(a).total_cmp(&figure(b)));
            figure(&turns[turns.len() / 2])
        };
        Measured { rate: middle(|t| t.rate), p50: middle(|t| t.p50), p99: middle(|t| t.p99) }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} | {:.1} ms | {:.1} ms", self.rate, self.p50, self.p99)
    }
}

/// Makes `count` calls, `at_once` at a time; every one must succeed.
pub async fn run(
    target: &Target,
    kind: Kind,
    at_once: usize,
    count: usize,
) -> Result<Measured, Failed> {
    let mut calls = Vec::with_capacity(count);
    for _ in 0..count {
        calls.push(target.prepare(kind).await?);
    }
    let calls = Arc::new(tokio::sync::Mutex::new(calls));
    let begun = Instant::now();
    let workers: Vec<_> = (0..at_once)
        .map(|_| {
            let calls = Arc::clone(&calls);
            tokio::spawn(async move {
                let mut took = Vec::new();
                while let Some(call) = { calls.lock().await.pop() } {
                    let begun = Instant::now();
                    let answer = call.send().await?;
                    if !answer.status().is_success() {
                        return Err(Failed::from(answer.text().await?));
                    }
                    took.push(begun.elapsed().as_secs_f64() * 1000.0);
                }
                Ok(took)
            })
        })
        .collect();
    let mut took = Vec::with_capacity(count);
    for worker in workers {
        took.extend(worker.await??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    took.sort_by(f64::total_cmp);
    let at = |part: f64| took[((took.len() - 1) as f64 * part).round() as usize];
    Ok(Measured { rate: count as f64 / seconds, p50: at(0.5), p99: at(0.99) })
}
