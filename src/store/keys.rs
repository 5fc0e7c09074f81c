//! API keys: shown once, stored hashed.

use launchway_workflows::ids::{ApiKeyId, WorkspaceId};
use sha2::{Digest, Sha256};

use super::{Result, Store, database, get, now_ms, parse};

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
    fn as_str(self) -> &'static str {
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
            .ok_or_else(|| format!("`{text}` is not a role"))
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

impl Store {
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

fn hash(secret: &str) -> String {
    Sha256::digest(secret.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
