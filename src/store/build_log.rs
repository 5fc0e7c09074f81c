//! Build output: durable, in order, with a cursor.

use launchway_workflows::{
    ids::DeploymentId,
    ports::{BuildEvent, BuildEventKind, OutputStream},
};
use sqlx::{AssertSqlSafe, Row};

use super::{Result, Store, commit, database};

/// Columns of a row, and rows of one statement: far below what either database
/// takes as parameters.
const COLUMNS: usize = 8;
const ROWS: usize = 64;

impl Store {
    pub(super) async fn append_log(&self, id: &DeploymentId, events: &[BuildEvent]) -> Result<()> {
        let mut tx = self.write().await?;
        // Locks the row, so that numbers are given out in order on Postgres.
        let attempt: i64 =
            sqlx::query("UPDATE deployments SET attempt = attempt WHERE id = $1 RETURNING attempt")
                .bind(id.as_str())
                .fetch_one(&mut *tx)
                .await
                .and_then(|row| row.try_get("attempt"))
                .map_err(database)?;
        let last: Option<i64> =
            sqlx::query("SELECT MAX(line) AS last FROM build_logs WHERE deployment_id = $1")
                .bind(id.as_str())
                .fetch_one(&mut *tx)
                .await
                .and_then(|row| row.try_get("last"))
                .map_err(database)?;
        let mut line = last.unwrap_or(0);
        for rows in events.chunks(ROWS) {
            let mut insert = sqlx::query(AssertSqlSafe(insert_rows(rows.len())));
            for event in rows {
                line += 1;
                let (kind, text, duration) = columns(&event.kind);
                insert = insert
                    .bind(id.as_str())
                    .bind(line)
                    .bind(attempt)
                    .bind(event.at)
                    .bind(event.vertex.as_str())
                    .bind(kind)
                    // Postgres has no NUL in texts.
                    .bind(text.replace('\0', "\u{fffd}"))
                    .bind(duration);
            }
            insert.execute(&mut *tx).await.map_err(database)?;
        }
        commit(tx).await?;
        self.changed(id);
        Ok(())
    }
}

impl Store {
    /// Lines of output that the present attempt has under a vertex.
    pub(super) async fn count_lines(&self, id: &DeploymentId, vertex: &str) -> Result<u64> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS count FROM build_logs WHERE deployment_id = $1 AND vertex = $2 \
             AND kind IN ('stdout', 'stdout-part', 'stderr', 'stderr-part') \
             AND attempt = (SELECT attempt FROM deployments WHERE id = $1)",
        )
        .bind(id.as_str())
        .bind(vertex)
        .fetch_one(&self.pool)
        .await
        .map_err(database)?;
        let count: i64 = row.try_get("count").map_err(database)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

/// One statement for several rows: a build prints faster than one by one is
/// written.
fn insert_rows(rows: usize) -> String {
    let values: Vec<String> = (0..rows)
        .map(|row| {
            let numbers: Vec<String> =
                (1..=COLUMNS).map(|column| format!("${}", row * COLUMNS + column)).collect();
            format!("({})", numbers.join(", "))
        })
        .collect();
    format!(
        "INSERT INTO build_logs (deployment_id, line, attempt, at, vertex, kind, text, duration_ms) \
         VALUES {}",
        values.join(", ")
    )
}

fn kind_of(stream: OutputStream, ends: bool) -> &'static str {
    match (stream, ends) {
        (OutputStream::Stdout, true) => "stdout",
        (OutputStream::Stdout, false) => "stdout-part",
        (OutputStream::Stderr, true) => "stderr",
        (OutputStream::Stderr, false) => "stderr-part",
    }
}

fn columns(kind: &BuildEventKind) -> (&'static str, &str, i64) {
    match kind {
        BuildEventKind::Started => ("vertex-started", "", 0),
        BuildEventKind::Done { duration_ms } => ("vertex-done", "", *duration_ms),
        BuildEventKind::Cached => ("vertex-cached", "", 0),
        BuildEventKind::Failed { duration_ms, error } => ("vertex-failed", error, *duration_ms),
        BuildEventKind::Output { stream, text, ends } => (kind_of(*stream, *ends), text, 0),
    }
}
