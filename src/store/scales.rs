//! How many instances of which size: of deployments, and by default.

use launchway_workflows::{
    app::{RunOptions, Scale, Scales, WEB},
    ids::{DeploymentId, EnvironmentId, InvocationId},
    ports::{Guarded, ScaleStart, ScaleTarget, ScaleUnderWay},
    services::scale::ScaleRequest,
};
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;

use super::{
    Refusal, Result, Store, Tx, attempts::read_plan, commit, database, from_json, get, json,
    optional_id, optional_json, parse, releases::image, routes::lock_environment,
};

/// A change that is under way, as it is noted in the deployment's row.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Scaling {
    /// The invocation that does it.
    by: String,
    target: ScaleTarget,
    /// Of the process, this one and those after it get no requests.
    drained: Option<u32>,
    /// It has failed, and is no default for others.
    #[serde(default)]
    taken_back: bool,
}

impl Scaling {
    /// The same taken back, which is up to `by` from now on.
    fn back(target: &ScaleTarget, by: &InvocationId) -> Self {
        let (from, to) = (target.from.replicas, target.to.replicas);
        let drained = (to > from).then_some(from);
        Self { by: by.0.clone(), target: target.clone(), drained, taken_back: true }
    }
}

/// Instances that are about to be stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drained {
    /// Of this process.
    pub process: String,
    /// This number and those after it.
    pub from: u32,
}

/// What of a change under way concerns the routes.
pub(super) fn drained(row: &AnyRow) -> Result<Option<Drained>> {
    let scaling: Option<Scaling> = optional_json(row, "scaling")?;
    Ok(scaling.and_then(|scaling| {
        Some(Drained { process: scaling.target.process, from: scaling.drained? })
    }))
}

/// The live deployment of an environment, locked.
struct Live {
    id: DeploymentId,
    options: RunOptions,
    scaling: Option<Scaling>,
    evicted: bool,
}

impl Store {
    /// The environment of a name in a project.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn environment_id(
        &self,
        workspace: &launchway_workflows::ids::WorkspaceId,
        project: &str,
        environment: &str,
    ) -> Result<Option<EnvironmentId>> {
        let row = sqlx::query(
            "SELECT e.id FROM environments e JOIN projects p ON p.id = e.project_id \
             WHERE p.workspace_id = $1 AND (p.slug = $2 OR p.id = $2) AND e.slug = $3",
        )
        .bind(workspace.as_str())
        .bind(project)
        .bind(environment)
        .fetch_optional(&self.pool)
        .await
        .map_err(database)?;
        row.map(|row| parse(&row, "id")).transpose()
    }

    pub(super) async fn start_scale(
        &self,
        request: &ScaleRequest,
        by: &InvocationId,
    ) -> Result<ScaleStart> {
        let mut tx = self.write().await?;
        let mut live = match live(&mut tx, request).await? {
            Ok(live) => live,
            Err(reason) => return Ok(ScaleStart::Refused(reason)),
        };
        match live.scaling {
            Some(scaling) if scaling.by == by.0 && !scaling.taken_back => {
                return Ok(ScaleStart::Begun(Box::new(scaling.target)));
            }
            // Whoever asks has the environment's turn: the other one was killed.
            Some(scaling) => {
                take_back(&mut tx, live.options, &scaling.target, by).await?;
                commit(tx).await?;
                self.scale_changed(&live.id);
                return Ok(ScaleStart::LeftBehind(Box::new(scaling.target)));
            }
            None => {}
        }
        let (process, from, to) = match wanted(request, &live.id, &live.options) {
            Ok(wanted) => wanted,
            Err(reason) => return Ok(ScaleStart::Refused(reason)),
        };
        live.options.set_scale(&process, to);
        let problems = live.options.problems();
        if !problems.is_empty() {
            return Ok(ScaleStart::Refused(problems.join("; ")));
        }
        let plan = read_plan(&mut tx, &live.id).await?;
        let image = image(&mut tx, &live.id, &plan.source).await?;
        let drain_ms = live.options.drain_ms;
        let evicted = live.evicted;
        let target = ScaleTarget { plan, image, process, from, to, drain_ms, evicted };
        let drained = target.drains().then_some(to.replicas);
        let scaling =
            Scaling { by: by.0.clone(), target: target.clone(), drained, taken_back: false };
        write(&mut tx, &live.id, &live.options, Some(&scaling)).await?;
        commit(tx).await?;
        self.scale_changed(&live.id);
        Ok(ScaleStart::Begun(Box::new(target)))
    }

    pub(super) async fn end_scale(&self, id: &DeploymentId, by: &InvocationId) -> Result<Guarded> {
        let mut tx = self.write().await?;
        lock_environment(&mut tx, id).await?;
        let (options, scaling) = read(&mut tx, id).await?;
        match scaling {
            Some(scaling) if scaling.by != by.0 => return Ok(Guarded::Lost),
            Some(scaling) if !scaling.taken_back => {
                set_default(&mut tx, &scaling.target).await?;
            }
            // Taken back, or ended already.
            _ => {}
        }
        write(&mut tx, id, &options, None).await?;
        commit(tx).await?;
        self.scale_changed(id);
        Ok(Guarded::Applied)
    }

    pub(super) async fn take_back_scale(
        &self,
        target: &ScaleTarget,
        by: &InvocationId,
    ) -> Result<Guarded> {
        let id = &target.plan.deployment_id;
        let mut tx = self.write().await?;
        lock_environment(&mut tx, id).await?;
        let (options, scaling) = read(&mut tx, id).await?;
        if scaling.is_none_or(|scaling| scaling.by != by.0) {
            return Ok(Guarded::Lost);
        }
        take_back(&mut tx, options, target, by).await?;
        commit(tx).await?;
        self.scale_changed(id);
        Ok(Guarded::Applied)
    }

    pub(super) async fn take_over_left_scale(
        &self,
        left: &ScaleUnderWay,
        by: &InvocationId,
    ) -> Result<Option<ScaleTarget>> {
        let id = &left.deployment_id;
        let mut tx = self.write().await?;
        lock_environment(&mut tx, id).await?;
        let (options, scaling) = read(&mut tx, id).await?;
        let theirs = |scaling: &Scaling| scaling.by == left.by || scaling.by == by.0;
        let Some(scaling) = scaling.filter(theirs) else { return Ok(None) };
        take_back(&mut tx, options, &scaling.target, by).await?;
        commit(tx).await?;
        self.scale_changed(id);
        Ok(Some(scaling.target))
    }

    pub(super) async fn read_scales_under_way(&self) -> Result<Vec<ScaleUnderWay>> {
        let rows = sqlx::query(
            "SELECT id, environment_id, scaling FROM deployments WHERE scaling IS NOT NULL",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(database)?;
        rows.iter()
            .map(|row| {
                let scaling: Scaling = from_json(&get::<String>(row, "scaling")?)?;
                Ok(ScaleUnderWay {
                    environment_id: parse(row, "environment_id")?,
                    deployment_id: parse(row, "id")?,
                    by: scaling.by,
                })
            })
            .collect()
    }

    fn scale_changed(&self, id: &DeploymentId) {
        self.changed(id);
        self.routes_changed(id);
    }
}

async fn live(tx: &mut Tx, request: &ScaleRequest) -> Result<std::result::Result<Live, Refusal>> {
    // Locked: nothing else becomes live meanwhile.
    let row = sqlx::query(
        "UPDATE environments SET live_sequence = live_sequence WHERE id = $1 \
         RETURNING slug, live_deployment_id, \
         (SELECT d.eviction FROM deployments d WHERE d.id = live_deployment_id) AS eviction",
    )
    .bind(request.environment_id.as_str())
    .fetch_optional(&mut **tx)
    .await
    .map_err(database)?;
    let Some(row) = row else {
        return Ok(Err(format!("there is no environment `{}`", request.environment_id)));
    };
    let environment: String = get(&row, "slug")?;
    let Some(id) = optional_id(&row, "live_deployment_id")? else {
        return Ok(Err(format!(
            "nothing is live in environment `{environment}`: deploy it first, with --replicas or \
             `replicas` in launchway.toml"
        )));
    };
    if let Some(wanted) = request.deployment_id.as_ref().filter(|wanted| **wanted != id) {
        return Ok(Err(format!(
            "`{wanted}` is not live in environment `{environment}`, `{id}` is: only what is live can be \
             scaled; `launchway promote {wanted}` makes the other one live"
        )));
    }
    let (options, scaling) = read(tx, &id).await?;
    let evicted = get::<Option<String>>(&row, "eviction")?.is_some();
    Ok(Ok(Live { id, options, scaling, evicted }))
}

/// The process with its present and its wanted scale.
fn wanted(
    request: &ScaleRequest,
    id: &DeploymentId,
    options: &RunOptions,
) -> std::result::Result<(String, Scale, Scale), Refusal> {
    let all = options.all_processes();
    let names = || all.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let process = match &request.process {
        Some(name) => name.clone(),
        None if all.contains_key(WEB) => WEB.to_owned(),
        None if all.len() == 1 => all.keys().next().cloned().unwrap_or_default(),
        None => return Err(format!("name a process of `{id}` with --process: it has {}", names())),
    };
    let Some(from) = options.scale_of(&process) else {
        return Err(format!("`{id}` has no process `{process}`: it has {}", names()));
    };
    if request.replicas == 0 {
        return Err(format!(
            "0 instances of `{process}` are refused, as nothing would answer or work any more: give at \
             least 1. A process that is not wanted is left out of launchway.toml; what is not wanted to be \
             reachable loses its hostname with `launchway domains remove`"
        ));
    }
    let to = Scale {
        replicas: request.replicas,
        cpu_millicores: request.cpu_millicores.unwrap_or(from.cpu_millicores),
        memory_mib: request.memory_mib.unwrap_or(from.memory_mib),
    };
    Ok((process, from, to))
}

async fn read(tx: &mut Tx, id: &DeploymentId) -> Result<(RunOptions, Option<Scaling>)> {
    let row = sqlx::query("SELECT run_options, scaling FROM deployments WHERE id = $1")
        .bind(id.as_str())
        .fetch_one(&mut **tx)
        .await
        .map_err(database)?;
    let options: RunOptions = from_json(&get::<String>(&row, "run_options")?)?;
    Ok((options.with_defaults(&Scales::new()), optional_json(&row, "scaling")?))
}

async fn write(
    tx: &mut Tx,
    id: &DeploymentId,
    options: &RunOptions,
    scaling: Option<&Scaling>,
) -> Result<()> {
    sqlx::query("UPDATE deployments SET run_options = $2, scaling = $3 WHERE id = $1")
        .bind(id.as_str())
        .bind(json(options)?)
        .bind(scaling.map(json).transpose()?)
        .execute(&mut **tx)
        .await
        .map_err(database)?;
    Ok(())
}

async fn take_back(
    tx: &mut Tx,
    mut options: RunOptions,
    target: &ScaleTarget,
    by: &InvocationId,
) -> Result<()> {
    options.set_scale(&target.process, target.from);
    write(tx, &target.plan.deployment_id, &options, Some(&Scaling::back(target, by))).await
}

/// What deployments of the environment have where they say nothing.
pub(super) async fn default_scales(tx: &mut Tx, environment: &EnvironmentId) -> Result<Scales> {
    let rows = sqlx::query(
        "SELECT process, replicas, cpu_millicores, memory_mib FROM environment_scales \
         WHERE environment_id = $1",
    )
    .bind(environment.as_str())
    .fetch_all(&mut **tx)
    .await
    .map_err(database)?;
    rows.iter()
        .map(|row| {
            let small = |column| Ok(u32::try_from(get::<i64>(row, column)?).unwrap_or(0));
            let scale = Scale {
                replicas: small("replicas")?,
                cpu_millicores: small("cpu_millicores")?,
                memory_mib: u64::try_from(get::<i64>(row, "memory_mib")?).unwrap_or(0),
            };
            Ok((get(row, "process")?, scale))
        })
        .collect()
}

async fn set_default(tx: &mut Tx, target: &ScaleTarget) -> Result<()> {
    let scale = target.to;
    sqlx::query(
        "INSERT INTO environment_scales (environment_id, process, replicas, cpu_millicores, memory_mib) \
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (environment_id, process) DO UPDATE SET \
         replicas = excluded.replicas, cpu_millicores = excluded.cpu_millicores, \
         memory_mib = excluded.memory_mib",
    )
    .bind(target.plan.environment_id.as_str())
    .bind(target.process.as_str())
    .bind(i64::from(scale.replicas))
    .bind(i64::from(scale.cpu_millicores))
    .bind(i64::try_from(scale.memory_mib).unwrap_or(i64::MAX))
    .execute(&mut **tx)
    .await
    .map_err(database)?;
    Ok(())
}
