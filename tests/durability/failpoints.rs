//! The failpoints of an installation, and what its deployments have reached.
//! See `launchway_workflows::engine::failpoint`.

use std::{collections::HashMap, fs};

use launchway_workflows::{
    engine::failpoint::Point, error::ErrorCode, ids::DeploymentId, step::Step,
};

use crate::support::{Installation, eventually};

/// A line of the log of points.
#[derive(Debug, Clone)]
pub struct Reached {
    pub at: i64,
    pub pid: u32,
    pub id: String,
    pub name: String,
    pub point: String,
}

impl Installation {
    /// The next deployment at the point waits there.
    pub fn arm(&self, name: &str, point: &str) {
        fs::write(self.failpoints().join(format!("{name}.{point}")), "").unwrap();
    }

    /// Nobody is held there any more.
    pub fn disarm(&self, name: &str, point: &str) {
        fs::remove_file(self.failpoints().join(format!("{name}.{point}"))).unwrap();
    }

    /// The next deployment there fails with the code: `fail` or `exhaust`.
    pub fn break_at(&self, name: &str, kind: &str, code: ErrorCode) {
        fs::write(self.failpoints().join(format!("{name}.{kind}")), code.name()).unwrap();
    }

    /// Who has taken a failpoint, since it was last armed.
    pub fn taken(&self, name: &str, point: &str) -> Option<DeploymentId> {
        if !self.run_taken(name, point) {
            return None;
        }
        let hit = fs::read_to_string(self.failpoints().join(format!("{name}.{point}.hit"))).ok()?;
        hit.split(' ').next()?.parse().ok()
    }

    /// Returns when a run waits: `run` or `ran`.
    pub async fn run_parked(&self, run: &str, kind: &str) {
        eventually(&format!("{run}.{kind} waits"), async || {
            self.run_taken(run, kind).then_some(())
        })
        .await;
    }

    /// Whether anybody has taken the failpoint of a run: `run`, `ran` or `twice`.
    pub fn run_taken(&self, run: &str, kind: &str) -> bool {
        let armed = self.failpoints().join(format!("{run}.{kind}"));
        !armed.exists() && self.failpoints().join(format!("{run}.{kind}.hit")).exists()
    }

    /// The deployment that waits at the point, once one does.
    pub async fn parked(&self, name: &str, point: &str) -> DeploymentId {
        eventually(&format!("a deployment waits at {name}.{point}"), async || {
            self.taken(name, point)
        })
        .await
    }

    /// One deployment for each step, waiting at its point.
    pub async fn parked_at_all(&self, steps: &[Step], point: Point) -> Vec<(Step, DeploymentId)> {
        let mut parked = Vec::new();
        for step in steps {
            parked.push((*step, self.parked(step.name(), point.name()).await));
        }
        parked
    }

    /// Who waits at the point goes on.
    pub fn release(&self, name: &str, point: &str) {
        fs::remove_file(self.failpoints().join(format!("{name}.{point}.hit"))).unwrap();
    }

    /// Whoever waits there goes on, if anybody does.
    pub fn release_if_parked(&self, name: &str, point: &str) {
        if self.run_taken(name, point) {
            self.release(name, point);
        }
    }

    /// Everything that was reached, in order.
    pub fn reached(&self) -> Vec<Reached> {
        let log = fs::read_to_string(self.failpoints().join("reached.log")).unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.split(' ');
            Some(Reached {
                at: words.next()?.parse().ok()?,
                pid: words.next()?.parse().ok()?,
                id: words.next()?.to_owned(),
                name: words.next()?.to_owned(),
                point: words.next()?.to_owned(),
            })
        };
        log.lines().filter_map(line).collect()
    }

    /// Returns when the workflow of each has run to its end.
    pub async fn ended(&self, ids: &[DeploymentId]) {
        eventually("every workflow has ended", async || {
            let ended: Vec<_> =
                self.reached().into_iter().filter(|line| line.name == "deploy").collect();
            let all = ids.iter().all(|id| ended.iter().any(|line| line.id == id.as_str()));
            all.then_some(())
        })
        .await;
    }

    /// No step of a deployment has run twice at once: an interrupted run has
    /// ended, or its process has, before the next one begins.
    pub fn assert_nothing_ran_twice_at_once(&self) {
        let mut running: HashMap<(String, String), u32> = HashMap::new();
        let mut entered = 0;
        for line in self.reached() {
            let run = (line.id.clone(), line.name.clone());
            match line.point.as_str() {
                "entered" => {
                    entered += 1;
                    let other = running.insert(run, line.pid);
                    assert_ne!(other, Some(line.pid), "two runs at once: {line:?}");
                }
                "left" => {
                    running.remove(&run);
                }
                _ => {}
            }
        }
        assert!(entered > 0, "no run was seen");
    }
}
