//! New attempts of deployments that have ended, and new deployments of what
//! they were made from.

use launchway_workflows::{
    engine::retry::RestartPoint,
    ids::{BuildId, DeploymentId, InvocationId, ProjectId},
    model::{BuiltImage, NewDeployment},
    ports::{EndedAttempt, Guarded, Retried, StoreError},
    status::DeploymentStatus,
    step::Step,
};
use sqlx::any::AnyRow;

use super::{
    Result, Store, attempts::read_plan, commit, database, get, now_ms, optional_json, parse,
};

impl Store {
    pub(super) async fn read_ended(&self, id: &DeploymentId) -> Result<Option<EndedAttempt>> {
        let mut tx = self.pool.begin().await.map_err(database)?;
        let row = sqlx::query(
            "SELECT d.status, d.attempt, d.failure, d.undone, d.image_reference, d.image_digest, \
             d.image_local_only, d.workflow_id, d.retried_by, d.retried_from, d.restarted_at_step, d.restarted_why, \
             (SELECT s.step FROM deployment_steps s WHERE s.deployment_id = d.id AND s.attempt = d.attempt \
             ORDER BY s.position DESC LIMIT 1) AS last_step \
             FROM deployments d WHERE d.id = $1",
        )
        .bind(id.as_str())
        .fetch_optional(&mut *tx)
        .await
        .map_err(database)?;
        let Some(row) = row else { return Ok(None) };
        let status = parse(&row, "status")?;
        Ok(Some(EndedAttempt {
            status,
            attempt: u32::try_from(get::<i64>(&row, "attempt")?).unwrap_or(u32::MAX),
            failure: optional_json(&row, "failure")?,
            undone: optional_json(&row, "undone")?.unwrap_or_default(),
            last_step: optional_step(&row, "last_step")?,
            plan: read_plan(&mut tx, id).await?,
            image: image_of(&row)?,
            workflow: get::<Option<String>>(&row, "workflow_id")?.map(InvocationId),
            retried: match status {
                DeploymentStatus::Retrying => retried(&row)?,
                _ => None,
            },
        }))
    }

    pub(super) async fn start_retry(
        &self,
        id: &DeploymentId,
        by: &InvocationId,
        ended: &InvocationId,
        point: &RestartPoint,
    ) -> Result<Guarded> {
        let mut tx = self.write().await?;
        sqlx::query(
            "INSERT INTO deployment_attempts (deployment_id, attempt, invocation_id, status, failure, \
             undone, started_at, ended_at) \
             SELECT id, attempt, $2, status, failure, undone, \
             COALESCE(attempt_started_at, created_at), updated_at FROM deployments \
             WHERE id = $1 AND status IN ('failed', 'cancelled') ON CONFLICT DO NOTHING",
        )
        .bind(id.as_str())
        .bind(ended.0.as_str())
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        let begun = sqlx::query(
            "UPDATE deployments SET status = 'retrying', attempt = attempt + 1, failure = NULL, \
             undone = NULL, cancel_requested_at = NULL, unwinding = 0, stalled_since = NULL, \
             retried_by = $2, retried_from = $3, restarted_at_step = $4, restarted_why = $5, \
             attempt_started_at = $6, updated_at = $6 \
             WHERE id = $1 AND status IN ('failed', 'cancelled')",
        )
        .bind(id.as_str())
        .bind(by.0.as_str())
        .bind(ended.0.as_str())
        .bind(point.step.name())
        .bind(point.why.as_str())
        .bind(now_ms())
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        if begun.rows_affected() == 0 {
            return Ok(Guarded::Lost);
        }
        commit(tx).await?;
        self.changed(id);
        Ok(Guarded::Applied)
    }

    pub(super) async fn undo_retry(&self, id: &DeploymentId, by: &InvocationId) -> Result<()> {
        let mut tx = self.write().await?;
        let taken_back = sqlx::query(
            "UPDATE deployments SET attempt = attempt - 1, retried_by = NULL, retried_from = NULL, \
             restarted_at_step = NULL, restarted_why = NULL, updated_at = $3, \
             (status, failure, undone) = (SELECT a.status, a.failure, a.undone FROM deployment_attempts a \
             WHERE a.deployment_id = deployments.id AND a.attempt = deployments.attempt - 1) \
             WHERE id = $1 AND status = 'retrying' AND retried_by = $2",
        )
        .bind(id.as_str())
        .bind(by.0.as_str())
        .bind(now_ms())
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        if taken_back.rows_affected() == 0 {
            return Ok(());
        }
        sqlx::query(
            "DELETE FROM deployment_attempts WHERE deployment_id = $1 \
             AND attempt = (SELECT attempt FROM deployments WHERE id = $1)",
        )
        .bind(id.as_str())
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        commit(tx).await?;
        self.changed(id);
        Ok(())
    }

    pub(super) async fn read_resubmission(
        &self,
        id: &DeploymentId,
    ) -> Result<Option<NewDeployment>> {
        let row = sqlx::query(
            "SELECT d.workspace_id, d.project_id, e.slug AS environment, d.branch, d.source, d.git_commit, \
             d.build_options, d.run_options, d.content_hash, d.purpose FROM deployments d \
             JOIN environments e ON e.id = d.environment_id WHERE d.id = $1",
        )
        .bind(id.as_str())
        .fetch_optional(&self.pool)
        .await
        .map_err(database)?;
        let Some(row) = row else { return Ok(None) };
        let workspace: String = get(&row, "workspace_id")?;
        let missing = |what: &str| StoreError(format!("deployment {id} has no {what}"));
        Ok(Some(NewDeployment {
            id: DeploymentId::generate(),
            build_id: BuildId::generate(),
            purpose: parse(&row, "purpose")?,
            workspace_id: workspace.try_into().map_err(|error| StoreError(format!("{error}")))?,
            project: parse::<ProjectId>(&row, "project_id")?.to_string(),
            environment: get(&row, "environment")?,
            branch: get(&row, "branch")?,
            source: optional_json(&row, "source")?.ok_or_else(|| missing("source"))?,
            git_commit: optional_json(&row, "git_commit")?,
            build: optional_json(&row, "build_options")?.unwrap_or_default(),
            run: optional_json(&row, "run_options")?.unwrap_or_default(),
            queue_policy: None,
            submitted_by: InvocationId(String::new()),
            idempotency_key: String::new(),
            content_hash: get(&row, "content_hash")?,
        }))
    }
}

fn retried(row: &AnyRow) -> Result<Option<Retried>> {
    let by: Option<String> = get(row, "retried_by")?;
    let ended: Option<String> = get(row, "retried_from")?;
    let (Some(by), Some(ended)) = (by, ended) else { return Ok(None) };
    let point = RestartPoint {
        step: parse(row, "restarted_at_step")?,
        why: get::<Option<String>>(row, "restarted_why")?.unwrap_or_default(),
    };
    Ok(Some(Retried { by: InvocationId(by), ended: InvocationId(ended), point }))
}

pub(super) fn image_of(row: &AnyRow) -> Result<Option<BuiltImage>> {
    let reference: Option<String> = get(row, "image_reference")?;
    let digest: Option<String> = get(row, "image_digest")?;
    let (Some(reference), Some(digest)) = (reference, digest) else { return Ok(None) };
    let local_only = get::<Option<i64>>(row, "image_local_only")? == Some(1);
    Ok(Some(BuiltImage { reference, digest, local_only }))
}

pub(super) fn optional_step(row: &AnyRow, column: &str) -> Result<Option<Step>> {
    get::<Option<String>>(row, column)?.map(|_| parse(row, column)).transpose()
}
