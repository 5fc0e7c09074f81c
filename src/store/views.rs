//! What the control API shows.

use std::collections::HashMap;

use launchway_workflows::{
    engine::undo::Undone,
    error::StepFailure,
    ids::{BuildId, DeploymentId, InvocationId, WorkspaceId},
    model::{GitCommit, Routed, RunOptions},
    ports::StoreError,
    status::DeploymentStatus,
};
use sqlx::{AssertSqlSafe, any::AnyRow};

use super::{Result, Store, database, from_json, get, parse};

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
    pub cpu_millicores: i64,
    pub memory_mib: i64,
    pub replicas: i64,
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
    /// Hostnames that answer with this deployment now.
    pub domains: Vec<String>,
    pub steps: Vec<StepView>,
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

const DEPLOYMENT: &str = "SELECT d.id, d.workspace_id, d.project_id, p.slug AS project_slug, \
    d.environment_id, e.slug AS environment_slug, e.replicas, e.cpu_millicores, e.memory_mib, d.branch, \
    d.git_commit, d.build_id, d.run_options, d.status, d.attempt, d.invocation_id, d.image_reference, \
    d.image_digest, d.routed, d.failure, d.undone, d.created_at, d.updated_at FROM deployments d \
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
        view.domains = self
            .texts("SELECT name FROM domains WHERE deployment_id = $1 ORDER BY kind DESC, name", id)
            .await?;
        view.warnings = self
            .texts("SELECT warning AS name FROM deployment_warnings WHERE deployment_id = $1 ORDER BY created_at", id)
            .await?;
        Ok(Some(view))
    }

    /// Deployments, newest first, without steps and warnings. Empty filters
    /// match all; a project is named by slug or id.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn deployments(
        &self,
        workspace: &WorkspaceId,
        project: &str,
        environment: &str,
        limit: u32,
    ) -> Result<Vec<DeploymentView>> {
        let sql = AssertSqlSafe(format!(
            "{DEPLOYMENT} WHERE d.workspace_id = $1 AND ($2 = '' OR p.slug = $2 OR p.id = $2) \
             AND ($3 = '' OR e.slug = $3) ORDER BY d.created_at DESC, d.id DESC LIMIT $4"
        ));
        let rows = sqlx::query(sql)
            .bind(workspace.as_str())
            .bind(project)
            .bind(environment)
            .bind(i64::from(limit))
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

    /// Deployments that a workflow owns: id, status, invocation.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn in_flight(&self) -> Result<Vec<(DeploymentId, Option<InvocationId>)>> {
        let rows = sqlx::query(
            "SELECT id, invocation_id FROM deployments WHERE status IN \
             ('pending', 'queued', 'building', 'pushing', 'deploying', 'checking', 'routing', 'retrying')",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        rows.iter()
            .map(|row| {
                let invocation = get::<Option<String>>(row, "invocation_id")?.map(InvocationId);
                Ok((parse(row, "id")?, invocation))
            })
            .collect()
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

fn optional_json<T: serde::de::DeserializeOwned>(row: &AnyRow, column: &str) -> Result<Option<T>> {
    get::<Option<String>>(row, column)?.map(|text| from_json(&text)).transpose()
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
        run_options: from_json(&get::<String>(row, "run_options")?)?,
        cpu_millicores: get(row, "cpu_millicores")?,
        memory_mib: get(row, "memory_mib")?,
        replicas: get(row, "replicas")?,
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
        domains: Vec::new(),
        steps: Vec::new(),
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
