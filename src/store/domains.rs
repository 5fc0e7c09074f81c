//! Custom hostnames: they follow what is live in their environment.

use launchway_workflows::{
    ids::{DeploymentId, WorkspaceId},
    model::DomainKind,
};
use sqlx::any::AnyRow;

use super::{Refusal, Result, Store, commit, database, get, now_ms, optional_id, parse};

/// Most that one question answers with.
const LIMIT: i64 = 1000;

/// A hostname, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainView {
    /// Lower case, without port.
    pub name: String,
    /// What it follows.
    pub kind: DomainKind,
    /// Its project.
    pub project_slug: String,
    /// Its environment.
    pub environment_slug: String,
    /// What answers for it now.
    pub deployment_id: DeploymentId,
}

const COLUMNS: &str = "SELECT m.name, m.kind, m.deployment_id, p.slug AS project_slug, \
    e.slug AS environment_slug FROM domains m JOIN projects p ON p.id = m.project_id \
    JOIN environments e ON e.id = m.environment_id";

impl Store {
    /// Points a custom hostname at what is live in the environment, and at
    /// whatever will be. `Err` inside: refused.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn add_domain(
        &self,
        workspace: &WorkspaceId,
        project: &str,
        environment: &str,
        name: &str,
    ) -> Result<std::result::Result<DomainView, Refusal>> {
        let mut tx = self.write().await?;
        // Locked: a commit moves the environment's domains before or after.
        let found = sqlx::query(
            "UPDATE environments SET live_sequence = live_sequence WHERE id = \
             (SELECT e.id FROM environments e JOIN projects p ON p.id = e.project_id \
             WHERE p.workspace_id = $1 AND (p.slug = $2 OR p.id = $2) AND e.slug = $3) \
             RETURNING id, project_id, live_deployment_id, live_sequence",
        )
        .bind(workspace.as_str())
        .bind(project)
        .bind(environment)
        .fetch_optional(&mut *tx)
        .await
        .map_err(database)?;
        let live = match &found {
            Some(row) => optional_id(row, "live_deployment_id")?,
            None => None,
        };
        let (Some(row), Some(live)) = (found, live) else {
            return Ok(Err(format!(
                "nothing is live in environment `{environment}` of project `{project}`: deploy it, then add `{name}`"
            )));
        };
        sqlx::query(
            "INSERT INTO domains (name, kind, owner, project_id, environment_id, deployment_id, \
             sequence, created_at, updated_at) VALUES ($1, $2, $1, $3, $4, $5, $6, $7, $7) \
             ON CONFLICT DO NOTHING",
        )
        .bind(name)
        .bind(DomainKind::Live.as_str())
        .bind(get::<String>(&row, "project_id")?)
        .bind(get::<String>(&row, "id")?)
        .bind(live.as_str())
        .bind(get::<i64>(&row, "live_sequence")?)
        .bind(now_ms())
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        let of = sqlx::query("SELECT environment_id FROM domains WHERE name = $1")
            .bind(name)
            .fetch_one(&mut *tx)
            .await
            .map_err(database)?;
        if get::<String>(&of, "environment_id")? != get::<String>(&row, "id")? {
            return Ok(Err(format!(
                "`{name}` belongs to another environment: remove it there with `launchway domains remove {name}`"
            )));
        }
        let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE m.name = $1"));
        let added = sqlx::query(sql).bind(name).fetch_one(&mut *tx).await.map_err(database)?;
        let added = view(&added)?;
        commit(tx).await?;
        self.changed(&live);
        self.routes_changed(&live);
        Ok(Ok(added))
    }

    /// Removes a custom hostname of the workspace. False: there is none.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn remove_domain(&self, workspace: &WorkspaceId, name: &str) -> Result<bool> {
        let removed = sqlx::query(
            "DELETE FROM domains WHERE name = $1 AND kind = $2 AND project_id IN \
             (SELECT id FROM projects WHERE workspace_id = $3) RETURNING deployment_id",
        )
        .bind(name)
        .bind(DomainKind::Live.as_str())
        .bind(workspace.as_str())
        .fetch_optional(&self.writer)
        .await
        .map_err(database)?;
        let Some(row) = removed else { return Ok(false) };
        let target = parse(&row, "deployment_id")?;
        self.changed(&target);
        self.routes_changed(&target);
        Ok(true)
    }

    /// Hostnames of the workspace, those that moved last first; `""`: of every
    /// project, every environment.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn domains(
        &self,
        workspace: &WorkspaceId,
        project: &str,
        environment: &str,
    ) -> Result<Vec<DomainView>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE p.workspace_id = $1 AND ($2 = '' OR p.slug = $2 OR p.id = $2) \
             AND ($3 = '' OR e.slug = $3) ORDER BY m.updated_at DESC, m.name LIMIT $4"
        ));
        let rows = sqlx::query(sql)
            .bind(workspace.as_str())
            .bind(project)
            .bind(environment)
            .bind(LIMIT)
            .fetch_all(&self.pool)
            .await
            .map_err(database)?;
        rows.iter().map(view).collect()
    }
}

fn view(row: &AnyRow) -> Result<DomainView> {
    Ok(DomainView {
        name: get(row, "name")?,
        kind: parse(row, "kind")?,
        project_slug: get(row, "project_slug")?,
        environment_slug: get(row, "environment_slug")?,
        deployment_id: parse(row, "deployment_id")?,
    })
}
