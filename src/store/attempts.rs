//! The row of a deployment, as its workflow reads and moves it.

use launchway_workflows::{
    app::Scales,
    error::{ErrorCode, StepFailure},
    ids::{DeploymentId, InvocationId},
    model::{BuildOptions, BuiltImage, DeploymentPlan, GitCommit, QueuePolicy, RunOptions, Source},
    names::PRODUCTION,
    ports::{AttemptEnd, Guarded, ReleaseMark, RunInputs, StoreError},
    status::DeploymentStatus,
};
use sqlx::any::AnyRow;

use super::{Result, Store, Tx, commit, database, from_json, get, json, now_ms, parse};

impl Store {
    pub(super) async fn take_for_attempt(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
    ) -> Result<Option<DeploymentPlan>> {
        let mut tx = self.write().await?;
        let taken = sqlx::query(
            "UPDATE deployments SET invocation_id = $2, workflow_id = $2, unwinding = 0, updated_at = $3 WHERE id = $1 \
             AND (invocation_id = $2 OR (status = 'pending' AND invocation_id IS NULL) OR status = 'retrying')",
        )
        .bind(id.as_str())
        .bind(owner.0.as_str())
        .bind(now_ms())
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        if taken.rows_affected() == 0 {
            return Ok(None);
        }
        let plan = read_plan(&mut tx, id).await?;
        commit(tx).await?;
        self.changed(id);
        Ok(Some(plan))
    }

    pub(super) async fn read_build_options(&self, id: &DeploymentId) -> Result<BuildOptions> {
        let row = self.row(id, "SELECT build_options FROM deployments WHERE id = $1").await?;
        from_json(&get::<String>(&row, "build_options")?)
    }

    pub(super) async fn read_run_inputs(&self, id: &DeploymentId) -> Result<RunInputs> {
        let row =
            self.row(id, "SELECT run_options, variables FROM deployments WHERE id = $1").await?;
        let options: RunOptions = from_json(&get::<String>(&row, "run_options")?)?;
        Ok(RunInputs {
            // Those of before defaults were recorded have none.
            options: options.with_defaults(&Scales::new()),
            env: from_json(&get::<String>(&row, "variables")?)?,
        })
    }

    pub(super) async fn note_release(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
    ) -> Result<ReleaseMark> {
        let mut tx = self.write().await?;
        let marked = sqlx::query(
            "UPDATE deployments SET release_attempt = attempt WHERE id = $1 AND invocation_id = $2 \
             AND (release_attempt IS NULL OR release_attempt < attempt)",
        )
        .bind(id.as_str())
        .bind(owner.0.as_str())
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        let row =
            sqlx::query("SELECT attempt FROM deployments WHERE id = $1 AND invocation_id = $2")
                .bind(id.as_str())
                .bind(owner.0.as_str())
                .fetch_optional(&mut *tx)
                .await
                .map_err(database)?;
        let Some(row) = row else { return Ok(ReleaseMark::Lost) };
        let attempt = u32::try_from(get::<i64>(&row, "attempt")?).unwrap_or(u32::MAX);
        commit(tx).await?;
        Ok(match marked.rows_affected() {
            0 => ReleaseMark::Again { attempt },
            _ => ReleaseMark::First { attempt },
        })
    }

    pub(super) async fn read_release_attempt(&self, id: &DeploymentId) -> Result<Option<u32>> {
        let row = self.row(id, "SELECT release_attempt FROM deployments WHERE id = $1").await?;
        Ok(get::<Option<i64>>(&row, "release_attempt")?.and_then(|attempt| attempt.try_into().ok()))
    }

    pub(super) async fn write_image(&self, id: &DeploymentId, image: &BuiltImage) -> Result<()> {
        sqlx::query(
            "UPDATE deployments SET image_reference = $2, image_digest = $3, image_local_only = $4, \
             updated_at = $5 WHERE id = $1",
        )
        .bind(id.as_str())
        .bind(image.reference.as_str())
        .bind(image.digest.as_str())
        .bind(i64::from(image.local_only))
        .bind(now_ms())
        .execute(&self.writer)
        .await
        .map_err(database)?;
        self.changed(id);
        Ok(())
    }

    pub(super) async fn is_cancel_requested(&self, id: &DeploymentId) -> Result<bool> {
        let row = self.row(id, "SELECT cancel_requested_at FROM deployments WHERE id = $1").await?;
        Ok(get::<Option<i64>>(&row, "cancel_requested_at")?.is_some())
    }

    pub(super) async fn read_owner(&self, id: &DeploymentId) -> Result<Option<InvocationId>> {
        let row = sqlx::query("SELECT invocation_id FROM deployments WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(database)?;
        let owner = row.map(|row| get::<Option<String>>(&row, "invocation_id")).transpose()?;
        Ok(owner.flatten().map(InvocationId))
    }

    pub(super) async fn settle_attempt(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
        end: &AttemptEnd,
    ) -> Result<Guarded> {
        let mut tx = self.write().await?;
        let guarded = move_in(&mut tx, id, owner, end.status).await?;
        if guarded == Guarded::Applied {
            sqlx::query("UPDATE deployments SET failure = $2, undone = $3 WHERE id = $1")
                .bind(id.as_str())
                .bind(json(&end.failure)?)
                .bind(json(&end.undone)?)
                .execute(&mut *tx)
                .await
                .map_err(database)?;
            close_steps(&mut tx, id, &end.failure).await?;
            sqlx::query("DELETE FROM readiness_waits WHERE deployment_id = $1")
                .bind(id.as_str())
                .execute(&mut *tx)
                .await
                .map_err(database)?;
            commit(tx).await?;
            self.changed(id);
        }
        Ok(guarded)
    }

    pub(super) async fn write_warning(&self, id: &DeploymentId, warning: &str) -> Result<()> {
        sqlx::query(
            "INSERT INTO deployment_warnings (deployment_id, warning, created_at) VALUES ($1, $2, $3) \
             ON CONFLICT (deployment_id, warning) DO NOTHING",
        )
        .bind(id.as_str())
        .bind(warning)
        .bind(now_ms())
        .execute(&self.writer)
        .await
        .map_err(database)?;
        self.changed(id);
        Ok(())
    }

    pub(super) async fn write_openapi(&self, id: &DeploymentId, spec: &str) -> Result<()> {
        sqlx::query("UPDATE deployments SET openapi = $2 WHERE id = $1")
            .bind(id.as_str())
            .bind(spec)
            .execute(&self.writer)
            .await
            .map_err(database)?;
        Ok(())
    }

    /// The OpenAPI description that was found, if one was.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn openapi(&self, id: &DeploymentId) -> Result<Option<String>> {
        get(&self.row(id, "SELECT openapi FROM deployments WHERE id = $1").await?, "openapi")
    }

    pub(super) async fn namespace_of(&self, id: &DeploymentId) -> Result<Option<String>> {
        let row = sqlx::query("SELECT environment_id FROM deployments WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(database)?;
        row.map(|row| get(&row, "environment_id")).transpose()
    }

    async fn row(&self, id: &DeploymentId, sql: &'static str) -> Result<AnyRow> {
        let row = sqlx::query(sql).bind(id.as_str()).fetch_optional(&self.pool).await;
        row.map_err(database)?.ok_or_else(|| StoreError(format!("there is no deployment {id}")))
    }
}

/// Compare-and-set along the status machine, for the owner only. A retry
/// begins with a compare-and-set of its own: no workflow begins one.
pub(super) async fn move_in(
    tx: &mut Tx,
    id: &DeploymentId,
    owner: &InvocationId,
    to: DeploymentStatus,
) -> Result<Guarded> {
    let row = sqlx::query("SELECT status, invocation_id FROM deployments WHERE id = $1")
        .bind(id.as_str())
        .fetch_optional(&mut **tx)
        .await
        .map_err(database)?;
    let Some(row) = row else { return Ok(Guarded::Lost) };
    let from: DeploymentStatus = parse(&row, "status")?;
    let owned = get::<Option<String>>(&row, "invocation_id")?.as_deref() == Some(&owner.0);
    let allowed = from == to || to.sources().contains(&from);
    if !owned || !allowed || to == DeploymentStatus::Retrying {
        return Ok(Guarded::Lost);
    }
    let moved = sqlx::query(
        "UPDATE deployments SET status = $2, updated_at = $3 \
         WHERE id = $1 AND status = $4 AND invocation_id = $5",
    )
    .bind(id.as_str())
    .bind(to.as_str())
    .bind(now_ms())
    .bind(from.as_str())
    .bind(owner.0.as_str())
    .execute(&mut **tx)
    .await
    .map_err(database)?;
    Ok(if moved.rows_affected() == 1 { Guarded::Applied } else { Guarded::Lost })
}

/// A step that was running when the attempt ended: the one that failed has
/// the failure, any other had done its part.
pub(super) async fn close_steps(
    tx: &mut Tx,
    id: &DeploymentId,
    failure: &StepFailure,
) -> Result<()> {
    let failed = failure.step.map_or("", |step| step.name());
    let (mine, cause) = match failure.code {
        ErrorCode::Cancelled | ErrorCode::Superseded => ("cancelled", None),
        _ => ("failed", Some(failure)),
    };
    sqlx::query(
        "UPDATE deployment_steps SET status = CASE WHEN step = $2 OR $2 = '' THEN $3 ELSE 'done' END, \
         ended_at = $4, \
         error_code = CASE WHEN step = $2 THEN $5 ELSE NULL END, \
         error_message = CASE WHEN step = $2 THEN $6 ELSE NULL END \
         WHERE deployment_id = $1 AND status = 'running' \
         AND attempt = (SELECT attempt FROM deployments WHERE id = $1)",
    )
    .bind(id.as_str())
    .bind(failed)
    .bind(mine)
    .bind(now_ms())
    .bind(cause.map(|failure| failure.code.name()))
    .bind(cause.map(|failure| failure.message.as_str()))
    .execute(&mut **tx)
    .await
    .map_err(database)?;
    Ok(())
}

pub(super) async fn read_plan(tx: &mut Tx, id: &DeploymentId) -> Result<DeploymentPlan> {
    let row = sqlx::query(
        "SELECT d.build_id, d.workspace_id, d.project_id, d.environment_id, d.branch, d.git_commit, \
         d.content_hash, d.source, d.sequence, d.purpose, d.run_options, p.slug AS project_slug, p.queue_policy, e.slug AS environment_slug \
         FROM deployments d JOIN projects p ON p.id = d.project_id \
         JOIN environments e ON e.id = d.environment_id WHERE d.id = $1",
    )
    .bind(id.as_str())
    .fetch_one(&mut **tx)
    .await
    .map_err(database)?;
    let workspace: String = get(&row, "workspace_id")?;
    let environment_slug: String = get(&row, "environment_slug")?;
    let commit: Option<GitCommit> =
        get::<Option<String>>(&row, "git_commit")?.map(|text| from_json(&text)).transpose()?;
    let commit = commit.unwrap_or_default();
    let source: Source = from_json(&get::<String>(&row, "source")?)?;
    Ok(DeploymentPlan {
        deployment_id: id.clone(),
        build_id: parse(&row, "build_id")?,
        workspace_id: workspace.try_into().map_err(|error| StoreError(format!("{error}")))?,
        project_id: parse(&row, "project_id")?,
        project_slug: get(&row, "project_slug")?,
        environment_id: parse(&row, "environment_id")?,
        production: environment_slug == PRODUCTION,
        environment_slug,
        branch: get(&row, "branch")?,
        commit_sha: commit.commit_sha,
        source_url: commit.source_url,
        content_hash: get(&row, "content_hash")?,
        source,
        sequence: get(&row, "sequence")?,
        supersede_queued: parse::<QueuePolicy>(&row, "queue_policy")?
            == QueuePolicy::SupersedeQueued,
        purpose: parse(&row, "purpose")?,
        has_release: from_json::<RunOptions>(&get::<String>(&row, "run_options")?)?
            .release
            .is_some(),
    })
}
