//! Retiring what only its own commit domain points to.

use launchway_workflows::{
    ids::DeploymentId,
    ports::{Guarded, Retirable},
};

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
        let (mut ready, mut retirable) = (0, Vec::new());
        for row in &rows {
            // One whose retirement was ended from outside is taken up again;
            // for one that is on its way this changes nothing.
            let kept = get::<String>(row, "status")? == "ready" && ready < keep;
            ready += u32::from(kept);
            if !kept {
                retirable.push(Retirable {
                    deployment_id: parse(row, "id")?,
                    generation: get(row, "retire_generation")?,
                });
            }
        }
        Ok(retirable)
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
            "UPDATE deployments SET status = 'retired', updated_at = $2 \
             WHERE id = $1 AND status IN ('retiring', 'retired')",
        )
        .bind(id.as_str())
        .bind(now_ms())
        .execute(&self.writer)
        .await
        .map_err(database)?;
        self.settled(id, ended.rows_affected())
    }

    fn settled(&self, id: &DeploymentId, rows: u64) -> Result<Guarded> {
        if rows == 0 {
            return Ok(Guarded::Lost);
        }
        self.changed(id);
        self.routes_changed(id);
        Ok(Guarded::Applied)
    }
}
