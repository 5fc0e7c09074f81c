//! Variables of environments: sealed values, which every deployment copies when
//! it is submitted.

use std::collections::BTreeMap;

use launchway_workflows::{ids::EnvironmentId, model::Sealed};
use sqlx::Row;

use super::{
    Refusal, Result, Store, Tx,
    audit::Act,
    commit, database, get, now_ms,
    submissions::{environment_named, project_of},
};

/// Variables of one environment.
const MAX_VARIABLES: i64 = 200;
/// Characters of all their sealed values: each deployment has a copy.
const MAX_SEALED: i64 = 512 * 1024;

/// A variable as it is shown: never with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableView {
    /// Its name.
    pub name: String,
    /// When it was last set, in milliseconds since the epoch.
    pub updated_at: i64,
}

impl Store {
    /// Sets variables for the deployments to come, all or none. Project and
    /// environment are created on first use. `Err` inside: refused.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn set_variables(
        &self,
        act: Act<'_>,
        project: &str,
        environment: &str,
        variables: &BTreeMap<String, Sealed>,
    ) -> Result<std::result::Result<(), Refusal>> {
        let mut tx = self.write().await?;
        let project_id = match project_of(&mut tx, act.workspace, project).await? {
            Ok((id, _)) => id,
            Err(reason) => return Ok(Err(reason)),
        };
        let id = match environment_named(&mut tx, &project_id, environment).await? {
            Ok(id) => id,
            Err(reason) => return Ok(Err(reason)),
        };
        for (name, value) in variables {
            sqlx::query(
                "INSERT INTO environment_variables (environment_id, name, value, updated_at) \
                 VALUES ($1, $2, $3, $4) ON CONFLICT (environment_id, name) \
                 DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
            )
            .bind(id.as_str())
            .bind(name.as_str())
            .bind(value.0.as_str())
            .bind(now_ms())
            .execute(&mut *tx)
            .await
            .map_err(database)?;
        }
        if let Some(reason) = over_limit(&mut tx, &id).await? {
            return Ok(Err(reason));
        }
        let names: Vec<&str> = variables.keys().map(String::as_str).collect();
        let subject = format!("{project}/{environment}: {}", names.join(" "));
        act.note(&mut tx, "env set", &subject).await?;
        commit(tx).await?;
        Ok(Ok(()))
    }

    /// Removes variables, all or none. `Err` inside: there is none of a name.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn unset_variables(
        &self,
        act: Act<'_>,
        project: &str,
        environment: &str,
        names: &[String],
    ) -> Result<std::result::Result<(), Refusal>> {
        let mut tx = self.write().await?;
        for name in names {
            let removed = sqlx::query(
                "DELETE FROM environment_variables WHERE name = $1 AND environment_id = \
                 (SELECT e.id FROM environments e JOIN projects p ON p.id = e.project_id \
                 WHERE p.workspace_id = $2 AND (p.slug = $3 OR p.id = $3) AND e.slug = $4)",
            )
            .bind(name.as_str())
            .bind(act.workspace.as_str())
            .bind(project)
            .bind(environment)
            .execute(&mut *tx)
            .await
            .map_err(database)?;
            if removed.rows_affected() == 0 {
                return Ok(Err(format!(
                    "environment `{environment}` of project `{project}` has no variable `{name}`: \
                     `launchway env list` shows them; nothing was removed"
                )));
            }
        }
        let subject = format!("{project}/{environment}: {}", names.join(" "));
        act.note(&mut tx, "env unset", &subject).await?;
        commit(tx).await?;
        Ok(Ok(()))
    }

    /// The variables of an environment, by name; none where there is no such
    /// environment.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn variables(
        &self,
        workspace: &launchway_workflows::ids::WorkspaceId,
        project: &str,
        environment: &str,
    ) -> Result<Vec<VariableView>> {
        let rows = sqlx::query(
            "SELECT v.name, v.updated_at FROM environment_variables v \
             JOIN environments e ON e.id = v.environment_id JOIN projects p ON p.id = e.project_id \
             WHERE p.workspace_id = $1 AND (p.slug = $2 OR p.id = $2) AND e.slug = $3 ORDER BY v.name",
        )
        .bind(workspace.as_str())
        .bind(project)
        .bind(environment)
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        rows.iter()
            .map(|row| {
                Ok(VariableView { name: get(row, "name")?, updated_at: get(row, "updated_at")? })
            })
            .collect()
    }
}

async fn over_limit(tx: &mut Tx, environment: &EnvironmentId) -> Result<Option<Refusal>> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS count, CAST(COALESCE(SUM(LENGTH(value)), 0) AS BIGINT) AS size \
         FROM environment_variables WHERE environment_id = $1",
    )
    .bind(environment.as_str())
    .fetch_one(&mut **tx)
    .await
    .map_err(database)?;
    let (count, size): (i64, i64) =
        (row.try_get("count").map_err(database)?, row.try_get("size").map_err(database)?);
    if count > MAX_VARIABLES {
        return Ok(Some(format!(
            "the environment would have {count} variables: give at most {MAX_VARIABLES}, or put them \
             into one file"
        )));
    }
    Ok((size > MAX_SEALED).then(|| {
        let most = MAX_SEALED / 1024;
        format!("the environment's variables would be over {most} KiB together: put large ones into files of the image")
    }))
}

/// What a new deployment of the environment runs with.
pub(super) async fn sealed_variables(
    tx: &mut Tx,
    environment: &EnvironmentId,
) -> Result<BTreeMap<String, Sealed>> {
    let rows =
        sqlx::query("SELECT name, value FROM environment_variables WHERE environment_id = $1")
            .bind(environment.as_str())
            .fetch_all(&mut **tx)
            .await
            .map_err(database)?;
    rows.iter().map(|row| Ok((get(row, "name")?, Sealed(get(row, "value")?)))).collect()
}
