//! How many instances of what size: what was asked for, what the environment
//! has by default, and what comes of the two.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Process, RunOptions, WEB};

/// From the end of a start period, at which the runtime ends an instance that is
/// not ready, until its report of that is here.
const REPORT: Duration = Duration::from_secs(5);

/// Instances of a process and the limits of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Scale {
    /// 0: one.
    pub replicas: u32,
    /// Thousandths of a core; 0: no limit.
    #[serde(default)]
    pub cpu_millicores: u32,
    /// MiB; 0: no limit.
    #[serde(default)]
    pub memory_mib: u64,
}

/// By the name of the process.
pub type Scales = BTreeMap<String, Scale>;

impl RunOptions {
    /// Every process by name; without names, one named [`WEB`] out of the
    /// deployment's own fields.
    pub fn all_processes(&self) -> BTreeMap<String, Process> {
        if self.processes.is_empty() {
            let web = Process {
                command: Vec::new(),
                replicas: self.replicas,
                port: Some(self.port).filter(|port| *port > 0),
                health: self.health.clone(),
                cpu_millicores: self.cpu_millicores,
                memory_mib: self.memory_mib,
            };
            return BTreeMap::from([(WEB.to_owned(), web)]);
        }
        self.processes.clone()
    }

    /// The process that gets requests, else the first one.
    pub fn main_process(&self) -> Process {
        let mut all = self.all_processes();
        let web = all.remove(WEB);
        web.or_else(|| all.into_values().next()).unwrap_or_default()
    }

    /// The same with a number for everything that was left to the environment.
    /// What was asked for goes first.
    pub fn with_defaults(mut self, defaults: &Scales) -> Self {
        let of = |name: &str| defaults.get(name).copied().unwrap_or_default();
        let or = |asked: u32, default: u32| if asked > 0 { asked } else { default };
        // What works without requests is not idle when there are none.
        if self.all_processes().iter().any(|(name, process)| !process.is_routed(name)) {
            self.idle_timeout_ms.get_or_insert(0);
        }
        if self.processes.is_empty() {
            let web = of(WEB);
            self.replicas = or(self.replicas, web.replicas).max(1);
            self.cpu_millicores = or(self.cpu_millicores, web.cpu_millicores);
            self.memory_mib = if self.memory_mib > 0 { self.memory_mib } else { web.memory_mib };
            return self;
        }
        let (cpu, memory) = (self.cpu_millicores, self.memory_mib);
        for (name, process) in &mut self.processes {
            let default = of(name);
            process.replicas = or(process.replicas, default.replicas).max(1);
            process.cpu_millicores = or(or(process.cpu_millicores, cpu), default.cpu_millicores);
            let memories = [process.memory_mib, memory, default.memory_mib];
            process.memory_mib = memories.into_iter().find(|mib| *mib > 0).unwrap_or(0);
        }
        self
    }

    /// The scale of a process; `None`: there is none of this name.
    pub fn scale_of(&self, process: &str) -> Option<Scale> {
        let all = self.all_processes();
        let process = all.get(process)?;
        Some(Scale {
            replicas: process.replicas.max(1),
            cpu_millicores: process.cpu_millicores,
            memory_mib: process.memory_mib,
        })
    }

    /// Sets the scale of a process that there is.
    pub fn set_scale(&mut self, process: &str, scale: Scale) {
        if let Some(process) = self.processes.get_mut(process) {
            process.replicas = scale.replicas;
            process.cpu_millicores = scale.cpu_millicores;
            process.memory_mib = scale.memory_mib;
        } else if self.processes.is_empty() && process == WEB {
            self.replicas = scale.replicas;
            self.cpu_millicores = scale.cpu_millicores;
            self.memory_mib = scale.memory_mib;
        }
    }

    /// Instances of all processes.
    pub fn instances(&self) -> u32 {
        self.all_processes().values().map(|process| process.replicas.max(1)).sum()
    }

    /// From the start until every instance must be ready: as long as the most
    /// patient of its processes says; one that says nothing has `default`.
    pub fn ready_within(&self, default: Duration) -> Duration {
        let period = |process: &Process| {
            let millis = process.health.as_ref().and_then(|health| health.start_period_ms);
            millis.map_or(default, |millis| Duration::from_millis(millis.into()) + REPORT)
        };
        self.all_processes().values().map(period).max().unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{Check, Health};

    fn process(replicas: u32, start_period_ms: Option<u32>) -> Process {
        let health = start_period_ms.map(|millis| Health {
            check: Check::Tcp,
            port: None,
            interval_ms: None,
            timeout_ms: None,
            start_period_ms: Some(millis),
        });
        Process { replicas, health, ..Process::default() }
    }

    fn two() -> RunOptions {
        let processes = [("web", process(0, Some(1000))), ("worker", process(3, None))];
        let processes = processes.map(|(name, process)| (name.to_owned(), process));
        RunOptions { cpu_millicores: 250, processes: processes.into(), ..RunOptions::default() }
    }

    #[test]
    fn what_was_asked_for_goes_before_the_environments_default_and_that_before_one() {
        let scale = Scale { replicas: 4, cpu_millicores: 500, memory_mib: 128 };
        let defaults = Scales::from([("web".to_owned(), scale), ("worker".to_owned(), scale)]);
        let options = two().with_defaults(&defaults);
        let of = |name| options.scale_of(name).unwrap();
        assert_eq!(of("web"), Scale { replicas: 4, cpu_millicores: 250, memory_mib: 128 });
        assert_eq!(of("worker").replicas, 3);
        assert_eq!(options.instances(), 7);
        let plain = RunOptions::default().with_defaults(&Scales::new());
        assert_eq!((plain.replicas, plain.instances()), (1, 1));
        assert_eq!(RunOptions::default().with_defaults(&defaults).scale_of(WEB), Some(scale));
    }

    #[test]
    fn a_scale_is_of_a_process_that_there_is() {
        let mut options = two();
        assert_eq!(options.scale_of("clock"), None);
        options.set_scale("clock", Scale { replicas: 9, ..Scale::default() });
        assert_eq!(options, two());
        options.set_scale("worker", Scale { replicas: 5, ..Scale::default() });
        assert_eq!(options.scale_of("worker").unwrap().replicas, 5);
    }

    #[test]
    fn a_deployment_waits_as_long_as_its_most_patient_process() {
        let default = Duration::from_secs(60);
        assert_eq!(two().ready_within(default), default, "the worker says nothing");
        let mut options = two();
        options.processes.remove("worker");
        assert_eq!(options.ready_within(default), Duration::from_secs(1) + REPORT);
        assert_eq!(RunOptions::default().ready_within(default), default);
    }
}
