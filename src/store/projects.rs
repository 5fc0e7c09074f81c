//! Projects with their environments.

use launchway_workflows::ids::{DeploymentId, WorkspaceId};
use sqlx::any::AnyRow;

use super::{Result, Store, database, get, optional_id};

/// A project, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectView {
    /// `prj_…`
    pub id: String,
    /// Its name.
    pub slug: String,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// By name.
    pub environments: Vec<EnvironmentView>,
}

/// An environment, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentView {
    /// Its name.
    pub slug: String,
    /// What it serves.
    pub live: Option<DeploymentId>,
    /// A rollback has pinned it there.
    pub pinned: bool,
    /// Its hostname, once it has one.
    pub domain: Option<String>,
}

impl Store {
    /// The workspace's projects, by name.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn projects(&self, workspace: &WorkspaceId) -> Result<Vec<ProjectView>> {
        let rows = sqlx::query(
            "SELECT p.id, p.slug, p.created_at, e.slug AS environment, e.live_deployment_id, \
             e.pinned_deployment_id, (SELECT m.name FROM domains m WHERE m.environment_id = e.id \
             AND m.kind = 'environment') AS domain \
             FROM projects p LEFT JOIN environments e ON e.project_id = p.id \
             WHERE p.workspace_id = $1 ORDER BY p.slug, e.slug",
        )
        .bind(workspace.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        let mut projects: Vec<ProjectView> = Vec::new();
        for row in &rows {
            let id: String = get(row, "id")?;
            if projects.last().is_none_or(|last| last.id != id) {
                let (slug, created_at) = (get(row, "slug")?, get(row, "created_at")?);
                projects.push(ProjectView { id, slug, created_at, environments: Vec::new() });
            }
            if let (Some(project), Some(environment)) = (projects.last_mut(), environment(row)?) {
                project.environments.push(environment);
            }
        }
        Ok(projects)
    }
}

/// `None`: the project has none.
fn environment(row: &AnyRow) -> Result<Option<EnvironmentView>> {
    let Some(slug) = get(row, "environment")? else { return Ok(None) };
    Ok(Some(EnvironmentView {
        slug,
        live: optional_id(row, "live_deployment_id")?,
        pinned: optional_id(row, "pinned_deployment_id")?.is_some(),
        domain: get(row, "domain")?,
    }))
}
