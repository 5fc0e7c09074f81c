//! What has changed lately, for readers that must not read everything again.

use std::collections::VecDeque;

use launchway_workflows::ids::DeploymentId;

/// Changes that are remembered; a reader that is further behind reads all.
const REMEMBERED: usize = 1024;

/// Counts changes and remembers the latest.
#[derive(Debug, Clone, Default)]
pub struct ChangeLog {
    count: u64,
    recent: VecDeque<DeploymentId>,
}

impl ChangeLog {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Something about the deployment has changed.
    pub fn note(&mut self, id: &DeploymentId) {
        self.count += 1;
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(id.clone());
    }

    /// Everything may have changed: every reader reads all.
    pub fn forget(&mut self) {
        self.count += 1 + REMEMBERED as u64;
        self.recent.clear();
    }

    /// Whatever has changed after the first `seen`; `None`: more than is
    /// remembered.
    pub fn since(&self, seen: u64) -> Option<impl Iterator<Item = &DeploymentId>> {
        let new = usize::try_from(self.count.saturating_sub(seen)).ok()?;
        let skip = self.recent.len().checked_sub(new)?;
        Some(self.recent.iter().skip(skip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_what_it_has_missed_or_is_told_to_read_all() {
        let ids: Vec<_> = (0..REMEMBERED + 10).map(|_| DeploymentId::generate()).collect();
        let mut log = ChangeLog::default();
        ids.iter().for_each(|id| log.note(id));
        let missed = |log: &ChangeLog, seen: usize| {
            log.since(seen as u64).map(|ids| ids.cloned().collect::<Vec<_>>())
        };
        assert_eq!(missed(&log, ids.len()).unwrap(), []);
        assert_eq!(missed(&log, ids.len() - 2).unwrap(), ids[ids.len() - 2..]);
        assert_eq!(missed(&log, 10).unwrap().len(), REMEMBERED);
        assert_eq!(missed(&log, 9), None);
        let count = usize::try_from(log.count()).unwrap();
        log.forget();
        assert!(log.since(count as u64).is_none());
        log.note(&ids[0]);
        assert_eq!(log.since(log.count() - 1).unwrap().count(), 1);
    }
}
