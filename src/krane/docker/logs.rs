//! Output of a deployment's instances, merged.

use std::collections::HashMap;

use bollard::Docker;
use futures::StreamExt;
use launchway_proto::krane::v1::{Instance, LogLine};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    failed,
    output::{Reading, Source, Timed, lines},
};
use crate::krane::{
    backend::{BackendError, Feed, LogQuery},
    merge::{self, merge},
    table::Table,
};

/// Lines of one instance on their way; a slow reader holds only itself back.
const QUEUE: usize = 256;
const SOURCES: usize = 16;

type Line = Result<LogLine, BackendError>;

/// What the instances have written.
pub(super) fn read(docker: &Docker, table: &Table, query: LogQuery) -> Feed<LogLine> {
    let (sources, coming) = mpsc::channel(SOURCES);
    let mut present = table.watch(&query.deployment_id);
    let docker = docker.clone();
    tokio::spawn(async move {
        let mut followers =
            Followers { docker, sources, query, running: JoinSet::new(), seen: HashMap::new() };
        loop {
            let instances = present.borrow_and_update().instances.clone();
            if !followers.take_up(&instances).await {
                return;
            }
            if instances.is_empty() || !followers.query.follow {
                break;
            }
            tokio::select! {
                () = followers.sources.closed() => return,
                Some(Ok((name, last))) = followers.running.join_next() => followers.ended(&name, last),
                changed = present.changed() => if changed.is_err() { break },
            }
        }
        // What was written before the end is still read.
        followers.running.detach_all();
    });
    merge(coming).boxed()
}

/// Who reads what.
struct Followers {
    docker: Docker,
    sources: mpsc::Sender<merge::Source<i128, Line>>,
    query: LogQuery,
    running: JoinSet<(String, i128)>,
    seen: HashMap<String, Seen>,
}

/// How far an instance has been read.
struct Seen {
    started_at: i64,
    reading: bool,
    last: i128,
}

impl Followers {
    /// Begins to read those that nobody reads. False: nobody listens.
    async fn take_up(&mut self, instances: &[Instance]) -> bool {
        self.seen.retain(|name, seen| seen.reading || instances.iter().any(|one| one.id == *name));
        for instance in instances {
            if !self.is_wanted(instance) {
                continue;
            }
            let last = match self.seen.get(&instance.id) {
                Some(seen) if seen.reading || seen.started_at == instance.started_at => continue,
                Some(seen) => seen.last,
                None => 0,
            };
            let (sender, receiver) = mpsc::channel(QUEUE);
            if self.sources.send(receiver).await.is_err() {
                return false;
            }
            let reading = Reading {
                follow: self.query.follow,
                // One that was read before goes on after what is known.
                tail: self.query.tail.filter(|_| last == 0),
                since: self.query.since,
                after: last,
            };
            let source = Source {
                name: instance.id.clone(),
                process: instance.process.clone(),
                replica: instance.replica,
            };
            let seen = Seen { started_at: instance.started_at, reading: true, last };
            self.seen.insert(instance.id.clone(), seen);
            self.running.spawn(pass_on(self.docker.clone(), source, reading, sender));
        }
        true
    }

    fn is_wanted(&self, instance: &Instance) -> bool {
        let process = self.query.process.as_ref();
        instance.started_at > 0
            && process.is_none_or(|process| process.as_str() == instance.process)
            && self.query.replica.is_none_or(|replica| replica == instance.replica)
    }

    fn ended(&mut self, name: &str, last: i128) {
        if let Some(seen) = self.seen.get_mut(name) {
            seen.reading = false;
            seen.last = seen.last.max(last);
        }
    }
}

/// Returns the name and the time of the last line.
async fn pass_on(
    docker: Docker,
    source: Source,
    reading: Reading,
    sender: mpsc::Sender<(i128, Line)>,
) -> (String, i128) {
    let (name, mut last) = (source.name.clone(), reading.after);
    let mut all = std::pin::pin!(lines(&docker, source, reading));
    loop {
        let next: Option<Result<Timed, _>> = tokio::select! {
            next = all.next() => next,
            () = sender.closed() => return (name, last),
        };
        let sent = match next {
            None => return (name, last),
            Some(Ok((at, line))) => {
                last = last.max(at);
                sender.send((at, Ok(line))).await
            }
            // Gone meanwhile: it has nothing more to say.
            Some(Err(error)) if super::is_not_found(&error) => return (name, last),
            Some(Err(error)) => sender.send((i128::MAX, Err(failed(&error)))).await,
        };
        if sent.is_err() {
            return (name, last);
        }
    }
}
