//! What nobody asks for anything: when it was asked last, and whether its
//! instances are stopped for want of requests.

use std::time::Duration;

use async_trait::async_trait;
use launchway_workflows::{
    error::StepFailure,
    ids::DeploymentId,
    ports::{self, EvictionRecord, EvictionState, Guarded, Idle, StartTarget},
};
use sqlx::{AssertSqlSafe, any::AnyRow};

use super::{
    Result, Store, attempts::read_plan, commit, database, get, json, now_ms, optional_json, parse,
    releases::image, routes::lock_environment,
};

/// Deployments noted by one statement.
const NOTED_AT_ONCE: usize = 200;
/// An eviction or a start that takes longer was ended from outside: it is taken up
/// again.
const ENDED_FROM_OUTSIDE: i64 = 20 * 60 * 1000;

/// From the columns `eviction`, `evicted_at` and `start_failure`.
pub(super) fn eviction(row: &AnyRow) -> Result<Option<EvictionRecord>> {
    let Some(state) = eviction_state(row)? else { return Ok(None) };
    let since = get::<Option<i64>>(row, "evicted_at")?.unwrap_or_default();
    Ok(Some(EvictionRecord { state, since, start_failure: optional_json(row, "start_failure")? }))
}

/// From the column `eviction`.
pub(super) fn eviction_state(row: &AnyRow) -> Result<Option<EvictionState>> {
    get::<Option<String>>(row, "eviction")?
        .map(|state| state.parse().map_err(ports::StoreError))
        .transpose()
}

impl Store {
    /// What has had no request for its idle timeout and for `slack` beyond: when
    /// somebody was there is noted a little later. `default` is for deployments,
    /// except of production, that say nothing; zero: never.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn idle(&self, default: Duration, slack: Duration, limit: u32) -> Result<Vec<Idle>> {
        let rows = sqlx::query(
            "SELECT i.id, i.stops, i.active_at FROM (SELECT d.id, d.stops, d.eviction, d.evicted_at, \
             COALESCE(d.active_at, d.live_at, d.updated_at) AS active_at, COALESCE(d.idle_timeout_ms, \
             CASE WHEN e.slug = 'production' THEN 0 ELSE $1 END) AS timeout \
             FROM deployments d JOIN environments e ON e.id = d.environment_id \
             WHERE d.status IN ('live', 'ready') AND d.scaling IS NULL) i \
             WHERE i.timeout > 0 AND i.active_at + i.timeout < $2 AND (i.eviction IS NULL \
             OR (i.eviction = 'starting' AND i.active_at < $3) \
             OR (i.eviction = 'evicting' AND i.evicted_at < $3)) \
             ORDER BY i.active_at LIMIT $4",
        )
        .bind(millis(default))
        .bind(now_ms() - millis(slack))
        .bind(now_ms() - ENDED_FROM_OUTSIDE)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        let idle = |row: &AnyRow| {
            Ok(Idle {
                deployment_id: parse(row, "id")?,
                active_at: get(row, "active_at")?,
                stops: get(row, "stops")?,
            })
        };
        rows.iter().map(idle).collect()
    }

    /// Notes that these are asked for something now.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn note_active(&self, ids: &[DeploymentId]) -> Result<()> {
        for ids in ids.chunks(NOTED_AT_ONCE) {
            let places: Vec<_> = (2..ids.len() + 2).map(|place| format!("${place}")).collect();
            let sql = format!(
                "UPDATE deployments SET active_at = $1 WHERE status IN ('live', 'ready') AND id IN ({})",
                places.join(", ")
            );
            let query = sqlx::query(AssertSqlSafe(sql)).bind(now_ms());
            let query = ids.iter().fold(query, |query, id| query.bind(id.as_str()));
            query.execute(&self.writer).await.map_err(database)?;
        }
        Ok(())
    }

    /// Whether it simply runs (`None`), and else where it is.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn eviction_of(&self, id: &DeploymentId) -> Result<Option<EvictionState>> {
        let row = sqlx::query("SELECT eviction FROM deployments WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(database)?;
        row.map_or(Ok(None), |row| eviction_state(&row))
    }
}

#[async_trait]
impl ports::Evictions for Store {
    async fn begin_eviction(&self, idle: &Idle) -> Result<Guarded> {
        let id = &idle.deployment_id;
        let begun = sqlx::query(
            "UPDATE deployments SET eviction = 'evicting', evicted_at = $2, start_failure = NULL, \
             stops = stops + CASE WHEN eviction = 'evicting' THEN 0 ELSE 1 END \
             WHERE id = $1 AND status IN ('live', 'ready') AND (eviction = 'evicting' \
             OR ((eviction IS NULL OR eviction = 'starting') AND scaling IS NULL AND stops = $3 \
             AND COALESCE(active_at, live_at, updated_at) = $4))",
        )
        .bind(id.as_str())
        .bind(now_ms())
        .bind(idle.stops)
        .bind(idle.active_at)
        .execute(&self.writer)
        .await
        .map_err(database)?;
        self.settled(id, begun.rows_affected())
    }

    async fn finish_eviction(&self, id: &DeploymentId) -> Result<Guarded> {
        let ended = sqlx::query(
            "UPDATE deployments SET eviction = 'evicted' WHERE id = $1 AND eviction IN ('evicting', 'evicted')",
        )
        .bind(id.as_str())
        .execute(&self.writer)
        .await
        .map_err(database)?;
        self.settled(id, ended.rows_affected())
    }

    async fn is_evicted(&self, id: &DeploymentId) -> Result<bool> {
        let state = self.eviction_of(id).await?;
        Ok(matches!(state, Some(EvictionState::Evicting | EvictionState::Evicted)))
    }

    async fn begin_start(&self, id: &DeploymentId) -> Result<Option<StartTarget>> {
        let mut tx = self.write().await?;
        lock_environment(&mut tx, id).await?;
        let begun = sqlx::query(
            "UPDATE deployments SET eviction = 'starting', active_at = $2 \
             WHERE id = $1 AND eviction IS NOT NULL AND status IN ('live', 'ready')",
        )
        .bind(id.as_str())
        .bind(now_ms())
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        if begun.rows_affected() == 0 {
            return Ok(None);
        }
        let plan = read_plan(&mut tx, id).await?;
        let image = image(&mut tx, id, &plan.source).await?;
        commit(tx).await?;
        self.settled(id, begun.rows_affected())?;
        Ok(Some(StartTarget { plan, image }))
    }

    async fn finish_start(&self, id: &DeploymentId) -> Result<Guarded> {
        let ended = sqlx::query(
            "UPDATE deployments SET eviction = NULL, evicted_at = NULL, start_failure = NULL, \
             active_at = $2 WHERE id = $1 AND eviction = 'starting'",
        )
        .bind(id.as_str())
        .bind(now_ms())
        .execute(&self.writer)
        .await
        .map_err(database)?;
        self.settled(id, ended.rows_affected())
    }

    async fn undo_start(&self, id: &DeploymentId, failure: &StepFailure) -> Result<Guarded> {
        let undone = sqlx::query(
            "UPDATE deployments SET start_failure = $2, \
             stops = stops + CASE WHEN eviction = 'starting' THEN 1 ELSE 0 END, eviction = 'evicting' \
             WHERE id = $1 AND eviction IN ('starting', 'evicting')",
        )
        .bind(id.as_str())
        .bind(json(failure)?)
        .execute(&self.writer)
        .await
        .map_err(database)?;
        self.settled(id, undone.rows_affected())
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
