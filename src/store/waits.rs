//! Parked waits for readiness.

use launchway_workflows::ports::ReadinessWait;

use super::{Result, Store, database, get, parse};

impl Store {
    pub(super) async fn open_wait(&self, wait: &ReadinessWait) -> Result<()> {
        sqlx::query(
            "INSERT INTO readiness_waits (awakeable_id, deployment_id, namespace, replicas, deadline) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (awakeable_id) DO NOTHING",
        )
        .bind(wait.awakeable_id.as_str())
        .bind(wait.deployment_id.as_str())
        .bind(wait.namespace.as_str())
        .bind(i64::from(wait.replicas))
        .bind(wait.deadline)
        .execute(&self.writer)
        .await
        .map_err(database)?;
        Ok(())
    }

    pub(super) async fn open_waits(&self) -> Result<Vec<ReadinessWait>> {
        let rows = sqlx::query(
            "SELECT awakeable_id, deployment_id, namespace, replicas, deadline FROM readiness_waits",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        rows.iter()
            .map(|row| {
                Ok(ReadinessWait {
                    awakeable_id: get(row, "awakeable_id")?,
                    deployment_id: parse(row, "deployment_id")?,
                    namespace: get(row, "namespace")?,
                    replicas: u32::try_from(get::<i64>(row, "replicas")?).unwrap_or(1),
                    deadline: get(row, "deadline")?,
                })
            })
            .collect()
    }

    pub(super) async fn close_wait(&self, awakeable_id: &str) -> Result<()> {
        sqlx::query("DELETE FROM readiness_waits WHERE awakeable_id = $1")
            .bind(awakeable_id)
            .execute(&self.writer)
            .await
            .map_err(database)?;
        Ok(())
    }
}
