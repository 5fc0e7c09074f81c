//! What is kept for how long, and the removal of what is past it.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{core::Core, readiness::now_ms, steps::MAX_RESULT};
use crate::{
    error::StepError,
    names::is_attended_task,
    ports::{Cutoffs, Found, Garbage, Removal, StoredContext},
};

/// Found and removed at once, of each kind.
const BATCH: u32 = 100;
/// Bytes of all of them together, as they are journaled: the rest of an entry is
/// for what is said beside them.
const MAX_BYTES: usize = MAX_RESULT - 4096;

/// For how long what is kept, validated by the configuration.
#[derive(Debug, Clone)]
pub struct Retention {
    /// How often it is looked through.
    pub every: Duration,
    /// Contexts, and images of what did not succeed: within it a deployment can
    /// be retried and redeployed.
    pub sources: Duration,
    /// Build output.
    pub logs: Duration,
    /// Records, and images that were built by themselves.
    pub records: Duration,
    /// Retired deployments of an environment that can be served again.
    pub restorable: u32,
    /// Instances that nobody knows: what is younger may be on its way to be known.
    pub left_overs: Duration,
}

impl Retention {
    fn cutoffs(&self, now: i64) -> Cutoffs {
        let before = |kept: Duration| now - i64::try_from(kept.as_millis()).unwrap_or(i64::MAX / 2);
        Cutoffs {
            sources: before(self.sources),
            logs: before(self.logs),
            records: before(self.records),
            restorable: self.restorable,
        }
    }
}

/// How much of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Amount {
    /// Things.
    pub count: u64,
    /// Bytes, as far as they are known.
    pub bytes: u64,
}

/// By kind.
pub type Amounts = BTreeMap<String, Amount>;

/// What could be removed now, a batch of each kind.
///
/// # Errors
/// A port does not answer.
pub(crate) async fn find(core: &Core) -> Result<Vec<Garbage>, StepError> {
    let now = now_ms();
    let cutoffs = core.settings.retention.cutoffs(now);
    let mut found = left_overs(core, now).await?;
    for garbage in core.archive.expired(&cutoffs, BATCH).await? {
        found.push(match garbage {
            Garbage::Image { deployment_id, image, .. } => {
                let size = core.builder.image_size(&image).await?.unwrap_or(0);
                Garbage::Image { deployment_id, image, size }
            }
            other => other,
        });
    }
    found.extend(contexts(core, &cutoffs).await?);
    Ok(journalable(found))
}

/// As many as a journal entry has room for, from the first on: what is left is
/// found again.
fn journalable(mut found: Vec<Garbage>) -> Vec<Garbage> {
    let mut room = MAX_BYTES;
    found.retain(|garbage| {
        // With what separates it from the next.
        let bytes = serde_json::to_vec(garbage).map_or(usize::MAX, |json| json.len() + 1);
        let fits = bytes <= room;
        room = if fits { room - bytes } else { room };
        fits
    });
    found
}

async fn contexts(core: &Core, cutoffs: &Cutoffs) -> Result<Vec<Garbage>, StepError> {
    let old = |context: &StoredContext| context.written_at < cutoffs.sources;
    let mut stored: Vec<_> = core.contexts.stored().await?.into_iter().filter(old).collect();
    stored.sort_by_key(|context| context.written_at);
    let mut found = Vec::new();
    for some in stored.chunks(BATCH as usize) {
        let keys: Vec<_> = some.iter().map(|context| context.key.clone()).collect();
        let needed = core.archive.needed_contexts(&keys, cutoffs).await?;
        let unneeded = some.iter().filter(|context| !needed.contains(&context.key));
        found.extend(unneeded.map(|StoredContext { key, size, .. }| Garbage::Context {
            key: key.clone(),
            size: *size,
        }));
        if found.len() >= BATCH as usize {
            break;
        }
    }
    found.truncate(BATCH as usize);
    Ok(found)
}

async fn left_overs(core: &Core, now: i64) -> Result<Vec<Garbage>, StepError> {
    let grace = core.settings.retention.left_overs.as_millis();
    let settled = now - i64::try_from(grace).unwrap_or(i64::MAX / 2);
    let found = match core.runtime.found().await {
        Ok(found) => found,
        Err(error) => {
            // The rest can go without it.
            tracing::warn!(failure = %error.failure(), "left-overs are not looked for now");
            return Ok(Vec::new());
        }
    };
    let found: Vec<Found> = found.into_iter().filter(|one| one.created_at < settled).collect();
    let ids: Vec<_> = found.iter().map(|one| one.deployment_id.clone()).collect();
    let may_run = core.archive.may_run(&ids).await?;
    let (known, unknown): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|one| may_run.contains(&one.deployment_id));
    let tasks = known.into_iter().filter_map(left_task).take(BATCH as usize);
    Ok(tasks.chain(of_nobody(unknown).take(BATCH as usize)).collect())
}

/// A task whose caller is gone, and who would have removed it with him.
fn left_task(one: Found) -> Option<Garbage> {
    let task = one.task.filter(|task| !task.attended && is_attended_task(&task.id))?;
    let Found { namespace, deployment_id, .. } = one;
    Some(Garbage::Task { namespace, deployment_id, task: task.id })
}

/// What is found of each deployment that is not to run, in one.
fn of_nobody(found: Vec<Found>) -> impl Iterator<Item = Garbage> {
    let mut by_deployment: BTreeMap<_, (String, BTreeMap<String, u32>)> = BTreeMap::new();
    for one in found {
        let (_, kinds) = by_deployment
            .entry(one.deployment_id)
            .or_insert_with(|| (one.namespace.clone(), BTreeMap::new()));
        *kinds.entry(one.kind).or_default() += 1;
    }
    by_deployment.into_iter().map(|(deployment_id, (namespace, kinds))| {
        let counted = kinds.into_iter().map(|(kind, count)| format!("{count} x {kind}"));
        let what = counted.collect::<Vec<_>>().join(", ");
        Garbage::LeftOver { namespace, deployment_id, what }
    })
}

/// Removes what was found. What has come to be needed meanwhile stays, and what
/// cannot be removed now is found again.
pub(crate) async fn remove(core: &Core, found: &[Garbage]) -> Amounts {
    let mut removed = Amounts::new();
    for garbage in found {
        match remove_one(core, garbage).await {
            Ok(true) => count(&mut removed, garbage),
            Ok(false) => {}
            Err(error) => {
                let failure = error.failure();
                tracing::warn!(?garbage, %failure, "cannot be removed now");
            }
        }
    }
    removed
}

async fn remove_one(core: &Core, garbage: &Garbage) -> Result<bool, StepError> {
    let cutoffs = core.settings.retention.cutoffs(now_ms());
    let is_record = !matches!(garbage, Garbage::LeftOver { .. } | Garbage::Task { .. });
    // Given up first, removed then: what a crash leaves in between is found again.
    if is_record && !core.archive.give_up(garbage, &cutoffs).await? {
        return Ok(false);
    }
    match garbage {
        Garbage::LeftOver { namespace, deployment_id, .. } => {
            let ids = std::slice::from_ref(deployment_id);
            if !core.archive.may_run(ids).await?.is_empty() {
                return Ok(false);
            }
            core.runtime.delete(namespace, deployment_id).await?;
        }
        // In the database alone, and gone with it.
        Garbage::BuildLog { .. } | Garbage::Record { .. } => {}
        Garbage::Context { key, .. } => core.contexts.delete(key).await?,
        Garbage::Image { deployment_id, image, .. } => {
            match core.builder.remove_image(image).await? {
                Removal::Gone => core.archive.image_gone(deployment_id).await?,
                Removal::InUse => return Ok(false),
            }
        }
        Garbage::Task { namespace, deployment_id, task } => {
            core.runtime.delete_task(namespace, deployment_id, task).await?;
        }
    }
    Ok(true)
}

/// How much that is, by kind.
pub(crate) fn amounts(found: &[Garbage]) -> Amounts {
    let mut all = Amounts::new();
    found.iter().for_each(|garbage| count(&mut all, garbage));
    all
}

fn count(amounts: &mut Amounts, garbage: &Garbage) {
    let amount = amounts.entry(garbage.kind().to_owned()).or_default();
    amount.count += 1;
    amount.bytes += garbage.size();
}

/// Adds one to the other.
pub(crate) fn add(to: &mut Amounts, more: Amounts) {
    for (kind, amount) in more {
        let sum = to.entry(kind).or_default();
        sum.count += amount.count;
        sum.bytes += amount.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::DeploymentId, model::BuiltImage, ports::FoundTask, services::janitor::Swept};

    fn left(kind: &str, task: Option<(&str, bool)>) -> Found {
        Found {
            namespace: "env".to_owned(),
            deployment_id: DeploymentId::generate(),
            kind: kind.to_owned(),
            created_at: 0,
            task: task.map(|(id, attended)| FoundTask { id: id.to_owned(), attended }),
        }
    }

    /// Nothing that is found is as long, or as large, as this.
    const LONGEST: usize = 1024;
    const LARGEST: u64 = 1 << 50;

    fn largest() -> Vec<Garbage> {
        let text = || "x".repeat(LONGEST);
        let id = DeploymentId::generate;
        let image = || BuiltImage { reference: text(), digest: text(), local_only: false };
        let each = (0..BATCH).flat_map(|_| {
            [
                Garbage::LeftOver { namespace: text(), deployment_id: id(), what: text() },
                Garbage::Task { namespace: text(), deployment_id: id(), task: text() },
                Garbage::Image { deployment_id: id(), image: image(), size: LARGEST },
                Garbage::BuildLog { deployment_id: id(), size: LARGEST },
                Garbage::Record { deployment_id: id() },
                Garbage::Context { key: text(), size: LARGEST },
            ]
        });
        each.collect()
    }

    #[test]
    fn the_largest_sweep_fits_into_a_journal_entry() {
        let found = journalable(largest());
        assert!(!found.is_empty());
        let swept = Swept { amounts: amounts(&found), items: found };
        let bytes = serde_json::to_vec(&swept).unwrap().len();
        assert!(bytes <= MAX_RESULT, "{bytes} bytes");
        assert!(bytes > MAX_RESULT - 2 * 4096, "most of it is used: {bytes} bytes");
    }

    #[test]
    fn a_task_is_left_when_nobody_attends_it_and_a_release_commands_never() {
        assert!(left_task(left("task", Some(("run-1", false)))).is_some());
        assert!(left_task(left("task", Some(("run-1", true)))).is_none());
        assert!(left_task(left("task", Some(("release-1", false)))).is_none());
        assert!(left_task(left("instance", None)).is_none());
    }

    #[test]
    fn what_is_left_of_a_deployment_is_counted_by_kind() {
        let one = left("instance", None);
        let all = vec![one.clone(), one.clone(), Found { kind: "network".to_owned(), ..one }];
        let garbage: Vec<_> = of_nobody(all).collect();
        let [Garbage::LeftOver { what, .. }] = &garbage[..] else { panic!("{garbage:?}") };
        assert_eq!(what, "2 x instance, 1 x network");
    }
}
