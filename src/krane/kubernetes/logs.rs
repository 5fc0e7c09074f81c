//! Output of a deployment's instances, merged, from the cluster's own copy.

use std::{collections::HashMap, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};
use launchway_proto::krane::v1::{Instance, LogLine};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    KubernetesBackend,
    lines::{Lines, Source, asked},
};
use crate::krane::{
    backend::{BackendError, Feed, LogQuery},
    merge::{self, merge},
};

/// Lines of one instance on their way; a slow reader holds only itself back.
const QUEUE: usize = 256;
const SOURCES: usize = 16;
/// Longest wait for the first byte of what is there already.
const OPEN: Duration = Duration::from_secs(10);
/// From the end of an output until it is looked at again: a container may have
/// been started again, or the connection was lost.
const AGAIN: Duration = Duration::from_millis(500);

type Line = Result<LogLine, BackendError>;
type Sender = mpsc::Sender<(i128, Line)>;

impl KubernetesBackend {
    pub(super) fn stream_logs(&self, query: LogQuery) -> Feed<LogLine> {
        let (sources, coming) = mpsc::channel(SOURCES);
        tokio::spawn(self.clone().read_all(query, sources));
        merge(coming).boxed()
    }

    /// Begins to read each instance, and those that come, until the deployment is
    /// deleted.
    async fn read_all(self, query: LogQuery, sources: mpsc::Sender<merge::Source<i128, Line>>) {
        let mut present = self.table.watch(&query.deployment_id);
        let (mut running, mut begun) = (JoinSet::new(), HashMap::new());
        loop {
            let instances = present.borrow_and_update().instances.clone();
            for instance in instances.iter().filter(|instance| is_wanted(&query, instance)) {
                if begun.insert(instance.id.clone(), ()).is_some() {
                    continue;
                }
                let (sender, receiver) = mpsc::channel(QUEUE);
                if sources.send(receiver).await.is_err() {
                    return;
                }
                running.spawn(self.clone().read_one(query.clone(), instance.clone(), sender));
            }
            if instances.is_empty() || !query.follow {
                break;
            }
            tokio::select! {
                () = sources.closed() => return,
                changed = present.changed() => if changed.is_err() { break },
            }
        }
        // What was written before the end is still read.
        running.detach_all();
    }

    async fn read_one(self, query: LogQuery, instance: Instance, sender: Sender) {
        let Some(api) = self.pod_of(&query, &instance) else { return };
        let mut last = 0_i128;
        loop {
            last = read(&api, &query, &instance, last, &sender).await;
            let there = self.pod_of(&query, &instance).is_some();
            if !query.follow || !there || sender.is_closed() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = sender.closed() => return,
            }
        }
    }

    /// Where the instance's pod is, as long as it is there.
    fn pod_of(&self, query: &LogQuery, instance: &Instance) -> Option<Api<Pod>> {
        let namespace = self.monitor.with_state(|state| {
            let pods = state.pods_of(&query.deployment_id);
            let pod = pods.into_iter().find(|pod| pod.name_any() == instance.id)?;
            pod.namespace()
        })?;
        Some(self.api(&namespace))
    }
}

fn is_wanted(query: &LogQuery, instance: &Instance) -> bool {
    let process = query.process.as_ref();
    (instance.started_at > 0 || instance.exit_code.is_some() || instance.restarts > 0)
        && process.is_none_or(|process| process.as_str() == instance.process)
        && query.replica.is_none_or(|replica| replica == instance.replica)
}

/// Reads what is newer than `last`; returns the time of the newest line.
async fn read(
    api: &Api<Pod>,
    query: &LogQuery,
    instance: &Instance,
    last: i128,
    sender: &Sender,
) -> i128 {
    let known = i64::try_from(last / 1_000_000).unwrap_or(i64::MAX);
    // What was read before goes on after what is known.
    let tail = query.tail.filter(|_| last == 0);
    let params = asked(query.follow, tail, query.since.max(known));
    let opening = tokio::time::timeout(OPEN, api.log_stream(&instance.id, &params)).await;
    let Ok(Ok(reader)) = opening else { return last };
    let source = Source {
        name: instance.id.clone(),
        process: instance.process.clone(),
        replica: instance.replica,
    };
    let mut lines = Lines::new(Box::pin(reader), source);
    let mut newest = last;
    loop {
        let next = tokio::select! {
            next = lines.next() => next,
            () = sender.closed() => return newest,
        };
        let Some((at, line)) = next else { return newest };
        // The cluster takes whole seconds: what was sent comes again.
        if at <= last || line.at < query.since {
            continue;
        }
        newest = newest.max(at);
        if sender.send((newest, Ok(line))).await.is_err() {
            return newest;
        }
    }
}
