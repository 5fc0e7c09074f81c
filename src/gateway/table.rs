//! The routing table: immutable once published, cheap to change by a little.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use launchway_proto::gateway::v1;
use serde::{Deserialize, Serialize};

use super::{
    clock,
    demand::{Activities, Activity},
    host,
    upstream::Upstream,
};

/// At 10 000 hosts a change copies one shard of some 40 pointers and the 256
/// pointers to the shards, instead of the whole table.
const SHARDS: usize = 256;

/// What becomes of a request for a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RouteState {
    /// It goes to one of the addresses.
    #[default]
    Serving,
    /// It is told how to bring the deployment back.
    Retired,
    /// It waits until the deployment is started again.
    Evicted {
        /// The last start has failed.
        start_failed: bool,
    },
}

/// Where one host goes, as fed and as persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RouteSpec {
    pub host: String,
    pub deployment_id: String,
    /// Absent in tables that were persisted before there was more than serving.
    #[serde(default)]
    pub state: RouteState,
    /// `host:port` of each ready instance.
    pub addresses: Vec<String>,
}

/// A route from the feed that cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("route for `{host}` is refused: {rule}")]
pub(super) struct InvalidRoute {
    pub host: String,
    pub rule: &'static str,
}

impl TryFrom<v1::Route> for RouteSpec {
    type Error = InvalidRoute;

    fn try_from(route: v1::Route) -> Result<Self, InvalidRoute> {
        let refuse = |rule| InvalidRoute { host: route.host.clone(), rule };
        if host::routed(&route.host).as_deref() != Some(route.host.as_str()) {
            return Err(refuse("the host must be lower case, without port and trailing dot"));
        }
        let state = match route.state() {
            v1::RouteState::Serving => RouteState::Serving,
            v1::RouteState::Retired => RouteState::Retired,
            v1::RouteState::Evicted => RouteState::Evicted { start_failed: route.start_failed },
            v1::RouteState::Unspecified => {
                return Err(refuse("its state is unknown to this gateway"));
            }
        };
        if route.addresses.iter().any(|address| !is_address(address)) {
            return Err(refuse("each address must be host:port"));
        }
        let v1::Route { host, deployment_id, addresses, .. } = route;
        Ok(Self { host, deployment_id, state, addresses })
    }
}

fn is_address(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}

/// One host's route with the live state of its instances.
pub(super) struct Route {
    pub spec: RouteSpec,
    pub upstreams: Vec<Arc<Upstream>>,
    pub activity: Arc<Activity>,
    turn: AtomicUsize,
}

impl Route {
    /// The least loaded instance that is not in `tried`; equal ones take
    /// turns, and one that refused lately comes last rather than never.
    pub fn choose(&self, tried: &[usize]) -> Option<usize> {
        let count = self.upstreams.len();
        let start = if count > 1 { self.turn.fetch_add(1, Relaxed) % count } else { 0 };
        let now = clock::now_ms();
        (0..count)
            .map(|offset| (start + offset) % count)
            .filter(|at| !tried.contains(at))
            .min_by_key(|&at| (self.upstreams[at].is_down(now), self.upstreams[at].in_flight()))
    }
}

/// All routes at one version.
#[derive(Clone)]
pub(super) struct RouteTable {
    /// The control plane's number for this state; 0 before the first.
    pub version: u64,
    hasher: RandomState,
    /// Each sorted by host.
    shards: Vec<Arc<Vec<Arc<Route>>>>,
    len: usize,
}

impl RouteTable {
    pub fn empty() -> Self {
        let shards = vec![Arc::default(); SHARDS];
        Self { version: 0, hasher: RandomState::new(), shards, len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn find(&self, host: &str) -> Option<&Arc<Route>> {
        let shard = &self.shards[self.shard_of(host)];
        position(shard, host).ok().map(|at| &shard[at])
    }

    pub fn insert(&mut self, spec: RouteSpec, upstreams: &mut Upstreams) {
        let activity = upstreams.activities.of(&spec.deployment_id);
        let upstreams = spec.addresses.iter().map(|address| upstreams.get(address)).collect();
        let at = self.shard_of(&spec.host);
        let shard = Arc::make_mut(&mut self.shards[at]);
        let place = position(shard, &spec.host);
        let route = Arc::new(Route { spec, upstreams, activity, turn: AtomicUsize::new(0) });
        match place {
            Ok(at) => shard[at] = route,
            Err(at) => {
                shard.insert(at, route);
                self.len += 1;
            }
        }
    }

    pub fn remove(&mut self, host: &str) {
        let at = self.shard_of(host);
        if let Ok(place) = position(&self.shards[at], host) {
            Arc::make_mut(&mut self.shards[at]).remove(place);
            self.len -= 1;
        }
    }

    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    pub fn specs(&self) -> impl Iterator<Item = &RouteSpec> {
        self.routes().map(|route| &route.spec)
    }

    fn shard_of(&self, host: &str) -> usize {
        self.hasher.hash_one(host) as usize % SHARDS
    }
}

fn position(shard: &[Arc<Route>], host: &str) -> Result<usize, usize> {
    shard.binary_search_by(|route| route.spec.host.as_str().cmp(host))
}

/// The live state of each address, shared by all routes that lead there: the
/// commit, branch and environment hosts of a deployment are one load and one
/// pool. Used by the feed and the sweeper, never by a request.
pub(super) struct Upstreams {
    known: HashMap<String, Weak<Upstream>>,
    activities: Activities,
    /// How many workers keep connections to each.
    workers: usize,
}

impl Upstreams {
    pub fn new(workers: usize) -> Self {
        Self { known: HashMap::new(), activities: Activities::default(), workers }
    }

    fn get(&mut self, address: &str) -> Arc<Upstream> {
        if let Some(known) = self.known.get(address).and_then(Weak::upgrade) {
            return known;
        }
        let fresh = Arc::new(Upstream::new(address, self.workers));
        self.known.insert(address.to_owned(), Arc::downgrade(&fresh));
        fresh
    }

    /// Requests that instances work on.
    pub fn in_flight(&self) -> usize {
        self.known.values().filter_map(Weak::upgrade).map(|upstream| upstream.in_flight()).sum()
    }

    /// Closes connections unused for `max_idle`, forgets addresses without routes.
    pub fn sweep(&mut self, max_idle: Duration) {
        self.known.retain(|_, upstream| {
            upstream.upgrade().is_some_and(|upstream| {
                upstream.close_idle(max_idle);
                true
            })
        });
        self.activities.sweep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(host: &str, addresses: &[&str]) -> RouteSpec {
        RouteSpec {
            host: host.to_owned(),
            deployment_id: "dep_1".to_owned(),
            state: RouteState::Serving,
            addresses: addresses.iter().map(|&a| a.to_owned()).collect(),
        }
    }

    #[test]
    fn a_change_copies_only_the_shard_it_touches() {
        let mut upstreams = Upstreams::new(1);
        let mut before = RouteTable::empty();
        for n in 0..10_000 {
            before.insert(spec(&format!("app-{n}.localhost"), &["127.0.0.1:1"]), &mut upstreams);
        }
        let mut after = before.clone();
        after.insert(spec("app-7.localhost", &["127.0.0.1:2"]), &mut upstreams);
        let copied =
            before.shards.iter().zip(&after.shards).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        assert_eq!(copied, 1);
        assert_eq!((before.len(), after.len()), (10_000, 10_000));
        let address = |table: &RouteTable| {
            table.find("app-7.localhost").unwrap().spec.addresses.first().cloned().unwrap()
        };
        assert_eq!(address(&before), "127.0.0.1:1");
        assert_eq!(address(&after), "127.0.0.1:2");
        after.remove("app-7.localhost");
        assert!(after.find("app-7.localhost").is_none());
        assert_eq!(after.len(), 9_999);
    }

    #[test]
    fn hosts_of_one_instance_share_its_load() {
        let mut upstreams = Upstreams::new(1);
        let mut table = RouteTable::empty();
        table.insert(spec("a.localhost", &["127.0.0.1:1"]), &mut upstreams);
        table.insert(spec("b.localhost", &["127.0.0.1:1"]), &mut upstreams);
        let of = |host: &str| table.find(host).unwrap().upstreams[0].clone();
        assert!(Arc::ptr_eq(&of("a.localhost"), &of("b.localhost")));
    }

    #[test]
    fn the_least_loaded_instance_is_chosen_and_one_that_refused_comes_last() {
        let mut table = RouteTable::empty();
        let addresses = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"];
        table.insert(spec("a.localhost", &addresses), &mut Upstreams::new(1));
        let route = table.find("a.localhost").unwrap();
        let _busy = Upstream::lease(&route.upstreams[0], 0);
        route.upstreams[1].failed(Duration::from_secs(60));
        assert_eq!(route.choose(&[]), Some(2));
        assert_eq!(route.choose(&[2]), Some(0));
        assert_eq!(route.choose(&[0, 2]), Some(1));
        assert_eq!(route.choose(&[0, 1, 2]), None);
    }

    #[test]
    fn refuses_routes_that_no_request_could_use() {
        let good = v1::Route {
            host: "a.localhost".to_owned(),
            deployment_id: "dep_1".to_owned(),
            state: v1::RouteState::Serving.into(),
            addresses: vec!["127.0.0.1:80".to_owned()],
            start_failed: false,
        };
        assert!(RouteSpec::try_from(good.clone()).is_ok());
        for bad in [
            v1::Route { host: "A.localhost".to_owned(), ..good.clone() },
            v1::Route { host: "a.localhost:80".to_owned(), ..good.clone() },
            v1::Route { state: 77, ..good.clone() },
            v1::Route { addresses: vec!["127.0.0.1".to_owned()], ..good.clone() },
        ] {
            assert!(RouteSpec::try_from(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
