//! The processes of an installation: started, killed, asked whether they answer.

use std::{
    fs,
    process::{Command, Stdio},
};

use launchway::restate::{identity, server};
use serde_json::Value;

use super::{Installation, SETTINGS, eventually};
use crate::{instant::world, outside::Outside};

/// A process that can be killed alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Process {
    Restate,
    Krane,
    Control,
    Worker,
    /// Behind the same address as the first.
    SecondWorker,
    /// All of them but Restate, which it supervises.
    Up,
    /// The Docker engine of this installation alone.
    Engine,
}

use Process as P;

impl Process {
    /// In the order in which they can start.
    pub const APART: [Process; 4] = [P::Restate, P::Krane, P::Control, P::Worker];

    pub fn name(self) -> &'static str {
        match self {
            P::Restate => "restate-server",
            P::Krane => "krane",
            P::Control => "control",
            P::Worker => "worker",
            P::SecondWorker => "second-worker",
            P::Up => "up",
            P::Engine => "dockerd",
        }
    }
}

impl Installation {
    /// Starts processes at once, as after a power cut: each must wait for what
    /// it needs. Returns when all answer.
    pub async fn start_all(&mut self, processes: &[Process]) {
        processes.iter().rev().for_each(|process| self.spawn(*process));
        for process in processes {
            self.answering(*process).await;
        }
    }

    /// Starts a process and returns when it answers.
    pub async fn start(&mut self, process: Process) {
        self.spawn(process);
        self.answering(process).await;
    }

    async fn answering(&mut self, process: Process) {
        eventually(&format!("{} answers", process.name()), async || {
            let ended = self.running.get_mut(&process).unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{} has ended", process.name());
            self.answers(process).await.then_some(())
        })
        .await;
    }

    fn spawn(&mut self, process: Process) {
        let mut command = match process {
            P::Restate => self.restate_command(),
            P::Up => self.own_command(&["up"]),
            P::Engine => self.engine.as_ref().unwrap().command(),
            P::SecondWorker => {
                let mut command = self.own_command(&["serve", "--role", P::Worker.name()]);
                command.arg("--set").arg(format!("worker.bind={}", self.second_worker));
                command
            }
            role => self.own_command(&["serve", "--role", role.name()]),
        };
        let log = self.dir.path().join(format!("{}.log", process.name()));
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        let command = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.running.insert(process, command.spawn().unwrap());
    }

    async fn answers(&self, process: Process) -> bool {
        let connects =
            async |setting| tokio::net::TcpStream::connect(self.address(setting)).await.is_ok();
        match process {
            P::Restate => {
                self.ingress.health().await.is_ok() && self.admin.unfinished().await.is_ok()
            }
            P::Krane => connects("krane.bind").await,
            P::Control => connects("control.bind").await,
            P::Worker => connects("worker.bind").await,
            P::SecondWorker => tokio::net::TcpStream::connect(self.second_worker).await.is_ok(),
            P::Engine => self.engine.as_ref().unwrap().answers(),
            P::Up => {
                let state = fs::read(self.data().join("run/up.json")).unwrap_or_default();
                let state: Value = serde_json::from_slice(&state).unwrap_or_default();
                state["status"] == "ready" && state["process"]["pid"] == self.pid(process)
            }
        }
    }

    fn restate_command(&self) -> Command {
        let secrets = self.data().join("secrets");
        fs::create_dir_all(&secrets).unwrap();
        let key = secrets.join("restate-identity.pem");
        identity::ensure(&key).unwrap();
        let config = server::write_config(&server::ServerSettings {
            base_dir: &self.data().join("restate"),
            ingress: self.address("restate.ingress_bind"),
            admin: self.address("restate.admin_bind"),
            node: self.address("restate.node_bind"),
            identity_key: &key,
        });
        let mut command = Command::new(server::find("").unwrap());
        command.arg("--config-file").arg(config.unwrap());
        command
    }

    pub(super) fn own_command(&self, verb: &[&str]) -> Command {
        let binary = match &self.outside {
            Outside::Instant(_) | Outside::Kubernetes(..) => {
                env!("CARGO_BIN_EXE_launchway-instant")
            }
            Outside::Docker(_) => env!("CARGO_BIN_EXE_launchway"),
        };
        let mut command = Command::new(binary);
        if let Outside::Docker(engine) = &self.outside {
            command.envs(engine.host().map(|host| ("DOCKER_HOST", host)));
        }
        command.args(verb).arg("--data-dir").arg(self.data());
        for (setting, address) in SETTINGS.iter().zip(&self.ports) {
            command.arg("--set").arg(format!("{setting}={address}"));
        }
        for setting in &self.settings {
            command.arg("--set").arg(setting);
        }
        command
            .env("XDG_CONFIG_HOME", self.dir.path().join("config"))
            .env("LAUNCHWAY_FAILPOINTS", self.failpoints())
            .env(world::VARIABLE, self.dir.path().join("world"))
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().cloned());
        command
    }

    pub fn pid(&self, process: Process) -> u32 {
        self.running[&process].id()
    }

    /// kill -9; returns when the process is gone.
    pub fn kill(&mut self, process: Process) {
        let mut child = self.running.remove(&process).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks the process to end, and returns when it has.
    pub fn stop(&mut self, process: Process) {
        let mut child = self.running.remove(&process).unwrap();
        let asked = Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(asked.success());
        child.wait().unwrap();
    }
}
