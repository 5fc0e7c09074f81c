//! What people see of steps: one row per step and attempt that really ran.

use launchway_workflows::{
    ports::{Guarded, StepEnd, StepRun},
    status::DeploymentStatus,
    step::Step,
};

use super::{Result, Store, attempts::move_in, commit, database, get, now_ms};

impl Store {
    pub(super) async fn start_step(
        &self,
        run: &StepRun,
        status: Option<DeploymentStatus>,
    ) -> Result<u32> {
        let mut tx = self.write().await?;
        if let Some(status) = status
            && move_in(&mut tx, &run.deployment_id, &run.owner, status).await? == Guarded::Lost
        {
            // The commit point and the end of the attempt guard themselves.
            tracing::debug!(deployment = %run.deployment_id, step = %run.step, %status, "status not moved");
        }
        let row = sqlx::query(
            "INSERT INTO deployment_steps (deployment_id, attempt, step, position, status, tries, started_at) \
             SELECT id, attempt, $3, $4, 'running', 1, $5 FROM deployments WHERE id = $1 AND invocation_id = $2 \
             ON CONFLICT (deployment_id, attempt, step) DO UPDATE SET tries = deployment_steps.tries + 1, \
             status = 'running', ended_at = NULL RETURNING tries",
        )
        .bind(run.deployment_id.as_str())
        .bind(run.owner.0.as_str())
        .bind(run.step.name())
        .bind(position(run.step))
        .bind(now_ms())
        .fetch_optional(&mut *tx)
        .await
        .map_err(database)?;
        let tries = row.map(|row| get::<i64>(&row, "tries")).transpose()?.unwrap_or(1);
        commit(tx).await?;
        self.changed(&run.deployment_id);
        Ok(u32::try_from(tries).unwrap_or(u32::MAX))
    }

    pub(super) async fn end_step(&self, run: &StepRun, end: &StepEnd) -> Result<()> {
        let (status, message, failure) = match end {
            StepEnd::Done => ("done", "", None),
            StepEnd::Skipped(why) => ("skipped", why.as_str(), None),
            StepEnd::Failed(failure) => ("failed", "", Some(failure)),
            StepEnd::WillRetry(failure) => ("running", "will be tried again", Some(failure)),
            StepEnd::Cancelled => ("cancelled", "", None),
        };
        let ended_at = (status != "running").then(now_ms);
        // A step made of calls has no start of its own where it never waited.
        sqlx::query(
            "INSERT INTO deployment_steps (deployment_id, attempt, step, position, status, tries, \
             started_at, ended_at, message, error_code, error_message) \
             SELECT id, attempt, $3, $4, $5, 1, $6, $7, $8, $9, $10 FROM deployments \
             WHERE id = $1 AND invocation_id = $2 \
             ON CONFLICT (deployment_id, attempt, step) DO UPDATE SET status = excluded.status, \
             ended_at = excluded.ended_at, message = excluded.message, \
             error_code = excluded.error_code, error_message = excluded.error_message",
        )
        .bind(run.deployment_id.as_str())
        .bind(run.owner.0.as_str())
        .bind(run.step.name())
        .bind(position(run.step))
        .bind(status)
        .bind(now_ms())
        .bind(ended_at)
        .bind(message)
        .bind(failure.map(|failure| failure.code.name()))
        .bind(failure.map(|failure| failure.message.as_str()))
        .execute(&self.pool)
        .await
        .map_err(database)?;
        self.changed(&run.deployment_id);
        Ok(())
    }
}

fn position(step: Step) -> i64 {
    Step::ALL
        .iter()
        .position(|known| *known == step)
        .and_then(|at| i64::try_from(at).ok())
        .unwrap_or(0)
}
