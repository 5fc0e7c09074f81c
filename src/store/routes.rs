//! The commit point: domains, live pointer and status in one transaction.

use launchway_workflows::{
    ids::{DeploymentId, InvocationId},
    model::{DomainClaim, DomainKind, Routed},
    ports::{EvictionState, Guarded, StepEnd, StepRun},
    status::DeploymentStatus,
    step::Step,
};

use sqlx::{AssertSqlSafe, any::AnyRow};

use super::{
    Result, Store, Tx,
    attempts::move_in,
    commit, database,
    evictions::eviction_state,
    from_json, get, json, now_ms, optional_id, parse,
    scales::{Drained, drained},
    steps::write_end,
};

/// A hostname and the deployment that answers for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRow {
    /// Lower case, without port.
    pub host: String,
    /// Who answers.
    pub deployment_id: DeploymentId,
    /// Whether it still runs.
    pub status: DeploymentStatus,
    /// Whether its instances are stopped for want of requests.
    pub eviction: Option<EvictionState>,
    /// And the last try to start them has failed.
    pub start_failed: bool,
    /// Instances of it that are about to be stopped.
    pub drained: Option<Drained>,
}

const ROUTES: &str = "SELECT m.name, m.deployment_id, d.status, d.scaling, d.eviction, d.start_failure FROM domains m \
    JOIN deployments d ON d.id = m.deployment_id";

fn route_row(row: &AnyRow) -> Result<RouteRow> {
    Ok(RouteRow {
        host: get(row, "name")?,
        deployment_id: parse(row, "deployment_id")?,
        status: parse(row, "status")?,
        eviction: eviction_state(row)?,
        start_failed: get::<Option<String>>(row, "start_failure")?.is_some(),
        drained: drained(row)?,
    })
}

/// What the commit needs to know of a deployment and its environment.
struct Candidate {
    project_id: String,
    environment_id: String,
    sequence: i64,
    live: Option<DeploymentId>,
    live_sequence: i64,
    pinned: Option<DeploymentId>,
}

impl Store {
    /// All hostnames.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn route_rows(&self) -> Result<Vec<RouteRow>> {
        let rows = sqlx::query(AssertSqlSafe(ROUTES)).fetch_all(&self.pool).await;
        rows.map_err(database)?.iter().map(route_row).collect()
    }

    /// The hostnames that point to a deployment.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn route_rows_of(&self, id: &DeploymentId) -> Result<Vec<RouteRow>> {
        let sql = AssertSqlSafe(format!("{ROUTES} WHERE m.deployment_id = $1"));
        let rows = sqlx::query(sql).bind(id.as_str()).fetch_all(&self.pool).await;
        rows.map_err(database)?.iter().map(route_row).collect()
    }

    pub(super) async fn route(
        &self,
        id: &DeploymentId,
        owner: &InvocationId,
        claims: &[DomainClaim],
    ) -> Result<Option<Routed>> {
        let mut tx = self.write().await?;
        let candidate = match lock(&mut tx, id, owner).await? {
            Locked::Committed(routed) => return Ok(Some(routed)),
            Locked::Refused => return Ok(None),
            Locked::Open(candidate) => candidate,
        };
        let withheld = withheld(&candidate, id);
        let routed = apply(&mut tx, id, &candidate, claims, withheld).await?;
        if move_in(&mut tx, id, owner, routed.status).await? == Guarded::Lost {
            return Ok(None);
        }
        sqlx::query("UPDATE deployments SET routed = $2 WHERE id = $1")
            .bind(id.as_str())
            .bind(json(&routed)?)
            .execute(&mut *tx)
            .await
            .map_err(database)?;
        let step = Step::AssignDomains;
        let run = StepRun { deployment_id: id.clone(), owner: owner.clone(), step };
        write_end(&mut *tx, &run, &StepEnd::Done).await?;
        commit(tx).await?;
        self.changed(id);
        if let Some(previous) = &routed.previous {
            self.changed(previous);
        }
        self.routes_changed(id);
        Ok(Some(routed))
    }
}

enum Locked {
    Committed(Routed),
    Refused,
    Open(Candidate),
}

/// Locks the row of the deployment's environment, so that its moves follow each
/// other on Postgres as they do on SQLite.
pub(super) async fn lock_environment(tx: &mut Tx, id: &DeploymentId) -> Result<()> {
    sqlx::query(
        "UPDATE environments SET live_sequence = live_sequence \
         WHERE id = (SELECT environment_id FROM deployments WHERE id = $1)",
    )
    .bind(id.as_str())
    .execute(&mut **tx)
    .await
    .map_err(database)?;
    Ok(())
}

async fn lock(tx: &mut Tx, id: &DeploymentId, owner: &InvocationId) -> Result<Locked> {
    lock_environment(tx, id).await?;
    let row = sqlx::query(
        "SELECT d.status, d.routed, d.unwinding, d.project_id, d.environment_id, d.sequence, \
         e.live_deployment_id, e.live_sequence, e.pinned_deployment_id \
         FROM deployments d JOIN environments e ON e.id = d.environment_id \
         WHERE d.id = $1 AND d.invocation_id = $2",
    )
    .bind(id.as_str())
    .bind(owner.0.as_str())
    .fetch_optional(&mut **tx)
    .await
    .map_err(database)?;
    let Some(row) = row else { return Ok(Locked::Refused) };
    if let Some(routed) = get::<Option<String>>(&row, "routed")? {
        return Ok(Locked::Committed(from_json(&routed)?));
    }
    let status: DeploymentStatus = parse(&row, "status")?;
    if status != DeploymentStatus::Routing || get::<i64>(&row, "unwinding")? != 0 {
        return Ok(Locked::Refused);
    }
    Ok(Locked::Open(Candidate {
        project_id: get(&row, "project_id")?,
        environment_id: get(&row, "environment_id")?,
        sequence: get(&row, "sequence")?,
        live: optional_id(&row, "live_deployment_id")?,
        live_sequence: get(&row, "live_sequence")?,
        pinned: optional_id(&row, "pinned_deployment_id")?,
    }))
}

/// Why the environment's domain does not move, if it does not.
fn withheld(candidate: &Candidate, id: &DeploymentId) -> Option<String> {
    match (&candidate.pinned, &candidate.live) {
        (Some(pinned), _) if pinned != id => Some(format!(
            "the environment is pinned to {pinned}; `launchway promote {id}` moves it"
        )),
        (_, Some(live)) if candidate.live_sequence > candidate.sequence => Some(format!(
            "the environment serves the newer {live}; `launchway promote {id}` moves it"
        )),
        _ => None,
    }
}

async fn apply(
    tx: &mut Tx,
    id: &DeploymentId,
    candidate: &Candidate,
    claims: &[DomainClaim],
    withheld: Option<String>,
) -> Result<Routed> {
    let (mut domains, mut environment, mut own) = (Vec::new(), None, String::new());
    for claim in claims {
        let name = name_for(tx, id, candidate, claim).await?;
        let moves = match claim.kind {
            DomainKind::Commit => true,
            DomainKind::Branch => point(tx, id, candidate, &name, true).await?,
            DomainKind::Environment | DomainKind::Live if withheld.is_some() => false,
            DomainKind::Environment | DomainKind::Live => {
                point(tx, id, candidate, &name, false).await?
            }
        };
        if moves {
            match claim.kind {
                DomainKind::Commit => own.clone_from(&name),
                DomainKind::Environment => environment = Some(name.clone()),
                DomainKind::Branch | DomainKind::Live => {}
            }
            domains.push(name);
        }
    }
    let previous = candidate.live.clone().filter(|live| live != id);
    if withheld.is_none() {
        domains.extend(move_custom_domains(tx, id, candidate).await?);
        make_live(tx, id, candidate, previous.as_ref()).await?;
    }
    Ok(Routed {
        status: if withheld.is_none() { DeploymentStatus::Live } else { DeploymentStatus::Ready },
        domains,
        primary: environment.unwrap_or(own),
        previous: previous.filter(|_| withheld.is_none()),
        withheld,
    })
}

/// The name the owner has, or gets now. The first owner of a name keeps it.
async fn name_for(
    tx: &mut Tx,
    id: &DeploymentId,
    candidate: &Candidate,
    claim: &DomainClaim,
) -> Result<String> {
    for wanted in [&claim.name, &claim.fallback] {
        if let Some(row) = sqlx::query("SELECT name FROM domains WHERE kind = $1 AND owner = $2")
            .bind(claim.kind.as_str())
            .bind(claim.owner.as_str())
            .fetch_optional(&mut **tx)
            .await
            .map_err(database)?
        {
            return get(&row, "name");
        }
        sqlx::query(
            "INSERT INTO domains (name, kind, owner, project_id, environment_id, deployment_id, \
             sequence, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8) \
             ON CONFLICT DO NOTHING",
        )
        .bind(wanted.as_str())
        .bind(claim.kind.as_str())
        .bind(claim.owner.as_str())
        .bind(candidate.project_id.as_str())
        .bind(candidate.environment_id.as_str())
        .bind(id.as_str())
        .bind(candidate.sequence)
        .bind(now_ms())
        .execute(&mut **tx)
        .await
        .map_err(database)?;
    }
    let row = sqlx::query("SELECT name FROM domains WHERE kind = $1 AND owner = $2")
        .bind(claim.kind.as_str())
        .bind(claim.owner.as_str())
        .fetch_one(&mut **tx)
        .await
        .map_err(database)?;
    get(&row, "name")
}

/// Points a domain at the deployment. `newest_only`: not when a newer one has it.
async fn point(
    tx: &mut Tx,
    id: &DeploymentId,
    candidate: &Candidate,
    name: &str,
    newest_only: bool,
) -> Result<bool> {
    let limit = if newest_only { candidate.sequence } else { i64::MAX };
    let moved = sqlx::query(
        "UPDATE domains SET deployment_id = $2, sequence = $3, updated_at = $4 \
         WHERE name = $1 AND sequence <= $5",
    )
    .bind(name)
    .bind(id.as_str())
    .bind(candidate.sequence)
    .bind(now_ms())
    .bind(limit)
    .execute(&mut **tx)
    .await
    .map_err(database)?;
    Ok(moved.rows_affected() == 1)
}

async fn move_custom_domains(
    tx: &mut Tx,
    id: &DeploymentId,
    candidate: &Candidate,
) -> Result<Vec<String>> {
    let rows = sqlx::query(
        "UPDATE domains SET deployment_id = $2, sequence = $3, updated_at = $4 \
         WHERE environment_id = $1 AND kind = 'live' RETURNING name",
    )
    .bind(candidate.environment_id.as_str())
    .bind(id.as_str())
    .bind(candidate.sequence)
    .bind(now_ms())
    .fetch_all(&mut **tx)
    .await
    .map_err(database)?;
    rows.iter().map(|row| get(row, "name")).collect()
}

async fn make_live(
    tx: &mut Tx,
    id: &DeploymentId,
    candidate: &Candidate,
    previous: Option<&DeploymentId>,
) -> Result<()> {
    sqlx::query("UPDATE deployments SET live_at = $2, active_at = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(now_ms())
        .execute(&mut **tx)
        .await
        .map_err(database)?;
    sqlx::query(
        "UPDATE environments SET live_deployment_id = $2, live_sequence = $3 WHERE id = $1",
    )
    .bind(candidate.environment_id.as_str())
    .bind(id.as_str())
    .bind(candidate.sequence)
    .execute(&mut **tx)
    .await
    .map_err(database)?;
    match previous {
        Some(previous) => demote(tx, previous).await,
        None => Ok(()),
    }
}

/// The environment's domains have left it.
pub(super) async fn demote(tx: &mut Tx, previous: &DeploymentId) -> Result<()> {
    sqlx::query(
        "UPDATE deployments SET status = 'ready', updated_at = $2 WHERE id = $1 AND status = 'live'",
    )
    .bind(previous.as_str())
    .bind(now_ms())
    .execute(&mut **tx)
    .await
    .map_err(database)?;
    Ok(())
}
