//! What people see of steps: one row per step and attempt that really ran.

use launchway_workflows::{
    ids::DeploymentId,
    ports::{Guarded, Passed, StepEnd, StepRun},
    status::DeploymentStatus,
    step::Step,
};

use sqlx::{Any, Executor, Row};

use super::{Result, Store, attempts::move_in, commit, database, now_ms};

impl Store {
    pub(super) async fn start_step(
        &self,
        run: &StepRun,
        status: Option<DeploymentStatus>,
        passed: &[Passed],
    ) -> Result<Option<u32>> {
        let mut tx = self.write().await?;
        // A new deployment is taken by its first step; a retried one by the
        // first that really runs: those before it are copied, not executed.
        let owned = sqlx::query(
            "UPDATE deployments SET invocation_id = $2, workflow_id = $2, updated_at = $3, stalled_since = NULL \
             WHERE id = $1 AND status NOT IN ('failed', 'cancelled', 'superseded') \
             AND (invocation_id = $2 OR status = 'retrying' \
             OR (status = 'pending' AND invocation_id IS NULL))",
        )
        .bind(run.deployment_id.as_str())
        .bind(run.owner.0.as_str())
        .bind(now_ms())
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        if owned.rows_affected() == 0 {
            return Ok(None);
        }
        if let Some(status) = status
            && move_in(&mut tx, &run.deployment_id, &run.owner, status).await? == Guarded::Lost
        {
            return Ok(None);
        }
        for passed in passed {
            let run = StepRun { step: passed.step, ..run.clone() };
            write_end(&mut *tx, &run, &passed.clone().end()).await?;
        }
        let tries: i64 = sqlx::query(
            "INSERT INTO deployment_steps (deployment_id, attempt, step, position, status, tries, started_at) \
             SELECT id, attempt, $2, $3, 'running', 1, $4 FROM deployments WHERE id = $1 \
             ON CONFLICT (deployment_id, attempt, step) DO UPDATE SET tries = deployment_steps.tries + 1, \
             status = 'running', ended_at = NULL RETURNING tries",
        )
        .bind(run.deployment_id.as_str())
        .bind(run.step.name())
        .bind(position(run.step))
        .bind(now_ms())
        .fetch_one(&mut *tx)
        .await
        .and_then(|row| row.try_get("tries"))
        .map_err(database)?;
        commit(tx).await?;
        self.changed(&run.deployment_id);
        Ok(Some(u32::try_from(tries).unwrap_or(u32::MAX)))
    }

    pub(super) async fn write_note(
        &self,
        id: &DeploymentId,
        step: Step,
        message: &str,
    ) -> Result<()> {
        sqlx::query(
            "UPDATE deployment_steps SET message = $3 WHERE deployment_id = $1 AND step = $2 \
             AND status = 'running' AND attempt = (SELECT attempt FROM deployments WHERE id = $1)",
        )
        .bind(id.as_str())
        .bind(step.name())
        .bind(message)
        .execute(&self.writer)
        .await
        .map_err(database)?;
        self.changed(id);
        Ok(())
    }

    pub(super) async fn end_step(&self, run: &StepRun, end: &StepEnd) -> Result<()> {
        write_end(&self.writer, run, end).await?;
        self.changed(&run.deployment_id);
        Ok(())
    }
}

/// The end of a try, for the row's owner and its present attempt only. A row
/// that has ended stays as it ended: it may be recorded again.
pub(super) async fn write_end(
    executor: impl Executor<'_, Database = Any>,
    run: &StepRun,
    end: &StepEnd,
) -> Result<()> {
    let (status, message, failure) = match end {
        StepEnd::Done => ("done", "", None),
        StepEnd::Skipped(why) => ("skipped", why.as_str(), None),
        StepEnd::Failed(failure) => ("failed", "", Some(failure)),
        StepEnd::WillRetry(failure) => ("running", "will be tried again", Some(failure)),
        StepEnd::Cancelled => ("cancelled", "", None),
    };
    let ended_at = (status != "running").then(now_ms);
    sqlx::query(
        "UPDATE deployment_steps SET status = $4, ended_at = $5, message = $6, error_code = $7, \
         error_message = $8 WHERE deployment_id = $1 AND step = $3 AND status = 'running' AND attempt = \
         (SELECT attempt FROM deployments WHERE id = $1 AND invocation_id = $2)",
    )
    .bind(run.deployment_id.as_str())
    .bind(run.owner.0.as_str())
    .bind(run.step.name())
    .bind(status)
    .bind(ended_at)
    .bind(message)
    .bind(failure.map(|failure| failure.code.name()))
    .bind(failure.map(|failure| failure.message.as_str()))
    .execute(executor)
    .await
    .map_err(database)?;
    Ok(())
}

fn position(step: Step) -> i64 {
    Step::ALL
        .iter()
        .position(|known| *known == step)
        .and_then(|at| i64::try_from(at).ok())
        .unwrap_or(0)
}
