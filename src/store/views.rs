//! What the control API shows.

use std::collections::{BTreeMap, HashMap};

use launchway_workflows::{
    app::Scales,
    engine::undo::Undone,
    error::StepFailure,
    ids::{BuildId, DeploymentId, InvocationId, WorkspaceId},
    model::{BuiltImage, GitCommit, Routed, RunOptions, Sealed, Source},
    ports::{EvictionRecord, StoreError},
    status::DeploymentStatus,
};
use sqlx::{Any, AssertSqlSafe, any::AnyRow};

use super::{
    Result, Store, database, evictions::eviction, from_json, get, optional_id, optional_json, parse,
};

/// A deployment with everything people ask about.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct DeploymentView {
    pub id: DeploymentId,
    pub workspace_id: String,
    pub project_id: String,
    pub project_slug: String,
    pub environment_id: String,
    pub environment_slug: String,
    pub branch: String,
    pub git_commit: Option<GitCommit>,
    pub build_id: BuildId,
    pub run_options: RunOptions,
    /// Names of the variables that it has; never their values.
    pub variables: Vec<String>,
    pub status: DeploymentStatus,
    pub attempt: u32,
    pub invocation_id: Option<InvocationId>,
    pub image_reference: Option<String>,
    pub image_digest: Option<String>,
    pub routed: Option<Routed>,
    pub failure: Option<StepFailure>,
    /// What the latest attempt took back.
    pub undone: Vec<Undone>,
    pub warnings: Vec<String>,
    pub created_at: i64,
    pub updated_at: i64,
    pub source: Source,
    pub image_local_only: bool,
    /// Where and why the latest attempt began, when not at the start.
    pub restarted: Option<(String, String)>,
    pub cancel_requested: bool,
    /// When it last became live.
    pub live_at: Option<i64>,
    /// What its environment serves, and what a rollback has pinned that to.
    pub environment_live: Option<DeploymentId>,
    pub environment_pinned: Option<DeploymentId>,
    /// supersede-queued or queue.
    pub queue_policy: String,
    /// Whether its instances are stopped for want of requests.
    pub eviction: Option<EvictionRecord>,
    /// Since when it makes no progress, and why.
    pub stalled: Option<(i64, String)>,
    /// The hostname of the environment, when it points here.
    pub environment_domain: Option<String>,
    /// Its own hostname, which never moves.
    pub commit_domain: Option<String>,
    /// Hostnames that answer with this deployment now.
    pub domains: Vec<String>,
    /// Those before the present one.
    pub attempts: Vec<AttemptView>,
    pub steps: Vec<StepView>,
}

impl DeploymentView {
    /// The image that was built, once it is.
    pub fn image(&self) -> Option<BuiltImage> {
        Some(BuiltImage {
            reference: self.image_reference.clone()?,
            digest: self.image_digest.clone()?,
            local_only: self.image_local_only,
        })
    }
}

/// One step of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StepView {
    pub name: String,
    pub attempt: u32,
    /// running, done, skipped, failed or cancelled.
    pub status: String,
    pub tries: u32,
    pub started_at: i64,
    pub ended_at: Option<i64>,
    pub message: String,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
}

/// One event of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct BuildLogLine {
    pub cursor: i64,
    pub attempt: u32,
    pub at: i64,
    pub vertex: String,
    pub kind: String,
    pub text: String,
    pub duration_ms: i64,
}

/// Which deployments are wanted. Empty texts match all.
#[derive(Debug, Clone, Default)]
pub struct DeploymentFilter {
    /// Slug or id.
    pub project: String,
    /// Slug.
    pub environment: String,
    /// Name.
    pub branch: String,
    /// In this state now.
    pub status: Option<DeploymentStatus>,
    /// At most this many.
    pub limit: u32,
}

/// An attempt that has ended and was followed by another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptView {
    /// From 1.
    pub attempt: u32,
    /// How it ended.
    pub status: DeploymentStatus,
    /// Its workflow.
    pub invocation_id: Option<InvocationId>,
    /// Why it ended so.
    pub failure: Option<StepFailure>,
    /// What it took back.
    pub undone: Vec<Undone>,
    /// Milliseconds since the epoch.
    pub started_at: i64,
    /// Milliseconds since the epoch.
    pub ended_at: i64,
}

const DEPLOYMENT: &str = "SELECT d.id, d.workspace_id, d.project_id, p.slug AS project_slug, \
    d.environment_id, e.slug AS environment_slug, d.variables, d.branch, \
    d.git_commit, d.build_id, d.run_options, d.status, d.attempt, d.invocation_id, d.image_reference, \
    d.image_digest, d.image_local_only, d.routed, d.failure, d.undone, d.source, d.restarted_at_step, \
    d.restarted_why, d.cancel_requested_at, d.stalled_since, d.stalled_why, d.created_at, d.updated_at, \
    d.eviction, d.evicted_at, d.start_failure, d.live_at, e.live_deployment_id, e.pinned_deployment_id, p.queue_policy, \
    (SELECT m.name FROM domains m WHERE m.deployment_id = d.id AND m.kind = 'environment') \
    AS environment_domain, \
    (SELECT m.name FROM domains m WHERE m.deployment_id = d.id AND m.kind = 'commit') AS commit_domain \
    FROM deployments d \
    JOIN projects p ON p.id = d.project_id JOIN environments e ON e.id = d.environment_id";

impl Store {
    /// A deployment of the workspace.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn deployment(
        &self,
        workspace: &WorkspaceId,
        id: &DeploymentId,
    ) -> Result<Option<DeploymentView>> {
        let sql = AssertSqlSafe(format!("{DEPLOYMENT} WHERE d.id = $1 AND d.workspace_id = $2"));
        let row = sqlx::query(sql)
            .bind(id.as_str())
            .bind(workspace.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(database)?;
        let Some(row) = row else { return Ok(None) };
        let mut view = view(&row)?;
        view.steps = self.steps_of(id).await?;
        view.attempts = self.attempts_of(id).await?;
        view.domains = self
            .texts("SELECT name FROM domains WHERE deployment_id = $1 ORDER BY kind DESC, name", id)
            .await?;
        view.warnings = self
            .texts("SELECT warning AS name FROM deployment_warnings WHERE deployment_id = $1 ORDER BY created_at", id)
            .await?;
        Ok(Some(view))
    }

    /// Deployments, newest first, without steps and warnings.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn deployments(
        &self,
        workspace: &WorkspaceId,
        filter: &DeploymentFilter,
    ) -> Result<Vec<DeploymentView>> {
        let sql = AssertSqlSafe(format!(
            "{DEPLOYMENT} WHERE d.workspace_id = $1 AND ($2 = '' OR p.slug = $2 OR p.id = $2) \
             AND ($3 = '' OR e.slug = $3) AND ($4 = '' OR d.branch = $4) AND ($5 = '' OR d.status = $5) \
             ORDER BY d.created_at DESC, d.id DESC LIMIT $6"
        ));
        let rows = sqlx::query(sql)
            .bind(workspace.as_str())
            .bind(filter.project.as_str())
            .bind(filter.environment.as_str())
            .bind(filter.branch.as_str())
            .bind(filter.status.map_or("", DeploymentStatus::as_str))
            .bind(i64::from(filter.limit))
            .fetch_all(&self.pool)
            .await
            .map_err(database)?;
        let mut views: Vec<DeploymentView> = rows.iter().map(view).collect::<Result<_>>()?;
        let mut domains = self.domains_by_deployment(workspace).await?;
        for view in &mut views {
            view.domains = domains.remove(view.id.as_str()).unwrap_or_default();
        }
        Ok(views)
    }

    /// Build events after a cursor, in order; of one attempt or of all.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn build_log(
        &self,
        id: &DeploymentId,
        attempt: Option<u32>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<BuildLogLine>> {
        let rows = sqlx::query(
            "SELECT line, attempt, at, vertex, kind, text, duration_ms FROM build_logs \
             WHERE deployment_id = $1 AND line > $2 AND ($3 = 0 OR attempt = $3) ORDER BY line LIMIT $4",
        )
        .bind(id.as_str())
        .bind(after)
        .bind(i64::from(attempt.unwrap_or(0)))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        rows.iter().map(log_line).collect()
    }

    async fn steps_of(&self, id: &DeploymentId) -> Result<Vec<StepView>> {
        let rows = sqlx::query(
            "SELECT step, attempt, status, tries, started_at, ended_at, message, error_code, error_message \
             FROM deployment_steps WHERE deployment_id = $1 ORDER BY attempt, position",
        )
        .bind(id.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        rows.iter().map(step).collect()
    }

    async fn attempts_of(&self, id: &DeploymentId) -> Result<Vec<AttemptView>> {
        let rows = sqlx::query(
            "SELECT attempt, status, invocation_id, failure, undone, started_at, ended_at \
             FROM deployment_attempts WHERE deployment_id = $1 ORDER BY attempt",
        )
        .bind(id.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        rows.iter().map(attempt).collect()
    }

    async fn texts(&self, sql: &'static str, id: &DeploymentId) -> Result<Vec<String>> {
        let rows =
            sqlx::query(sql).bind(id.as_str()).fetch_all(&self.pool).await.map_err(database)?;
        rows.iter().map(|row| get(row, "name")).collect()
    }

    async fn domains_by_deployment(
        &self,
        workspace: &WorkspaceId,
    ) -> Result<HashMap<String, Vec<String>>> {
        let rows = sqlx::query(
            "SELECT m.deployment_id, m.name FROM domains m JOIN deployments d ON d.id = m.deployment_id \
             WHERE d.workspace_id = $1 ORDER BY m.kind DESC, m.name",
        )
        .bind(workspace.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        let mut domains: HashMap<String, Vec<String>> = HashMap::new();
        for row in &rows {
            domains.entry(get(row, "deployment_id")?).or_default().push(get(row, "name")?);
        }
        Ok(domains)
    }
}

fn pair<'r, A, B>(row: &'r AnyRow, first: &str, second: &str) -> Result<Option<(A, B)>>
where
    A: sqlx::Decode<'r, Any> + sqlx::Type<Any>,
    B: sqlx::Decode<'r, Any> + sqlx::Type<Any> + Default,
{
    let (first, second): (Option<A>, Option<B>) = (get(row, first)?, get(row, second)?);
    Ok(first.map(|first| (first, second.unwrap_or_default())))
}

fn small(row: &AnyRow, column: &str) -> Result<u32> {
    u32::try_from(get::<i64>(row, column)?)
        .map_err(|error| StoreError(format!("column {column}: {error}")))
}

fn view(row: &AnyRow) -> Result<DeploymentView> {
    Ok(DeploymentView {
        id: parse(row, "id")?,
        workspace_id: get(row, "workspace_id")?,
        project_id: get(row, "project_id")?,
        project_slug: get(row, "project_slug")?,
        environment_id: get(row, "environment_id")?,
        environment_slug: get(row, "environment_slug")?,
        branch: get(row, "branch")?,
        git_commit: optional_json(row, "git_commit")?,
        build_id: parse(row, "build_id")?,
        run_options: from_json::<RunOptions>(&get::<String>(row, "run_options")?)?
            .with_defaults(&Scales::new()),
        variables: from_json::<BTreeMap<String, Sealed>>(&get::<String>(row, "variables")?)?
            .into_keys()
            .collect(),
        status: parse(row, "status")?,
        attempt: small(row, "attempt")?,
        invocation_id: get::<Option<String>>(row, "invocation_id")?.map(InvocationId),
        image_reference: get(row, "image_reference")?,
        image_digest: get(row, "image_digest")?,
        routed: optional_json(row, "routed")?,
        failure: optional_json(row, "failure")?,
        undone: optional_json(row, "undone")?.unwrap_or_default(),
        warnings: Vec::new(),
        created_at: get(row, "created_at")?,
        updated_at: get(row, "updated_at")?,
        source: from_json(&get::<String>(row, "source")?)?,
        image_local_only: get::<Option<i64>>(row, "image_local_only")? == Some(1),
        restarted: pair(row, "restarted_at_step", "restarted_why")?,
        cancel_requested: get::<Option<i64>>(row, "cancel_requested_at")?.is_some(),
        live_at: get(row, "live_at")?,
        environment_live: optional_id(row, "live_deployment_id")?,
        environment_pinned: optional_id(row, "pinned_deployment_id")?,
        queue_policy: get(row, "queue_policy")?,
        eviction: eviction(row)?,
        stalled: pair(row, "stalled_since", "stalled_why")?,
        environment_domain: get(row, "environment_domain")?,
        commit_domain: get(row, "commit_domain")?,
        domains: Vec::new(),
        attempts: Vec::new(),
        steps: Vec::new(),
    })
}

fn attempt(row: &AnyRow) -> Result<AttemptView> {
    Ok(AttemptView {
        attempt: small(row, "attempt")?,
        status: parse(row, "status")?,
        invocation_id: get::<Option<String>>(row, "invocation_id")?.map(InvocationId),
        failure: optional_json(row, "failure")?,
        undone: optional_json(row, "undone")?.unwrap_or_default(),
        started_at: get(row, "started_at")?,
        ended_at: get(row, "ended_at")?,
    })
}

fn step(row: &AnyRow) -> Result<StepView> {
    Ok(StepView {
        name: get(row, "step")?,
        attempt: small(row, "attempt")?,
        status: get(row, "status")?,
        tries: small(row, "tries")?,
        started_at: get(row, "started_at")?,
        ended_at: get(row, "ended_at")?,
        message: get(row, "message")?,
        error_code: get(row, "error_code")?,
        error_message: get(row, "error_message")?,
    })
}

fn log_line(row: &AnyRow) -> Result<BuildLogLine> {
    Ok(BuildLogLine {
        cursor: get(row, "line")?,
        attempt: small(row, "attempt")?,
        at: get(row, "at")?,
        vertex: get(row, "vertex")?,
        kind: get(row, "kind")?,
        text: get(row, "text")?,
        duration_ms: get(row, "duration_ms")?,
    })
}
