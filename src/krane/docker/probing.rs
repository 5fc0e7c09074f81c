//! Asks a running instance until it is ready, gone, or out of time.

use std::{collections::HashMap, time::Duration};

use bollard::{
    Docker,
    container::LogOutput,
    exec::{CreateExecOptions, StartExecResults},
    models::{ContainerUpdateBody, RestartPolicy, RestartPolicyNameEnum},
};
use futures::StreamExt;
use launchway_proto::krane::v1::{Instance, NotReadyReason};
use launchway_workflows::ids::DeploymentId;

use super::{
    labels::Own,
    monitor::{Monitor, lock},
    observe::Run,
    state::State,
    stop,
};
use crate::krane::{
    backend::{Check, Health, STAYS_UP},
    probe::{Prober, pauses},
};

/// Bytes of a check's output that are shown.
const SHOWN: usize = 512;

/// What the checks of a run have found.
#[derive(Debug, Default, Clone)]
pub(super) struct Probed {
    pub(super) ready: bool,
    pub(super) attempts: u32,
    pub(super) message: String,
    /// Somebody asks.
    pub(super) asked: bool,
    /// The engine has told of its end, and is still cleaning up.
    over: bool,
}

impl Probed {
    /// Puts what was found into the report.
    pub(super) fn show(&self, instance: &mut Instance) {
        instance.ready = self.ready;
        instance.probe_attempts = self.attempts;
        instance.message.clone_from(&self.message);
        instance.set_reason(match (self.over, self.message.is_empty()) {
            (true, _) => NotReadyReason::Exited,
            (false, false) => NotReadyReason::ProbeFailing,
            (false, true) => NotReadyReason::Unspecified,
        });
    }
}

impl Monitor {
    /// Asks in the background.
    pub(super) fn probe(&self, id: &DeploymentId, own: Own, run: Run) {
        let (this, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            let asking = this.until_ready(&id, &own.health, &run);
            let ready = match own.health.start_period {
                None => asking.await,
                Some(period) => {
                    let left = remaining(run.started_at, period);
                    match tokio::time::timeout(left, asking).await {
                        Ok(ready) => ready,
                        Err(_) => return this.out_of_time(&id, &own, &run, period).await,
                    }
                }
            };
            if ready {
                this.keep_running(&run.container).await;
            }
        });
    }

    /// False: this run is over.
    async fn until_ready(&self, id: &DeploymentId, health: &Health, run: &Run) -> bool {
        let mut asker = Asker::new(&self.0.docker, &self.0.prober, health, run);
        for pause in pauses(health.interval) {
            let result = asker.ask().await;
            let ready = result.is_ok();
            if !self.note_probe(id, run, result) {
                return false;
            }
            if ready {
                return true;
            }
            tokio::time::sleep(pause).await;
        }
        false
    }

    /// False: the run is over.
    fn note_probe(&self, id: &DeploymentId, run: &Run, result: Result<(), String>) -> bool {
        // Held until the table has it: a reading must not put back what was.
        let mut state = lock(&self.0.state);
        let Some(probed) = state.probed.get_mut(id).and_then(|runs| runs.get_mut(&key(run))) else {
            return false;
        };
        if probed.over {
            return false;
        }
        probed.attempts += 1;
        probed.ready = result.is_ok();
        probed.message = result.err().unwrap_or_default();
        let probed = probed.clone();
        self.show(&state, id, &run.container, &probed);
        true
    }

    /// The engine says what it knows of a container that died only once it has
    /// taken it off its network, which takes it a while: until then this much is
    /// known.
    pub(super) fn note_death(&self, id: &DeploymentId, container: &str, code: &str) {
        let mut state = lock(&self.0.state);
        let runs = state.probed.get_mut(id).into_iter().flatten();
        let Some((_, probed)) = runs.into_iter().find(|(run, _)| run.starts_with(container)) else {
            return;
        };
        probed.over = true;
        probed.ready = false;
        probed.message = format!("it ended with code {code}");
        let probed = probed.clone();
        self.show(&state, id, container, &probed);
    }

    /// Shows what was found without asking the engine again.
    fn show(&self, state: &State, id: &DeploymentId, container: &str, probed: &Probed) {
        let withdrawn = state.withdrawn.contains(container);
        let Some(name) = state.names.get(container) else { return };
        self.0.table.modify(id, |instances| {
            if let Some(instance) = instances.iter_mut().find(|one| one.id == *name) {
                probed.show(instance);
                instance.ready &= !withdrawn;
            }
        });
    }

    async fn out_of_time(&self, id: &DeploymentId, own: &Own, run: &Run, period: Duration) {
        let last = {
            let mut state = lock(&self.0.state);
            let probed = state.probed.get(id).and_then(|runs| runs.get(&key(run)));
            let Some(probed) = probed else { return };
            let last = probed.message.clone();
            let said = format!("it was not ready within {} ms of its start", period.as_millis());
            let said = if last.is_empty() { said } else { format!("{said}: {last}") };
            state.verdicts.insert(run.container.clone(), said);
            last
        };
        tracing::info!(deployment = %id, container = run.container, last, "ended: not ready in time");
        if let Err(error) = stop(&self.0.docker, &run.container, own.grace).await {
            tracing::warn!(deployment = %id, container = run.container, %error, "cannot end it");
        }
    }

    /// What was ready once is the engine's to keep running, over restarts of its
    /// own too, whatever it exits with: a server that is told to stop by its
    /// engine exits with 0. Not "unless stopped": an engine that was killed takes
    /// what it finds running for stopped by a person (Docker 20.10).
    async fn keep_running(&self, container: &str) {
        let policy =
            RestartPolicy { name: Some(RestartPolicyNameEnum::ALWAYS), maximum_retry_count: None };
        let update =
            ContainerUpdateBody { restart_policy: Some(policy), ..ContainerUpdateBody::default() };
        if let Err(error) = self.0.docker.update_container(container, update).await {
            tracing::warn!(container, %error, "cannot set the restart policy");
        }
    }
}

/// Of a run; a restarted container is asked anew.
pub(super) fn key(run: &Run) -> String {
    format!("{}@{}", run.container, run.started_at)
}

/// What is known of running instances, by deployment.
pub(super) type ByRun = HashMap<String, Probed>;

/// Until `period` after `started_at`, by the clock that the engine has too.
fn remaining(started_at: i64, period: Duration) -> Duration {
    let since = jiff::Timestamp::now().as_millisecond().saturating_sub(started_at);
    period.saturating_sub(Duration::from_millis(u64::try_from(since).unwrap_or(0)))
}

/// Asks one run the way its health says.
struct Asker<'a> {
    docker: &'a Docker,
    prober: &'a Prober,
    health: &'a Health,
    run: &'a Run,
    /// A command that did not end in time: none is started beside it.
    hanging: Option<String>,
}

impl<'a> Asker<'a> {
    fn new(docker: &'a Docker, prober: &'a Prober, health: &'a Health, run: &'a Run) -> Self {
        Self { docker, prober, health, run, hanging: None }
    }

    /// `Err` says why not, for people.
    async fn ask(&mut self) -> Result<(), String> {
        let (health, run) = (self.health, self.run);
        match &health.check {
            // What the gateway will ask, too.
            Check::Http { path, port: None } => {
                self.prober.http(&run.address, path, health.timeout).await
            }
            Check::Http { path, port: Some(port) } => {
                self.prober.http(&format!("{}:{port}", run.ip), path, health.timeout).await
            }
            // Not at the published port: the engine's proxy takes every connection.
            Check::Tcp { port } => {
                let port = port.unwrap_or_default();
                self.prober.tcp(&format!("{}:{port}", run.ip), health.timeout).await
            }
            Check::StaysUp => {
                tokio::time::sleep(remaining(run.started_at, STAYS_UP)).await;
                Ok(())
            }
            Check::Command(command) => self.command(command).await,
        }
    }

    async fn command(&mut self, command: &[String]) -> Result<(), String> {
        if let Some(hanging) = &self.hanging {
            let found = self.docker.inspect_exec(hanging).await;
            if found.is_ok_and(|found| found.running == Some(true)) {
                return Err("the command of the check before still runs".to_owned());
            }
            self.hanging = None;
        }
        let refused = |error: bollard::errors::Error| format!("the check's command: {error}");
        let options = CreateExecOptions {
            cmd: Some(command.to_vec()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..CreateExecOptions::default()
        };
        let exec = self.docker.create_exec(&self.run.container, options).await.map_err(refused)?.id;
        let output = match tokio::time::timeout(self.health.timeout, self.output(&exec)).await {
            Ok(output) => output.map_err(refused)?,
            Err(_) => {
                self.hanging = Some(exec);
                let limit = self.health.timeout.as_millis();
                return Err(format!("the check's command did not end within {limit} ms"));
            }
        };
        let ended = self.docker.inspect_exec(&exec).await.map_err(refused)?;
        match ended.exit_code {
            Some(0) => Ok(()),
            code => {
                let code = code.unwrap_or(-1);
                Err(format!("the check's command ended with {code}: {}", output.trim()))
            }
        }
    }

    /// Its last bytes, once it has ended.
    async fn output(&self, exec: &str) -> Result<String, bollard::errors::Error> {
        let mut text = Vec::new();
        if let StartExecResults::Attached { mut output, .. } =
            self.docker.start_exec(exec, None).await?
        {
            while let Some(part) = output.next().await {
                text.extend_from_slice(&LogOutput::into_bytes(part?));
                let over = text.len().saturating_sub(SHOWN);
                text.drain(..over);
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
