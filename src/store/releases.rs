//! Moving an environment to another of its deployments.

use launchway_workflows::{
    ids::{DeploymentId, WorkspaceId},
    model::Source,
    ports::{ReleaseStart, ReleaseTarget, StoreError},
    services::{
        release::{ReleaseKind, ReleaseRequest},
        routing::{SwapRequest, Swapped},
    },
    status::DeploymentStatus,
};

use super::{
    Result, Store, Tx,
    attempts::read_plan,
    commit, database, get, now_ms, optional_id, parse,
    retries::image_of,
    routes::{demote, lock_environment},
};

/// The target and its environment, locked.
struct Target {
    environment_id: String,
    sequence: i64,
    status: DeploymentStatus,
    stops: i64,
    live: Option<DeploymentId>,
    pinned: Option<DeploymentId>,
    /// Its image was past its retention.
    image_given_up: bool,
    /// Its instances are stopped for want of requests, or about to be, or start.
    evicted: bool,
}

impl Target {
    /// Why the environment may not move there, for people.
    fn refusal(&self, request: &ReleaseRequest) -> Option<String> {
        let (id, status) = (&request.target_deployment_id, self.status);
        let live = self.live.as_ref().map(ToString::to_string).unwrap_or_default();
        if let Some(source) = &request.source_deployment_id
            && self.live.as_ref() != Some(source)
        {
            return Some(format!(
                "`{source}` is not live in the environment of `{id}`: `{live}` is; give its environment and project"
            ));
        }
        let is_live = self.live.as_ref() == Some(id);
        match (request.kind, status) {
            (ReleaseKind::Promote, _) if is_live && (self.pinned.is_some() || self.evicted) => None,
            _ if is_live => Some(format!("`{id}` is live already: there is nothing to move")),
            (_, DeploymentStatus::Retired) if self.image_given_up => Some(format!(
                "the image of `{id}` was removed, for it retired longer ago than `retention` keeps: \
                 `launchway redeploy {id}` builds it again where its source is still there"
            )),
            (_, DeploymentStatus::Ready | DeploymentStatus::Retired) => None,
            _ => Some(format!(
                "`{id}` is {status}: only a deployment that was healthy once (ready or retired) can be live again"
            )),
        }
    }
}

impl Store {
    /// The deployment that was live before the present one, for a rollback
    /// without a target. `None`: there is none that could be live again.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn previous_live(
        &self,
        workspace: &WorkspaceId,
        project: &str,
        environment: &str,
    ) -> Result<Option<DeploymentId>> {
        let row = sqlx::query(
            "SELECT d.id FROM deployments d JOIN projects p ON p.id = d.project_id \
             JOIN environments e ON e.id = d.environment_id \
             WHERE d.workspace_id = $1 AND (p.slug = $2 OR p.id = $2) AND e.slug = $3 \
             AND d.id <> COALESCE(e.live_deployment_id, '') AND d.live_at IS NOT NULL \
             AND d.image_given_up_at IS NULL AND d.status IN ('ready', 'retiring', 'retired') ORDER BY d.live_at DESC LIMIT 1",
        )
        .bind(workspace.as_str())
        .bind(project)
        .bind(environment)
        .fetch_optional(&self.pool)
        .await
        .map_err(database)?;
        row.map(|row| parse(&row, "id")).transpose()
    }

    pub(super) async fn start_release(&self, request: &ReleaseRequest) -> Result<ReleaseStart> {
        let mut tx = self.write().await?;
        let Some(target) = lock(&mut tx, &request.target_deployment_id).await? else {
            let reason = format!("there is no deployment `{}`", request.target_deployment_id);
            return Ok(ReleaseStart::Refused(reason));
        };
        // Seconds only: tried again until it is retired, and then started anew.
        if target.status == DeploymentStatus::Retiring {
            return Err(StoreError(format!("`{}` is being retired", request.target_deployment_id)));
        }
        if let Some(reason) = target.refusal(request) {
            return Ok(ReleaseStart::Refused(reason));
        }
        sqlx::query(
            "UPDATE deployments SET retire_generation = retire_generation + 1, updated_at = $2, active_at = $2 WHERE id = $1",
        )
        .bind(request.target_deployment_id.as_str())
        // Wanted again: nothing of it is past its retention now, nor is it idle.
        .bind(now_ms())
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        let plan = read_plan(&mut tx, &request.target_deployment_id).await?;
        let image = image(&mut tx, &request.target_deployment_id, &plan.source).await?;
        commit(tx).await?;
        let retired = target.status == DeploymentStatus::Retired;
        Ok(ReleaseStart::Begun(Box::new(ReleaseTarget {
            plan,
            image,
            retired,
            evicted: target.evicted,
            stops: target.stops,
        })))
    }

    pub(super) async fn swap(&self, swap: &SwapRequest) -> Result<Swapped> {
        let request = &swap.release;
        let mut tx = self.write().await?;
        let id = &request.target_deployment_id;
        let Some(target) = lock(&mut tx, id).await? else {
            return Ok(Swapped::Refused(format!("there is no deployment `{id}`")));
        };
        let pin = (request.kind == ReleaseKind::Rollback).then_some(id);
        // A swap whose answer was lost finds itself done.
        if target.live.as_ref() == Some(id) && target.pinned.as_ref() == pin {
            let domain = domain_of(&mut tx, &target).await?;
            let previous = live_before(&mut tx, &target).await?;
            return Ok(Swapped::Done { domain, previous });
        }
        if target.status == DeploymentStatus::Retiring || target.stops != swap.stops {
            return Ok(Swapped::Again);
        }
        if let Some(reason) = target.refusal(request) {
            return Ok(Swapped::Refused(reason));
        }
        let previous = target.live.clone().filter(|live| live != id);
        move_environment(&mut tx, id, &target, previous.as_ref(), pin).await?;
        let domain = domain_of(&mut tx, &target).await?;
        commit(tx).await?;
        self.changed(id);
        previous.iter().for_each(|previous| self.changed(previous));
        self.routes_changed(id);
        Ok(Swapped::Done { domain, previous })
    }
}

async fn lock(tx: &mut Tx, id: &DeploymentId) -> Result<Option<Target>> {
    lock_environment(tx, id).await?;
    let row = sqlx::query(
        "SELECT d.status, d.stops, d.sequence, d.image_given_up_at, d.eviction, d.environment_id, e.live_deployment_id, e.pinned_deployment_id \
         FROM deployments d JOIN environments e ON e.id = d.environment_id WHERE d.id = $1",
    )
    .bind(id.as_str())
    .fetch_optional(&mut **tx)
    .await
    .map_err(database)?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Target {
        environment_id: get(&row, "environment_id")?,
        sequence: get(&row, "sequence")?,
        status: parse(&row, "status")?,
        stops: get(&row, "stops")?,
        live: optional_id(&row, "live_deployment_id")?,
        pinned: optional_id(&row, "pinned_deployment_id")?,
        image_given_up: get::<Option<i64>>(&row, "image_given_up_at")?.is_some(),
        evicted: get::<Option<String>>(&row, "eviction")?.is_some(),
    }))
}

pub(super) async fn image(tx: &mut Tx, id: &DeploymentId, source: &Source) -> Result<String> {
    let row = sqlx::query(
        "SELECT image_reference, image_digest, image_local_only FROM deployments WHERE id = $1",
    )
    .bind(id.as_str())
    .fetch_one(&mut **tx)
    .await
    .map_err(database)?;
    match (image_of(&row)?, source) {
        (Some(image), _) => Ok(image.pinned()),
        (None, Source::DockerImage(reference)) => Ok(reference.clone()),
        (None, Source::BuildContext(_)) => {
            Err(StoreError(format!("deployment `{id}` has no image")))
        }
    }
}

/// What was live before that which is live now.
async fn live_before(tx: &mut Tx, target: &Target) -> Result<Option<DeploymentId>> {
    let row = sqlx::query(
        "SELECT d.id FROM deployments d JOIN environments e ON e.id = d.environment_id \
         WHERE e.id = $1 AND d.id <> e.live_deployment_id AND d.live_at IS NOT NULL \
         ORDER BY d.live_at DESC LIMIT 1",
    )
    .bind(target.environment_id.as_str())
    .fetch_optional(&mut **tx)
    .await
    .map_err(database)?;
    row.map(|row| parse(&row, "id")).transpose()
}

async fn domain_of(tx: &mut Tx, target: &Target) -> Result<String> {
    let row =
        sqlx::query("SELECT name FROM domains WHERE environment_id = $1 AND kind = 'environment'")
            .bind(target.environment_id.as_str())
            .fetch_optional(&mut **tx)
            .await
            .map_err(database)?;
    row.map(|row| get(&row, "name")).transpose().map(Option::unwrap_or_default)
}

async fn move_environment(
    tx: &mut Tx,
    id: &DeploymentId,
    target: &Target,
    previous: Option<&DeploymentId>,
    pin: Option<&DeploymentId>,
) -> Result<()> {
    let now = now_ms();
    sqlx::query(
        "UPDATE domains SET deployment_id = $2, sequence = $3, updated_at = $4 \
         WHERE environment_id = $1 AND kind IN ('environment', 'live')",
    )
    .bind(target.environment_id.as_str())
    .bind(id.as_str())
    .bind(target.sequence)
    .bind(now)
    .execute(&mut **tx)
    .await
    .map_err(database)?;
    sqlx::query(
        "UPDATE environments SET live_deployment_id = $2, live_sequence = $3, \
         pinned_deployment_id = $4 WHERE id = $1",
    )
    .bind(target.environment_id.as_str())
    .bind(id.as_str())
    .bind(target.sequence)
    .bind(pin.map(DeploymentId::as_str))
    .execute(&mut **tx)
    .await
    .map_err(database)?;
    sqlx::query(
        "UPDATE deployments SET status = 'live', live_at = $2, updated_at = $2, active_at = $2, \
         retire_generation = retire_generation + 1 WHERE id = $1",
    )
    .bind(id.as_str())
    .bind(now)
    .execute(&mut **tx)
    .await
    .map_err(database)?;
    match previous {
        Some(previous) => demote(tx, previous).await,
        None => Ok(()),
    }
}
