//! What must be remembered of Depot.

use launchway_workflows::ids::{BuildId, ProjectId};
use sqlx::{Any, Executor, Row};

use super::{Result, Store, commit, database, get, now_ms};

/// How long a claim to create a project holds: longer than the call may take.
const CLAIM_MS: i64 = 60_000;

/// A row of `depot_builds`: id, token, and the outcome where it has one.
pub(crate) type DepotBuildRow = (String, String, Option<String>);

/// Whether a project of Depot's has to be created.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DepotClaim {
    /// It exists.
    Exists(String),
    /// The caller creates it.
    Yours,
    /// Somebody else is about to.
    Taken,
}

async fn depot_project(
    executor: impl Executor<'_, Database = Any>,
    project: &ProjectId,
) -> Result<Option<String>> {
    sqlx::query("SELECT depot_project_id FROM projects WHERE id = $1")
        .bind(project.as_str())
        .fetch_optional(executor)
        .await
        .map_err(database)?
        .map_or(Ok(None), |row| row.try_get("depot_project_id").map_err(database))
}

impl Store {
    pub(crate) async fn depot_project(&self, project: &ProjectId) -> Result<Option<String>> {
        depot_project(&self.pool, project).await
    }

    pub(crate) async fn claim_depot_project(&self, project: &ProjectId) -> Result<DepotClaim> {
        let now = now_ms();
        let mut tx = self.write().await?;
        let claimed = sqlx::query(
            "UPDATE projects SET depot_claimed_at = $2 \
             WHERE id = $1 AND depot_project_id IS NULL AND depot_claimed_at < $3",
        )
        .bind(project.as_str())
        .bind(now)
        .bind(now - CLAIM_MS)
        .execute(&mut *tx)
        .await
        .map_err(database)?
        .rows_affected();
        let depot = depot_project(&mut *tx, project).await?;
        commit(tx).await?;
        Ok(match (depot, claimed) {
            (Some(depot), _) => DepotClaim::Exists(depot),
            (None, 1) => DepotClaim::Yours,
            (None, _) => DepotClaim::Taken,
        })
    }

    pub(crate) async fn set_depot_project(
        &self,
        project: &ProjectId,
        depot: &str,
    ) -> Result<String> {
        let mut tx = self.write().await?;
        sqlx::query(
            "UPDATE projects SET depot_project_id = $2 WHERE id = $1 AND depot_project_id IS NULL",
        )
        .bind(project.as_str())
        .bind(depot)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        let depot = depot_project(&mut *tx, project).await?;
        commit(tx).await?;
        depot.ok_or_else(|| database(sqlx::Error::RowNotFound))
    }

    pub(crate) async fn depot_build_opened(
        &self,
        build: &BuildId,
        depot: &str,
        token: &str,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO depot_builds (id, build_id, token, created_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(depot)
        .bind(build.as_str())
        .bind(token)
        .bind(now_ms())
        .execute(&self.writer)
        .await
        .map(drop)
        .map_err(database)
    }

    /// Builds of this id without an outcome; without an id all that have one.
    pub(crate) async fn depot_builds(&self, build: Option<&BuildId>) -> Result<Vec<DepotBuildRow>> {
        let query = match build {
            Some(build) => sqlx::query(
                "SELECT id, token, outcome FROM depot_builds \
                 WHERE build_id = $1 AND outcome IS NULL ORDER BY id",
            )
            .bind(build.as_str()),
            None => sqlx::query(
                "SELECT id, token, outcome FROM depot_builds WHERE outcome IS NOT NULL ORDER BY id",
            ),
        };
        let rows = query.fetch_all(&self.pool).await.map_err(database)?;
        rows.iter()
            .map(|row| {
                let outcome = row.try_get("outcome").map_err(database)?;
                Ok((get(row, "id")?, get(row, "token")?, outcome))
            })
            .collect()
    }

    /// The first outcome holds.
    pub(crate) async fn depot_build_ended(&self, depot: &str, outcome: &str) -> Result<()> {
        sqlx::query("UPDATE depot_builds SET outcome = $2 WHERE id = $1 AND outcome IS NULL")
            .bind(depot)
            .bind(outcome)
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(database)
    }

    pub(crate) async fn depot_build_told(&self, depot: &str) -> Result<()> {
        sqlx::query("DELETE FROM depot_builds WHERE id = $1")
            .bind(depot)
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(database)
    }
}
