//! kill -9 of the Docker engine itself: one of the test's own, beside whatever
//! engine the machine has.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use launchway::krane::KraneClient;
use launchway_workflows::{
    engine::failpoint::Point, ids::DeploymentId, ports::Runtime as _, step::Step,
};

use crate::{
    chaos::{SETTINGS, assert_only_the_latest_run, release_all},
    effects::{assert_single_effects, instances},
    support::{Installation, Process, REPLICAS, eventually},
};

/// Where an engine of its own has what.
pub struct Private {
    dir: PathBuf,
    bridge: String,
}

impl Private {
    /// Makes its bridge: engines must not share one.
    pub fn prepare(dir: &Path) -> Self {
        let bridge = format!("lwchaos{}", std::process::id() % 100_000);
        let this = Self { dir: dir.join("engine"), bridge };
        std::fs::create_dir_all(&this.dir).unwrap();
        ip(&["link", "add", "name", &this.bridge, "type", "bridge"]);
        ip(&["addr", "add", "10.213.255.1/24", "dev", &this.bridge]);
        ip(&["link", "set", &this.bridge, "up"]);
        this
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.dir.join("docker.sock").display())
    }

    pub fn command(&self) -> Command {
        self.forget_containerd();
        let mut command = Command::new("dockerd");
        let path = |flag: &str, name: &str| format!("--{flag}={}", self.dir.join(name).display());
        // No address pools of its own: with them the second start of an engine
        // removes the machine's `docker0` (Docker 20.10).
        // Without iptables of its own it leaves the machine's rules alone; what
        // is published is served by its proxies.
        command
            .args([path("data-root", "data"), path("exec-root", "exec"), path("pidfile", "pid")])
            .args(["--host", &self.host(), "--bridge", &self.bridge])
            .args(["--iptables=false", "--ip-masq=false", "--storage-driver=overlay2"]);
        command
    }

    /// It dies with its engine. The next one takes a pid that nobody has waited
    /// for to be alive.
    fn forget_containerd(&self) {
        let file = self.dir.join("exec/containerd/containerd.pid");
        if let Ok(pid) = std::fs::read_to_string(&file) {
            let _ = Command::new("kill").args(["-9", pid.trim()]).output();
            std::fs::remove_file(&file).unwrap();
        }
    }

    pub fn answers(&self) -> bool {
        let mut docker = Command::new("/usr/bin/docker");
        docker.args(["version", "--format", "{{.Server.Version}}"]).env("DOCKER_HOST", self.host());
        docker.output().is_ok_and(|asked| asked.status.success())
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        ip(&["link", "del", &self.bridge]);
        let _ = Command::new("umount").arg(self.dir.join("data")).output();
    }
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).status().unwrap();
    assert!(done.success() || std::thread::panicking(), "ip {arguments:?}");
}

/// What was being built or started is built or started again; what served is
/// served again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "an engine of its own and minutes of real builds: ./dev chaos"]
async fn every_deployment_goes_live_when_the_docker_engine_is_killed() {
    let mut here = Installation::apart_on_its_own_engine(&SETTINGS).await;
    let krane = KraneClient::new(&format!("http://{}", here.address("krane.bind"))).unwrap();
    let projects: Vec<_> = Step::ALL.iter().map(|step| format!("shop-{step}")).collect();
    let mut latest = Vec::new();
    for point in Point::ALL {
        Step::ALL.iter().for_each(|step| here.arm(step.name(), point.name()));
        let ids = here.submit_all(&projects).await;
        let parked = here.parked_at_all(point).await;
        here.kill(Process::Engine);
        release_all(&here, point);
        missed(&here, &parked, point).await;
        here.start(Process::Engine).await;
        here.ended(&ids).await;
        for id in &ids {
            eventually(&format!("{id} runs again"), async || {
                (instances(&here, id) == REPLICAS).then_some(())
            })
            .await;
            assert_single_effects(&here, id).await;
            assert_ready(&here, &krane, id).await;
        }
        latest.clone_from(&ids);
        println!("| Docker engine | {} | {} of {} live |", point.name(), ids.len(), ids.len());
    }
    // In good order too: they end well then, and are to run again all the same.
    here.stop(Process::Engine);
    here.start(Process::Engine).await;
    for id in &latest {
        assert_ready(&here, &krane, id).await;
    }
    here.assert_nothing_ran_twice_at_once();
    assert_only_the_latest_run(&here, &projects).await;
}

/// Whoever has work for the engine has tried it in vain.
async fn missed(here: &Installation, parked: &[(Step, DeploymentId)], point: Point) {
    let needs = |step: Step| {
        step < Step::BuildImage || (step == Step::BuildImage && point == Point::Before)
    };
    for (step, id) in parked.iter().filter(|(step, _)| needs(*step)) {
        eventually(&format!("{id}, which was at {step}, misses the engine"), async || {
            here.view(id).await.steps.iter().any(|row| row.error_code.is_some()).then_some(())
        })
        .await;
    }
}

/// krane, which has not been restarted, knows all of it as ready again.
async fn assert_ready(here: &Installation, krane: &KraneClient, id: &DeploymentId) {
    let namespace = here.view(id).await.environment_id.to_string();
    eventually(&format!("{id} is ready again"), async || {
        let instances = krane.instances(&namespace, id).await.ok()?;
        let ready = instances.iter().filter(|instance| instance.ready).count();
        (ready == REPLICAS as usize).then_some(())
    })
    .await;
}
