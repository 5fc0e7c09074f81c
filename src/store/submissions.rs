//! New deployments, their projects and environments.

use launchway_workflows::{
    ids::{DeploymentId, EnvironmentId, ProjectId, WorkspaceId},
    model::{NewDeployment, Purpose, QueuePolicy, Source, Submission},
    names::check_slug,
};
use sqlx::Row;

use super::{
    Refusal, Result, Store, Tx, commit, database, get, json, now_ms, parse, scales::default_scales,
    variables::sealed_variables,
};

/// Longest project slug: hostnames begin with it.
const MAX_PROJECT: usize = 30;
/// Longest environment slug.
const MAX_ENVIRONMENT: usize = 20;

impl Store {
    /// Makes sure the workspace has its row.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn ensure_workspace(&self, id: &WorkspaceId) -> Result<()> {
        sqlx::query(
            "INSERT INTO workspaces (id, created_at) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING",
        )
        .bind(id.as_str())
        .bind(now_ms())
        .execute(&self.writer)
        .await
        .map_err(database)?;
        Ok(())
    }

    /// The project of a slug (created on first use) or of a `prj_` id (which
    /// must exist). `Err` inside: refused, with the sentence for the caller.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn ensure_project(
        &self,
        workspace: &WorkspaceId,
        slug_or_id: &str,
    ) -> Result<std::result::Result<ProjectId, Refusal>> {
        let mut tx = self.write().await?;
        let project = project_of(&mut tx, workspace, slug_or_id).await?;
        commit(tx).await?;
        Ok(project.map(|(id, _)| id))
    }

    pub(super) async fn submit(&self, new: &NewDeployment) -> Result<Submission> {
        let mut tx = self.write().await?;
        if let Some(existing) = existing(&mut tx, new).await? {
            return Ok(existing);
        }
        if let Source::BuildContext(context) = &new.source
            && is_removed(&mut tx, &context.build_context_path).await?
        {
            let reason = format!(
                "the build context `{}` was removed, for it was kept as long as `retention.sources` says: \
                 deploy the directory again",
                context.build_context_path
            );
            return Ok(Submission::Refused { reason, conflict: true });
        }
        let (project, default_branch) =
            match project_of(&mut tx, &new.workspace_id, &new.project).await? {
                Ok(project) => project,
                Err(reason) => return Ok(Submission::Refused { reason, conflict: false }),
            };
        let environment = match environment_named(&mut tx, &project, &new.environment).await? {
            Ok(environment) => environment,
            Err(reason) => return Ok(Submission::Refused { reason, conflict: false }),
        };
        if let Some(policy) = new.queue_policy {
            set_queue_policy(&mut tx, &project, policy).await?;
        }
        let branch = if new.branch.is_empty() { default_branch } else { new.branch.clone() };
        if insert(&mut tx, new, &project, &environment, &branch).await? {
            commit(tx).await?;
            self.changed(&new.id);
            return Ok(Submission::Created { deployment_id: new.id.clone() });
        }
        // Postgres: another transaction has inserted the key since we looked.
        match existing(&mut tx, new).await? {
            Some(existing) => Ok(existing),
            None => Err(database(sqlx::Error::RowNotFound)),
        }
    }
}

/// By the janitor, which does so only with what nothing needs.
async fn is_removed(tx: &mut Tx, context: &str) -> Result<bool> {
    let row = sqlx::query("SELECT object_key FROM removed_contexts WHERE object_key = $1")
        .bind(context)
        .fetch_optional(&mut **tx)
        .await
        .map_err(database)?;
    Ok(row.is_some())
}

async fn existing(tx: &mut Tx, new: &NewDeployment) -> Result<Option<Submission>> {
    let row = sqlx::query(
        "SELECT id, status, content_hash, submitted_by, purpose FROM deployments WHERE workspace_id = $1 AND idempotency_key = $2",
    )
    .bind(new.workspace_id.as_str())
    .bind(new.idempotency_key.as_str())
    .fetch_optional(&mut **tx)
    .await
    .map_err(database)?;
    let Some(row) = row else { return Ok(None) };
    let deployment_id: DeploymentId = parse(&row, "id")?;
    let hash: String = get(&row, "content_hash")?;
    // A re-executed insert finds its own row: that is its creation.
    if get::<String>(&row, "submitted_by")? == new.submitted_by.0 {
        return Ok(Some(Submission::Created { deployment_id }));
    }
    let purpose: Purpose = parse(&row, "purpose")?;
    if purpose != new.purpose {
        let reason = format!(
            "idempotency key `{}` belongs to {deployment_id}, which is a {}: use a new key",
            new.idempotency_key,
            purpose.noun()
        );
        return Ok(Some(Submission::Refused { reason, conflict: true }));
    }
    if !hash.is_empty() && !new.content_hash.is_empty() && hash != new.content_hash {
        let reason = format!(
            "idempotency key `{}` belongs to deployment {deployment_id} with other content: use a new key",
            new.idempotency_key
        );
        return Ok(Some(Submission::Refused { reason, conflict: true }));
    }
    Ok(Some(Submission::Existing { deployment_id, status: parse(&row, "status")? }))
}

pub(super) async fn project_of(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    slug_or_id: &str,
) -> Result<std::result::Result<(ProjectId, String), Refusal>> {
    let by_id = slug_or_id.starts_with("prj_");
    if by_id {
        if let Err(error) = slug_or_id.parse::<ProjectId>() {
            return Ok(Err(error.to_string()));
        }
    } else if let Err(error) = check_slug("project", slug_or_id, MAX_PROJECT) {
        return Ok(Err(error.to_string()));
    } else {
        sqlx::query(
            "INSERT INTO projects (id, workspace_id, slug, created_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (workspace_id, slug) DO NOTHING",
        )
        .bind(ProjectId::generate().to_string())
        .bind(workspace.as_str())
        .bind(slug_or_id)
        .bind(now_ms())
        .execute(&mut **tx)
        .await
        .map_err(database)?;
    }
    let row = sqlx::query(
        "SELECT id, default_branch FROM projects WHERE workspace_id = $1 AND (id = $2 OR slug = $2)",
    )
    .bind(workspace.as_str())
    .bind(slug_or_id)
    .fetch_optional(&mut **tx)
    .await
    .map_err(database)?;
    Ok(match row {
        Some(row) => Ok((parse(&row, "id")?, get(&row, "default_branch")?)),
        None => Err(format!(
            "there is no project `{slug_or_id}`: give a project's slug, or the id of one that exists"
        )),
    })
}

async fn set_queue_policy(tx: &mut Tx, project: &ProjectId, policy: QueuePolicy) -> Result<()> {
    sqlx::query("UPDATE projects SET queue_policy = $2 WHERE id = $1")
        .bind(project.as_str())
        .bind(policy.as_str())
        .execute(&mut **tx)
        .await
        .map_err(database)?;
    Ok(())
}

/// The environment of a project, created on first use. `Err` inside: the name is
/// refused.
pub(super) async fn environment_named(
    tx: &mut Tx,
    project: &ProjectId,
    slug: &str,
) -> Result<std::result::Result<EnvironmentId, Refusal>> {
    if let Err(error) = check_slug("environment", slug, MAX_ENVIRONMENT) {
        return Ok(Err(error.to_string()));
    }
    sqlx::query(
        "INSERT INTO environments (id, project_id, slug, created_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (project_id, slug) DO NOTHING",
    )
    .bind(EnvironmentId::generate().to_string())
    .bind(project.as_str())
    .bind(slug)
    .bind(now_ms())
    .execute(&mut **tx)
    .await
    .map_err(database)?;
    let row = sqlx::query("SELECT id FROM environments WHERE project_id = $1 AND slug = $2")
        .bind(project.as_str())
        .bind(slug)
        .fetch_one(&mut **tx)
        .await
        .map_err(database)?;
    parse(&row, "id").map(Ok)
}

/// False when the key was taken meanwhile.
async fn insert(
    tx: &mut Tx,
    new: &NewDeployment,
    project: &ProjectId,
    environment: &EnvironmentId,
    branch: &str,
) -> Result<bool> {
    let sequence: i64 = sqlx::query(
        "UPDATE environments SET next_sequence = next_sequence + 1 WHERE id = $1 \
         RETURNING next_sequence - 1 AS sequence",
    )
    .bind(environment.as_str())
    .fetch_one(&mut **tx)
    .await
    .and_then(|row| row.try_get("sequence"))
    .map_err(database)?;
    // What it runs with is settled here: what is changed later is for later ones.
    let run = new.run.clone().with_defaults(&default_scales(tx, environment).await?);
    let variables = sealed_variables(tx, environment).await?;
    let now = now_ms();
    let inserted = sqlx::query(
        "INSERT INTO deployments (id, workspace_id, project_id, environment_id, sequence, build_id, \
         idempotency_key, content_hash, branch, source, git_commit, build_options, run_options, status, \
         submitted_by, purpose, variables, idle_timeout_ms, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'pending', $15, $16, $17, $18, $14, $14) \
         ON CONFLICT (workspace_id, idempotency_key) DO NOTHING",
    )
    .bind(new.id.as_str())
    .bind(new.workspace_id.as_str())
    .bind(project.as_str())
    .bind(environment.as_str())
    .bind(sequence)
    .bind(new.build_id.as_str())
    .bind(new.idempotency_key.as_str())
    .bind(new.content_hash.as_str())
    .bind(branch)
    .bind(json(&new.source)?)
    .bind(new.git_commit.as_ref().map(json).transpose()?)
    .bind(json(&new.build)?)
    .bind(json(&run)?)
    .bind(now)
    .bind(new.submitted_by.0.as_str())
    .bind(new.purpose.as_str())
    .bind(json(&variables)?)
    .bind(run.idle_timeout_ms.map(i64::from))
    .execute(&mut **tx)
    .await
    .map_err(database)?;
    Ok(inserted.rows_affected() == 1)
}
