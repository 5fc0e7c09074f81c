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

/// Deployments looked up by one statement.
const LOOKED_UP_AT_ONCE: usize = 200;
/// Milliseconds within which somebody who asks again is not noted again.
const NOTED_AGAIN: i64 = 500;
/// An eviction or a start that takes longer was ended from outside: it is taken up
/// again.
const ENDED_FROM_OUTSIDE: i64 = 20 * 60 * 1000;

/// What silence is taken for want of requests.
#[derive(Debug, Clone, Copy)]
pub struct Silence {
    /// Timeout of deployments, except of production, that say nothing; zero: never.
    pub default: Duration,
    /// When somebody was there is noted so much later at most.
    pub slack: Duration,
    /// Since when requests are reported, in milliseconds since the epoch.
    pub watched_since: i64,
}

fn idle(row: &AnyRow) -> Result<Idle> {
    Ok(Idle {
        deployment_id: parse(row, "id")?,
        active_at: get(row, "active_at")?,
        stops: get(row, "stops")?,
    })
}

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
    /// What has had no request for its idle timeout.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn idle(&self, silence: &Silence, limit: u32) -> Result<Vec<Idle>> {
        let rows = sqlx::query(
            "SELECT i.id, i.stops, i.active_at FROM (SELECT d.id, d.stops, \
             COALESCE(d.active_at, d.live_at, d.updated_at) AS active_at, COALESCE(d.idle_timeout_ms, \
             CASE WHEN e.slug = 'production' THEN 0 ELSE $1 END) AS timeout \
             FROM deployments d JOIN environments e ON e.id = d.environment_id \
             WHERE d.status IN ('live', 'ready') AND d.scaling IS NULL AND d.eviction IS NULL) i \
             WHERE i.timeout > 0 AND i.active_at + i.timeout < $2 AND i.timeout < $3 \
             ORDER BY i.active_at LIMIT $4",
        )
        .bind(millis(silence.default))
        .bind(now_ms() - millis(silence.slack))
        .bind(now_ms() - millis(silence.slack) - silence.watched_since)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        rows.iter().map(idle).collect()
    }

    /// What is being stopped or started for so long that nobody does: an operator has
    /// ended the invocation.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn left_behind(&self, limit: u32) -> Result<Vec<Idle>> {
        let rows = sqlx::query(
            "SELECT id, stops, COALESCE(active_at, live_at, updated_at) AS active_at FROM deployments \
             WHERE status IN ('live', 'ready') AND eviction IN ('evicting', 'starting') \
             AND evicted_at < $1 ORDER BY evicted_at LIMIT $2",
        )
        .bind(now_ms() - ENDED_FROM_OUTSIDE)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        rows.iter().map(idle).collect()
    }

    /// Notes that these are asked for something now, as far as they could be evicted
    /// and it was not noted just before.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn note_active(&self, ids: &[DeploymentId], default: Duration) -> Result<()> {
        for ids in ids.chunks(LOOKED_UP_AT_ONCE) {
            let places: Vec<_> = (3..ids.len() + 3).map(|place| format!("${place}")).collect();
            let sql = format!(
                "SELECT id FROM deployments WHERE status IN ('live', 'ready') \
                 AND COALESCE(idle_timeout_ms, $1) > 0 AND COALESCE(active_at, 0) < $2 AND id IN ({})",
                places.join(", ")
            );
            let query = sqlx::query(AssertSqlSafe(sql)).bind(millis(default));
            let query = query.bind(now_ms() - NOTED_AGAIN);
            let query = ids.iter().fold(query, |query, id| query.bind(id.as_str()));
            for row in query.fetch_all(&self.pool).await.map_err(database)? {
                // One at a time: a move of an environment locks several, in its order.
                sqlx::query("UPDATE deployments SET active_at = $2 WHERE id = $1")
                    .bind(get::<String>(&row, "id")?)
                    .bind(now_ms())
                    .execute(&self.writer)
                    .await
                    .map_err(database)?;
            }
        }
        Ok(())
    }

    /// Where it is, unless it simply runs, and how often its instances have been
    /// stopped.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn eviction_of(&self, id: &DeploymentId) -> Result<Option<(EvictionRecord, i64)>> {
        let row = sqlx::query(
            "SELECT eviction, evicted_at, start_failure, stops FROM deployments WHERE id = $1",
        )
        .bind(id.as_str())
        .fetch_optional(&self.pool)
        .await
        .map_err(database)?;
        let Some(row) = row else { return Ok(None) };
        let stops = get(&row, "stops")?;
        Ok(eviction(&row)?.map(|record| (record, stops)))
    }
}

#[async_trait]
impl ports::Evictions for Store {
    async fn begin_eviction(&self, idle: &Idle) -> Result<Guarded> {
        let id = &idle.deployment_id;
        let mut tx = self.write().await?;
        // A scale or a release that begins meanwhile sees it, or is seen.
        lock_environment(&mut tx, id).await?;
        let begun = sqlx::query(
            "UPDATE deployments SET eviction = 'evicting', evicted_at = $2, start_failure = NULL, \
             stops = stops + CASE WHEN eviction = 'evicting' THEN 0 ELSE 1 END \
             WHERE id = $1 AND status IN ('live', 'ready') AND (eviction = 'evicting' \
             OR (eviction IS NULL AND scaling IS NULL AND stops = $3 \
             AND COALESCE(active_at, live_at, updated_at) = $4))",
        )
        .bind(id.as_str())
        .bind(now_ms())
        .bind(idle.stops)
        .bind(idle.active_at)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        commit(tx).await?;
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
        let record = self.eviction_of(id).await?.map(|(record, _)| record.state);
        Ok(matches!(record, Some(EvictionState::Evicting | EvictionState::Evicted)))
    }

    async fn asked_since(&self, idle: &Idle) -> Result<bool> {
        let row = sqlx::query(
            "SELECT id FROM deployments WHERE id = $1 AND COALESCE(active_at, live_at, updated_at) > $2",
        )
        .bind(idle.deployment_id.as_str())
        .bind(idle.active_at)
        .fetch_optional(&self.pool)
        .await
        .map_err(database)?;
        Ok(row.is_some())
    }

    async fn begin_start(
        &self,
        id: &DeploymentId,
        stops: Option<i64>,
    ) -> Result<Option<StartTarget>> {
        let mut tx = self.write().await?;
        lock_environment(&mut tx, id).await?;
        let begun = sqlx::query(
            "UPDATE deployments SET eviction = 'starting', active_at = $2, evicted_at = $2, \
             start_failure = NULL WHERE id = $1 AND eviction IS NOT NULL \
             AND status IN ('live', 'ready') AND stops = COALESCE($3, stops)",
        )
        .bind(id.as_str())
        .bind(now_ms())
        .bind(stops)
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
            "UPDATE deployments SET start_failure = $2, evicted_at = $3, \
             stops = stops + CASE WHEN eviction = 'starting' THEN 1 ELSE 0 END, eviction = 'evicting' \
             WHERE id = $1 AND eviction IN ('starting', 'evicting')",
        )
        .bind(id.as_str())
        .bind(json(failure)?)
        .bind(now_ms())
        .execute(&self.writer)
        .await
        .map_err(database)?;
        self.settled(id, undone.rows_affected())
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
