//! Retiring what only its own commit domain points to.

use launchway_workflows::{
    ids::DeploymentId,
    ports::{Guarded, Retirable},
};

use sqlx::any::AnyRow;

use super::{Result, Store, database, get, now_ms, parse};

impl Store {
    pub(super) async fn find_retirable(
        &self,
        id: &DeploymentId,
        keep: u32,
    ) -> Result<Vec<Retirable>> {
        let rows = sqlx::query(
            "SELECT o.id, o.status, o.retire_generation FROM deployments o \
             JOIN deployments d ON d.environment_id = o.environment_id \
             WHERE d.id = $1 AND o.status IN ('ready', 'retiring') AND o.sequence < d.sequence \
             ORDER BY o.sequence DESC",
        )
        .bind(id.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        beyond(&rows, keep)?.into_iter().map(retirable).collect()
    }

    pub(super) async fn find_overdue(&self, keep: u32, before: i64) -> Result<Vec<Retirable>> {
        let rows = sqlx::query(
            "SELECT o.id, o.status, o.retire_generation, o.updated_at, o.environment_id, \
             (SELECT COUNT(*) FROM domains m WHERE m.deployment_id = o.id AND m.kind <> 'commit') AS wanted FROM deployments o JOIN environments e ON e.id = o.environment_id \
             JOIN deployments d ON d.id = e.live_deployment_id \
             WHERE o.status IN ('ready', 'retiring') AND o.sequence < d.sequence \
             ORDER BY o.environment_id, o.sequence DESC",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        let mut overdue = Vec::new();
        let environment = |row: &AnyRow| get::<String>(row, "environment_id").ok();
        for rows in rows.chunk_by(|one, other| environment(one) == environment(other)) {
            for row in beyond(rows, keep)? {
                if get::<i64>(row, "updated_at")? < before && get::<i64>(row, "wanted")? == 0 {
                    overdue.push(retirable(row)?);
                }
            }
        }
        Ok(overdue)
    }

    pub(super) async fn restart_retirement(&self, id: &DeploymentId) -> Result<Guarded> {
        let begun = sqlx::query(
            "UPDATE deployments SET status = 'retiring', updated_at = $2 \
             WHERE id = $1 AND status IN ('retired', 'retiring')",
        )
        .bind(id.as_str())
        .bind(now_ms())
        .execute(&self.writer)
        .await
        .map_err(database)?;
        self.settled(id, begun.rows_affected())
    }

    pub(super) async fn start_retirement(&self, candidate: &Retirable) -> Result<Guarded> {
        let id = &candidate.deployment_id;
        let begun = sqlx::query(
            "UPDATE deployments SET status = 'retiring', updated_at = $2 WHERE id = $1 \
             AND (status = 'retiring' OR (status = 'ready' AND retire_generation = $3 AND NOT EXISTS \
             (SELECT 1 FROM domains m WHERE m.deployment_id = $1 AND m.kind <> 'commit')))",
        )
        .bind(id.as_str())
        .bind(now_ms())
        .bind(candidate.generation)
        .execute(&self.writer)
        .await
        .map_err(database)?;
        self.settled(id, begun.rows_affected())
    }

    pub(super) async fn end_retirement(&self, id: &DeploymentId) -> Result<Guarded> {
        let ended = sqlx::query(
            "UPDATE deployments SET status = 'retired', updated_at = $2, eviction = NULL, evicted_at = NULL, \
             stops = stops + CASE WHEN status = 'retiring' THEN 1 ELSE 0 END \
             WHERE id = $1 AND status IN ('retiring', 'retired')",
        )
        .bind(id.as_str())
        .bind(now_ms())
        .execute(&self.writer)
        .await
        .map_err(database)?;
        self.settled(id, ended.rows_affected())
    }

    /// What became of a guarded change that the routes depend on.
    pub(super) fn settled(&self, id: &DeploymentId, rows: u64) -> Result<Guarded> {
        if rows == 0 {
            return Ok(Guarded::Lost);
        }
        self.changed(id);
        self.routes_changed(id);
        Ok(Guarded::Applied)
    }
}

/// Those of an environment's deployments, newest first, that are not among the
/// `keep` ready ones. One whose retirement was ended from outside is taken up
/// again; for one that is on its way this changes nothing.
fn beyond(rows: &[AnyRow], keep: u32) -> Result<Vec<&AnyRow>> {
    let (mut ready, mut beyond) = (0, Vec::new());
    for row in rows {
        let kept = get::<String>(row, "status")? == "ready" && ready < keep;
        ready += u32::from(kept);
        if !kept {
            beyond.push(row);
        }
    }
    Ok(beyond)
}

fn retirable(row: &AnyRow) -> Result<Retirable> {
    Ok(Retirable { deployment_id: parse(row, "id")?, generation: get(row, "retire_generation")? })
}
