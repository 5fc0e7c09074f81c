//! Host to instances. Read without a lock; replaced as a whole on a change,
//! where unchanged routes are shared with the table before.

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use launchway_proto::gateway::v1::{Route as WireRoute, RouteState, RouteUpdate};
use serde::{Deserialize, Serialize};

/// How long an instance that refused a connection is not tried first.
const SHUNNED: Duration = Duration::from_secs(1);

/// An instance, with what the gateway has seen of it.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) address: String,
    in_flight: AtomicUsize,
    /// Milliseconds of the gateway's clock.
    shunned_until: AtomicI64,
}

impl Upstream {
    fn new(address: String) -> Self {
        Self { address, in_flight: AtomicUsize::new(0), shunned_until: AtomicI64::new(0) }
    }

    /// Counts a request until the guard is dropped.
    pub(super) fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// It refused a connection.
    pub(super) fn shun(&self, now: i64) {
        let until = now + i64::try_from(SHUNNED.as_millis()).unwrap_or(0);
        self.shunned_until.store(until, Ordering::Relaxed);
    }

    fn load(&self, now: i64) -> (bool, usize) {
        (self.shunned_until.load(Ordering::Relaxed) > now, self.in_flight.load(Ordering::Relaxed))
    }
}

/// See [`Upstream::enter`].
pub(super) struct InFlight(Arc<Upstream>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where requests of a host go.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) deployment_id: String,
    pub(super) retired: bool,
    pub(super) upstreams: Vec<Arc<Upstream>>,
}

impl Route {
    /// Instances in the order to try them: those that refused lately last,
    /// the least loaded first.
    pub(super) fn by_load(&self, now: i64) -> Vec<Arc<Upstream>> {
        let mut upstreams = self.upstreams.clone();
        upstreams.sort_by_key(|upstream| upstream.load(now));
        upstreams
    }
}

#[derive(Default)]
struct Routes {
    version: u64,
    by_host: HashMap<String, Arc<Route>>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Table(ArcSwap<Routes>);

/// A route in the file of the last good table.
#[derive(Serialize, Deserialize)]
struct Saved {
    host: String,
    deployment_id: String,
    retired: bool,
    addresses: Vec<String>,
}

impl Table {
    pub(super) fn route(&self, host: &str) -> Option<Arc<Route>> {
        self.0.load().by_host.get(host).cloned()
    }

    pub(super) fn version(&self) -> u64 {
        self.0.load().version
    }

    pub(super) fn len(&self) -> usize {
        self.0.load().by_host.len()
    }

    /// Applies an update. Called by the feed only, one at a time.
    pub(super) fn apply(&self, update: RouteUpdate) {
        let present = self.0.load();
        // Instances keep their counters over any change of routes.
        let mut known: HashMap<String, Arc<Upstream>> = HashMap::new();
        for upstream in present.by_host.values().flat_map(|route| &route.upstreams) {
            known.entry(upstream.address.clone()).or_insert_with(|| Arc::clone(upstream));
        }
        let mut by_host = if update.snapshot { HashMap::new() } else { present.by_host.clone() };
        for host in &update.removed_hosts {
            by_host.remove(host);
        }
        for route in update.routes {
            by_host.insert(route.host.clone(), Arc::new(read(route, &mut known)));
        }
        self.0.store(Arc::new(Routes { version: update.version, by_host }));
    }

    /// Reads the last good table; none is fine.
    pub(super) fn load_file(&self, path: &Path) -> io::Result<usize> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let saved: Vec<Saved> = serde_json::from_slice(&bytes)?;
        let routes = saved.into_iter().map(|saved| WireRoute {
            host: saved.host,
            deployment_id: saved.deployment_id,
            state: if saved.retired { RouteState::Retired } else { RouteState::Serving }.into(),
            addresses: saved.addresses,
        });
        self.apply(RouteUpdate {
            version: 0,
            snapshot: true,
            routes: routes.collect(),
            removed_hosts: Vec::new(),
        });
        Ok(self.len())
    }

    /// Writes the table beside the file and moves it there.
    pub(super) fn save_file(&self, path: &Path) -> io::Result<()> {
        let saved: Vec<Saved> = self
            .0
            .load()
            .by_host
            .iter()
            .map(|(host, route)| Saved {
                host: host.clone(),
                deployment_id: route.deployment_id.clone(),
                retired: route.retired,
                addresses: route
                    .upstreams
                    .iter()
                    .map(|upstream| upstream.address.clone())
                    .collect(),
            })
            .collect();
        let dir = path.parent().unwrap_or(Path::new("."));
        // A temporary file is 0600.
        let file = tempfile::NamedTempFile::new_in(dir)?;
        serde_json::to_writer(&file, &saved)?;
        file.persist(path)?;
        Ok(())
    }
}

fn read(route: WireRoute, known: &mut HashMap<String, Arc<Upstream>>) -> Route {
    let retired = route.state() == RouteState::Retired;
    let mut upstream = |address: String| {
        let entry = known.entry(address);
        let key = entry.key().clone();
        Arc::clone(entry.or_insert_with(|| Arc::new(Upstream::new(key))))
    };
    Route {
        deployment_id: route.deployment_id,
        retired,
        upstreams: route.addresses.into_iter().map(&mut upstream).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(snapshot: bool, routes: &[(&str, &[&str])], removed: &[&str]) -> RouteUpdate {
        let routes = routes.iter().map(|(host, addresses)| WireRoute {
            host: (*host).to_owned(),
            deployment_id: "dep".to_owned(),
            state: RouteState::Serving.into(),
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
        });
        RouteUpdate {
            version: 1,
            snapshot,
            routes: routes.collect(),
            removed_hosts: removed.iter().map(|host| (*host).to_owned()).collect(),
        }
    }

    #[test]
    fn a_change_leaves_other_hosts_alone_and_a_snapshot_replaces_all() {
        let table = Table::default();
        table.apply(update(true, &[("a", &["1:1"]), ("b", &["2:2"])], &[]));
        table.apply(update(false, &[("c", &["3:3"])], &["a"]));
        assert!(
            table.route("a").is_none() && table.route("b").is_some() && table.route("c").is_some()
        );
        table.apply(update(true, &[("d", &[])], &[]));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn the_least_loaded_instance_goes_first_and_a_refusing_one_last() {
        let table = Table::default();
        table.apply(update(true, &[("a", &["1:1", "2:2"])], &[]));
        let route = table.route("a").unwrap();
        let busy = route.upstreams[0].enter();
        assert_eq!(route.by_load(0)[0].address, "2:2");
        route.upstreams[1].shun(0);
        assert_eq!(route.by_load(10)[0].address, "1:1");
        drop(busy);
    }

    #[test]
    fn load_counters_survive_a_change_of_routes() {
        let table = Table::default();
        table.apply(update(true, &[("a", &["1:1", "2:2"])], &[]));
        let _busy = table.route("a").unwrap().upstreams[0].enter();
        table.apply(update(true, &[("b", &["1:1", "2:2"])], &[]));
        assert_eq!(table.route("b").unwrap().by_load(0)[0].address, "2:2");
    }

    #[test]
    fn the_last_good_table_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("routes.json");
        let table = Table::default();
        table.apply(update(true, &[("a", &["1:1"])], &[]));
        table.save_file(&path).unwrap();
        let restarted = Table::default();
        assert_eq!(restarted.load_file(&path).unwrap(), 1);
        assert_eq!(restarted.route("a").unwrap().upstreams[0].address, "1:1");
    }
}
