//! What is past its retention.

use async_trait::async_trait;
use launchway_workflows::{
    ids::DeploymentId,
    ports::{Archive, Cutoffs, Garbage, StoreError},
};
use sqlx::{AssertSqlSafe, any::AnyRow};

use super::{Result, Store, Tx, commit, database, get, now_ms, parse, retries::image_of};

/// How long it is remembered that a context is being removed: longer than a
/// submission that has seen it takes to be recorded.
const REMEMBERED_MS: i64 = 24 * 3600 * 1000;

/// Deployments by how long they have been retired in their environment: `n` is
/// 1 for the latest.
const RANKED: &str = "SELECT d.*, ROW_NUMBER() OVER (PARTITION BY environment_id, status \
     ORDER BY COALESCE(live_at, created_at) DESC, id DESC) AS n FROM deployments d";
/// Ended, and not to be served again.
const FAILED: &str = "status IN ('failed', 'cancelled', 'superseded')";

/// The condition under which an image may go: nothing runs it, goes back to it,
/// or was deployed from it by its id. $1: sources, $2: records, $3: restorable.
fn image_may_go() -> String {
    format!(
        "image_reference IS NOT NULL AND image_gone = 0 AND (({FAILED} AND updated_at < $1) \
         OR (status = 'built' AND updated_at < $2) \
         OR (status = 'retired' AND updated_at < $1 AND n > $3)) \
         AND NOT EXISTS (SELECT 1 FROM deployments p WHERE p.id <> r.id AND p.status NOT IN ('failed', 'cancelled', 'superseded') \
         AND p.source LIKE '%' || r.image_digest || '%')"
    )
}

/// The condition under which a record may go, its image before it.
fn record_may_go() -> String {
    format!(
        "updated_at < $2 AND (image_reference IS NULL OR image_gone = 1) AND ({FAILED} \
         OR status = 'built' OR (status = 'retired' AND n > $3)) AND updated_at < $1 \
         AND NOT EXISTS (SELECT 1 FROM domains m WHERE m.deployment_id = r.id AND m.kind <> 'commit')"
    )
}

/// Build output goes earlier than the record.
fn log_may_go() -> String {
    format!("updated_at < $1 AND ({FAILED} OR status IN ('built', 'retired'))")
}

/// What is deleted with a deployment, children first.
const CHILDREN: [&str; 7] = [
    "build_logs",
    "deployment_steps",
    "deployment_attempts",
    "deployment_warnings",
    "journal_entries",
    "readiness_waits",
    "domains",
];

#[async_trait]
impl Archive for Store {
    async fn expired(&self, cutoffs: &Cutoffs, limit: u32) -> Result<Vec<Garbage>> {
        let mut found = Vec::new();
        for row in self.ranked(&image_may_go(), cutoffs, limit).await? {
            let image = image_of(&row)?.ok_or_else(|| StoreError("an image".to_owned()))?;
            found.push(Garbage::Image { deployment_id: parse(&row, "id")?, image, size: 0 });
        }
        for row in self.logs(cutoffs, limit).await? {
            let size = u64::try_from(get::<i64>(&row, "size")?).unwrap_or(0);
            found.push(Garbage::BuildLog { deployment_id: parse(&row, "deployment_id")?, size });
        }
        for row in self.ranked(&record_may_go(), cutoffs, limit).await? {
            found.push(Garbage::Record { deployment_id: parse(&row, "id")? });
        }
        Ok(found)
    }

    async fn needed_contexts(&self, keys: &[String], cutoffs: &Cutoffs) -> Result<Vec<String>> {
        let mut needed = Vec::new();
        for key in keys {
            let sql = format!("SELECT 1 AS found FROM deployments WHERE {} LIMIT 1", needs());
            let row = sqlx::query(AssertSqlSafe(sql))
                .bind(format!("%{key}%"))
                .bind(cutoffs.sources)
                .fetch_optional(&self.pool)
                .await
                .map_err(database)?;
            needed.extend(row.map(|_| key.clone()));
        }
        Ok(needed)
    }

    async fn may_run(&self, ids: &[DeploymentId]) -> Result<Vec<DeploymentId>> {
        let mut running = Vec::new();
        for id in ids {
            let row = sqlx::query(
                "SELECT id FROM deployments WHERE id = $1 \
                 AND status NOT IN ('failed', 'cancelled', 'superseded', 'built', 'retired')",
            )
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(database)?;
            running.extend(row.map(|row| parse(&row, "id")).transpose()?);
        }
        Ok(running)
    }

    async fn give_up(&self, garbage: &Garbage, cutoffs: &Cutoffs) -> Result<bool> {
        let mut tx = self.write().await?;
        let given_up = match garbage {
            Garbage::Context { key, .. } => give_up_context(&mut tx, key, cutoffs).await?,
            Garbage::Image { deployment_id, .. } => {
                give_up_image(&mut tx, deployment_id, cutoffs).await?
            }
            Garbage::BuildLog { deployment_id, .. } => {
                give_up_log(&mut tx, deployment_id, cutoffs).await?
            }
            Garbage::Record { deployment_id } => {
                give_up_record(&mut tx, deployment_id, cutoffs).await?
            }
            // The runtime's, of which nothing is recorded.
            Garbage::LeftOver { .. } | Garbage::Task { .. } => false,
        };
        if given_up {
            commit(tx).await?;
        }
        Ok(given_up)
    }

    async fn image_gone(&self, id: &DeploymentId) -> Result<()> {
        let gone = sqlx::query(
            "UPDATE deployments SET image_gone = 1 WHERE id = $1 AND image_given_up_at IS NOT NULL",
        );
        gone.bind(id.as_str()).execute(&self.writer).await.map_err(database)?;
        self.changed(id);
        Ok(())
    }
}

impl Store {
    async fn ranked(&self, condition: &str, cutoffs: &Cutoffs, limit: u32) -> Result<Vec<AnyRow>> {
        let sql = format!(
            "SELECT id, image_reference, image_digest, image_local_only FROM ({RANKED}) r \
             WHERE {condition} ORDER BY COALESCE(image_given_up_at, 0), updated_at LIMIT $4"
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(cutoffs.sources)
            .bind(cutoffs.records)
            .bind(i64::from(cutoffs.restorable))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(database)
    }

    async fn logs(&self, cutoffs: &Cutoffs, limit: u32) -> Result<Vec<AnyRow>> {
        let sql = format!(
            "SELECT l.deployment_id, CAST(SUM(LENGTH(l.text)) AS BIGINT) AS size FROM build_logs l \
             WHERE l.deployment_id IN (SELECT id FROM deployments WHERE {}) \
             GROUP BY l.deployment_id LIMIT $2",
            log_may_go()
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(cutoffs.logs)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(database)
    }
}

/// A deployment that a context ($1, as a pattern) is needed for: it is under way,
/// or can be retried or submitted again. $2: sources.
fn needs() -> &'static str {
    "source LIKE $1 AND (updated_at >= $2 OR status NOT IN \
     ('failed', 'cancelled', 'superseded', 'built', 'retired', 'live', 'ready'))"
}

async fn give_up_context(tx: &mut Tx, key: &str, cutoffs: &Cutoffs) -> Result<bool> {
    sqlx::query("DELETE FROM removed_contexts WHERE removed_at < $1")
        .bind(now_ms() - REMEMBERED_MS)
        .execute(&mut **tx)
        .await
        .map_err(database)?;
    let sql = format!(
        "INSERT INTO removed_contexts (object_key, removed_at) SELECT $3, $4 \
         WHERE NOT EXISTS (SELECT 1 FROM deployments WHERE {}) \
         ON CONFLICT (object_key) DO UPDATE SET removed_at = $4",
        needs()
    );
    let given_up = sqlx::query(AssertSqlSafe(sql))
        .bind(format!("%{key}%"))
        .bind(cutoffs.sources)
        .bind(key)
        .bind(now_ms())
        .execute(&mut **tx)
        .await
        .map_err(database)?;
    Ok(given_up.rows_affected() == 1)
}

async fn give_up_image(tx: &mut Tx, id: &DeploymentId, cutoffs: &Cutoffs) -> Result<bool> {
    let limits = [cutoffs.sources, cutoffs.records, i64::from(cutoffs.restorable)];
    if !may_go(tx, id, &image_may_go(), &limits).await? {
        return Ok(false);
    }
    sqlx::query("UPDATE deployments SET image_given_up_at = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(now_ms())
        .execute(&mut **tx)
        .await
        .map_err(database)?;
    Ok(true)
}

async fn give_up_log(tx: &mut Tx, id: &DeploymentId, cutoffs: &Cutoffs) -> Result<bool> {
    if !may_go(tx, id, &log_may_go(), &[cutoffs.logs]).await? {
        return Ok(false);
    }
    delete_from(tx, "build_logs", id).await?;
    Ok(true)
}

async fn give_up_record(tx: &mut Tx, id: &DeploymentId, cutoffs: &Cutoffs) -> Result<bool> {
    let row = sqlx::query("SELECT id FROM deployments WHERE id = $1")
        .bind(id.as_str())
        .fetch_optional(&mut **tx)
        .await
        .map_err(database)?;
    if row.is_none() {
        return Ok(true);
    }
    let limits = [cutoffs.sources, cutoffs.records, i64::from(cutoffs.restorable)];
    if !may_go(tx, id, &record_may_go(), &limits).await? {
        return Ok(false);
    }
    for table in CHILDREN {
        delete_from(tx, table, id).await?;
    }
    sqlx::query("DELETE FROM deployments WHERE id = $1")
        .bind(id.as_str())
        .execute(&mut **tx)
        .await
        .map_err(database)?;
    Ok(true)
}

/// Looked at again, with the row of its environment locked: a promotion that has
/// begun meanwhile is seen, and one that begins then sees what was given up.
async fn may_go(tx: &mut Tx, id: &DeploymentId, condition: &str, limits: &[i64]) -> Result<bool> {
    super::routes::lock_environment(tx, id).await?;
    let own = limits.len() + 1;
    let sql = format!("SELECT id FROM ({RANKED}) r WHERE {condition} AND r.id = ${own}");
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for limit in limits {
        query = query.bind(*limit);
    }
    let row = query.bind(id.as_str()).fetch_optional(&mut **tx).await.map_err(database)?;
    Ok(row.is_some())
}

async fn delete_from(tx: &mut Tx, table: &'static str, id: &DeploymentId) -> Result<()> {
    let sql = format!("DELETE FROM {table} WHERE deployment_id = $1");
    let deleted = sqlx::query(AssertSqlSafe(sql)).bind(id.as_str()).execute(&mut **tx).await;
    deleted.map(drop).map_err(database)
}
