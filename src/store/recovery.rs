//! What the reconciler compares with Restate.

use launchway_workflows::{
    ids::{DeploymentId, InvocationId},
    ports::InFlight,
    status::DeploymentStatus,
};

use super::{Result, Store, database, get, parse, retries::optional_step};

impl Store {
    pub(super) async fn read_in_flight(&self) -> Result<Vec<InFlight>> {
        let rows = sqlx::query(
            "SELECT d.id, d.status, d.submitted_by, d.retried_by, d.updated_at, d.cancel_requested_at, \
             d.unwinding, d.stalled_since, (SELECT s.step FROM deployment_steps s \
             WHERE s.deployment_id = d.id AND s.attempt = d.attempt AND s.status = 'running' \
             ORDER BY s.position DESC LIMIT 1) AS step FROM deployments d WHERE d.status IN \
             ('pending', 'queued', 'building', 'pushing', 'deploying', 'checking', 'routing', 'retrying')",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        rows.iter()
            .map(|row| {
                let submitted_by: String = get(row, "submitted_by")?;
                let retried_by: Option<String> = get(row, "retried_by")?;
                Ok(InFlight {
                    deployment_id: parse(row, "id")?,
                    status: parse(row, "status")?,
                    sent_by: retried_by
                        .or(Some(submitted_by).filter(|by| !by.is_empty()))
                        .map(InvocationId),
                    step: optional_step(row, "step")?,
                    updated_at: get(row, "updated_at")?,
                    cancel_pending: get::<Option<i64>>(row, "cancel_requested_at")?.is_some()
                        && get::<i64>(row, "unwinding")? == 0,
                    stalled: get::<Option<i64>>(row, "stalled_since")?.is_some(),
                })
            })
            .collect()
    }

    pub(super) async fn read_settled_since(
        &self,
        id: &DeploymentId,
    ) -> Result<Option<(DeploymentStatus, i64)>> {
        let row = sqlx::query("SELECT status, updated_at FROM deployments WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(database)?;
        row.map(|row| Ok((parse(&row, "status")?, get(&row, "updated_at")?))).transpose()
    }

    pub(super) async fn write_stalled(
        &self,
        id: &DeploymentId,
        seen: i64,
        why: &str,
    ) -> Result<()> {
        sqlx::query(
            "UPDATE deployments SET stalled_since = updated_at, stalled_why = $2 \
             WHERE id = $1 AND stalled_since IS NULL AND updated_at = $3",
        )
        .bind(id.as_str())
        .bind(why)
        .bind(seen)
        .execute(&self.writer)
        .await
        .map_err(database)?;
        self.changed(id);
        Ok(())
    }
}
