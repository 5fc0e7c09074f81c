//! API keys: shown once, stored hashed.

use launchway_workflows::ids::{ApiKeyId, WorkspaceId};
use sha2::{Digest, Sha256};

use sqlx::any::AnyRow;

use super::{Refusal, Result, Store, audit::Act, commit, database, get, now_ms, parse};

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Read,
    /// Look and deploy.
    Deploy,
    /// Everything.
    Admin,
}

impl Role {
    /// The name in the database and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Deploy => "deploy",
            Role::Admin => "admin",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        [Role::Read, Role::Deploy, Role::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a role: give admin, deploy or read"))
    }
}

/// A key as the database knows it.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Its public id.
    pub id: ApiKeyId,
    /// Whose.
    pub workspace_id: WorkspaceId,
    /// What it may do.
    pub role: Role,
}

/// A key as it is shown: never with its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyView {
    /// Its public id.
    pub id: ApiKeyId,
    /// What it is for, as its maker has said.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// The same; `None`: it is good.
    pub revoked_at: Option<i64>,
}

impl Store {
    /// Makes a key of a new secret.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn create_api_key(
        &self,
        act: Act<'_>,
        role: Role,
        name: &str,
        secret: &str,
    ) -> Result<ApiKeyView> {
        let id = ApiKeyId::generate();
        let created_at = now_ms();
        let mut tx = self.write().await?;
        sqlx::query(
            "INSERT INTO api_keys (id, workspace_id, role, name, secret_sha256, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(id.as_str())
        .bind(act.workspace.as_str())
        .bind(role.as_str())
        .bind(name)
        .bind(hash(secret))
        .bind(created_at)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        act.note(&mut tx, "keys create", &format!("{id} ({})", role.as_str())).await?;
        commit(tx).await?;
        Ok(ApiKeyView { id, name: name.to_owned(), role, created_at, revoked_at: None })
    }

    /// The workspace's keys, newest first.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn api_keys(&self, workspace: &WorkspaceId) -> Result<Vec<ApiKeyView>> {
        let rows = sqlx::query(
            "SELECT id, name, role, created_at, revoked_at FROM api_keys WHERE workspace_id = $1 \
             ORDER BY created_at DESC, id DESC",
        )
        .bind(workspace.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        rows.iter().map(view).collect()
    }

    /// Ends a key for good; one that is revoked already stays so. `Err` inside:
    /// refused.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn revoke_api_key(
        &self,
        act: Act<'_>,
        id: &ApiKeyId,
    ) -> Result<std::result::Result<(), Refusal>> {
        let mut tx = self.write().await?;
        // Locked on Postgres: two last ones must not revoke each other.
        let rows = sqlx::query(
            "UPDATE api_keys SET role = role WHERE workspace_id = $1 AND (id = $2 OR role = 'admin') \
             RETURNING id, name, role, created_at, revoked_at",
        )
        .bind(act.workspace.as_str())
        .bind(id.as_str())
        .fetch_all(&mut *tx)
        .await
        .map_err(database)?;
        let keys: Vec<ApiKeyView> = rows.iter().map(view).collect::<Result<_>>()?;
        if !keys.iter().any(|key| key.id == *id) {
            return Ok(Err(format!(
                "there is no API key `{id}`: `launchway keys list` shows them"
            )));
        }
        let mut good: Vec<_> =
            keys.iter().filter(|key| key.role == Role::Admin && key.revoked_at.is_none()).collect();
        let count = good.len();
        good.retain(|key| key.id != *id);
        if good.is_empty() && count > 0 {
            return Ok(Err(format!(
                "`{id}` is the last admin key: without one no key can be made any more; create another \
                 one first with `launchway keys create --role admin`"
            )));
        }
        sqlx::query("UPDATE api_keys SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1")
            .bind(id.as_str())
            .bind(now_ms())
            .execute(&mut *tx)
            .await
            .map_err(database)?;
        act.note(&mut tx, "keys revoke", id.as_str()).await?;
        commit(tx).await?;
        Ok(Ok(()))
    }

    /// Notes a key by the hash of its secret. A known secret changes nothing.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn add_api_key(
        &self,
        workspace: &WorkspaceId,
        role: Role,
        secret: &str,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO api_keys (id, workspace_id, role, secret_sha256, created_at) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (secret_sha256) DO NOTHING",
        )
        .bind(ApiKeyId::generate().to_string())
        .bind(workspace.as_str())
        .bind(role.as_str())
        .bind(hash(secret))
        .bind(now_ms())
        .execute(&self.writer)
        .await
        .map_err(database)?;
        Ok(())
    }

    /// The key of a secret, unless revoked. Looked up by its hash: how long
    /// that takes says nothing about a secret that is not known.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn api_key(&self, secret: &str) -> Result<Option<ApiKey>> {
        let row = sqlx::query(
            "SELECT id, workspace_id, role FROM api_keys WHERE secret_sha256 = $1 AND revoked_at IS NULL",
        )
        .bind(hash(secret))
        .fetch_optional(&self.pool)
        .await
        .map_err(database)?;
        row.map(|row| {
            let workspace: String = get(&row, "workspace_id")?;
            let workspace_id = WorkspaceId::try_from(workspace)
                .map_err(|error| launchway_workflows::ports::StoreError(error.to_string()))?;
            Ok(ApiKey { id: parse(&row, "id")?, workspace_id, role: parse(&row, "role")? })
        })
        .transpose()
    }
}

fn view(row: &AnyRow) -> Result<ApiKeyView> {
    Ok(ApiKeyView {
        id: parse(row, "id")?,
        name: get(row, "name")?,
        role: parse(row, "role")?,
        created_at: get(row, "created_at")?,
        revoked_at: get(row, "revoked_at")?,
    })
}

fn hash(secret: &str) -> String {
    Sha256::digest(secret.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
