//! Builds by themselves: deployments that end with their image.

use launchway_workflows::{
    ids::{DeploymentId, InvocationId},
    model::Routed,
    ports::{Guarded, Passed, StepRun},
    status::DeploymentStatus,
};

use super::{
    Result, Store, attempts::move_in, commit, database, from_json, get, json, steps::write_end,
};

impl Store {
    /// See `finish_build` of the port.
    pub(super) async fn end_build(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
        passed: &[Passed],
    ) -> Result<Option<Routed>> {
        let mut tx = self.write().await?;
        let row = sqlx::query(
            "SELECT routed, unwinding FROM deployments WHERE id = $1 AND invocation_id = $2",
        )
        .bind(id.as_str())
        .bind(owner.0.as_str())
        .fetch_optional(&mut *tx)
        .await
        .map_err(database)?;
        let Some(row) = row else { return Ok(None) };
        if let Some(done) = get::<Option<String>>(&row, "routed")? {
            return Ok(Some(from_json(&done)?));
        }
        let unwinding = get::<i64>(&row, "unwinding")? != 0;
        let built = DeploymentStatus::Built;
        if unwinding || move_in(&mut tx, id, owner, built).await? == Guarded::Lost {
            return Ok(None);
        }
        for passed in passed {
            let (deployment_id, owner, step) = (id.clone(), owner.clone(), passed.step);
            let run = StepRun { deployment_id, owner, step };
            write_end(&mut *tx, &run, &passed.clone().end()).await?;
        }
        let done = Routed {
            status: built,
            domains: Vec::new(),
            primary: String::new(),
            previous: None,
            withheld: None,
        };
        sqlx::query("UPDATE deployments SET routed = $2 WHERE id = $1")
            .bind(id.as_str())
            .bind(json(&done)?)
            .execute(&mut *tx)
            .await
            .map_err(database)?;
        commit(tx).await?;
        self.changed(id);
        Ok(Some(done))
    }
}
