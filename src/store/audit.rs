//! Who did what: appended in the transaction that does it, never changed.

use launchway_workflows::ids::{ApiKeyId, WorkspaceId};

use super::{Result, Store, Tx, commit, database, get, now_ms};

/// Something that a key's holder does.
#[derive(Debug, Clone, Copy)]
pub struct Act<'a> {
    /// In which workspace.
    pub workspace: &'a WorkspaceId,
    /// Whose key was used.
    pub actor: &'a ApiKeyId,
}

impl Act<'_> {
    /// `action` as in `env set`; `subject` is what it was done to, without any
    /// secret.
    pub(super) async fn note(&self, tx: &mut Tx, action: &str, subject: &str) -> Result<()> {
        sqlx::query(
            "INSERT INTO audit_log (id, at, workspace_id, actor, action, subject) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(uuid::Uuid::now_v7().to_string())
        .bind(now_ms())
        .bind(self.workspace.as_str())
        .bind(self.actor.as_str())
        .bind(action)
        .bind(subject)
        .execute(&mut **tx)
        .await
        .map_err(database)?;
        Ok(())
    }
}

impl Store {
    /// Notes what was done by somebody else on the caller's behalf, such as a
    /// workflow.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn note_act(&self, act: Act<'_>, action: &str, subject: &str) -> Result<()> {
        let mut tx = self.write().await?;
        act.note(&mut tx, action, subject).await?;
        commit(tx).await
    }
}

/// What was noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Milliseconds since the epoch.
    pub at: i64,
    /// Whose key was used.
    pub actor: String,
    /// As in `env set`.
    pub action: String,
    /// What it was done to.
    pub subject: String,
}

impl Store {
    /// The workspace's record, oldest first.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn audit(&self, workspace: &WorkspaceId) -> Result<Vec<AuditRow>> {
        let rows = sqlx::query(
            "SELECT at, actor, action, subject FROM audit_log WHERE workspace_id = $1 ORDER BY at, id",
        )
        .bind(workspace.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        rows.iter()
            .map(|row| {
                Ok(AuditRow {
                    at: get(row, "at")?,
                    actor: get(row, "actor")?,
                    action: get(row, "action")?,
                    subject: get(row, "subject")?,
                })
            })
            .collect()
    }
}
