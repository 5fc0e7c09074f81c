//! The route feed: hostnames from the database and addresses from krane,
//! merged, numbered and streamed to the gateways.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{Stream, StreamExt};
use launchway_proto::gateway::v1::{
    Route, RouteState, RouteUpdate, WatchRoutesRequest, route_service_server::RouteService,
};
use launchway_workflows::{
    ids::DeploymentId,
    model::Instance,
    ports::{EvictionState, RouteAnnouncer, StoreError},
    status::DeploymentStatus,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::Demand;
use crate::{
    krane::KraneClient,
    store::{ChangeLog, RouteRow, Store},
};

/// How often routes changed by another process are looked for.
const TICK: Duration = Duration::from_secs(1);
/// Pause before krane is watched again.
const RECONNECT: Duration = Duration::from_millis(200);
/// Longest wait for the gateways to route by the present table.
const ANNOUNCE: Duration = Duration::from_secs(1);

/// Copied at each change, so what it has is shared.
#[derive(Debug, Default, Clone)]
struct RouteTable {
    version: u64,
    by_host: HashMap<Arc<str>, Arc<Route>>,
}

/// Where ready instances are.
#[derive(Default)]
struct Addresses {
    by_deployment: HashMap<DeploymentId, Vec<Instance>>,
    changes: ChangeLog,
}

/// How much of the changes the table includes; counts.
#[derive(Default)]
struct Seen {
    routes: u64,
    addresses: u64,
}

/// See the module.
pub struct RouteFeed {
    store: Store,
    krane: KraneClient,
    demand: Arc<Demand>,
    table: watch::Sender<Arc<RouteTable>>,
    /// Changes in the database that the table includes.
    built: watch::Sender<u64>,
    /// `None` until krane has said what runs: routes without instances would
    /// take traffic away from instances that serve.
    addresses: watch::Sender<Option<Addresses>>,
    /// The version each connected gateway routes by.
    applied: Mutex<HashMap<u64, watch::Receiver<u64>>>,
    next_gateway: std::sync::atomic::AtomicU64,
}

impl RouteFeed {
    /// A feed; [`RouteFeed::run`] keeps it up to date.
    pub fn new(store: Store, krane: KraneClient, demand: Arc<Demand>) -> Arc<Self> {
        Arc::new(Self {
            store,
            krane,
            demand,
            table: watch::channel(Arc::default()).0,
            built: watch::channel(0).0,
            addresses: watch::channel(None).0,
            applied: Mutex::default(),
            next_gateway: std::sync::atomic::AtomicU64::new(0),
        })
    }

    /// Follows krane and the database, forever.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(self.follow_krane(), self.follow_routes());
    }

    async fn follow_krane(&self) {
        loop {
            if let Err(error) = self.follow_krane_once().await {
                tracing::debug!(error = %error.failure(), "krane is watched again");
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    /// What is known stays until krane's present state has replaced it: routes
    /// survive a restart of krane.
    async fn follow_krane_once(&self) -> Result<(), launchway_workflows::error::StepError> {
        let mut changes = self.krane.watch_all().await?;
        let mut present = Some(HashMap::new());
        while let Some(change) = changes.next().await {
            let change = change?;
            // A process without a port has no address and gets no requests.
            let routed = |instance: &Instance| instance.ready && !instance.address.is_empty();
            let addresses: Vec<_> = change.instances.into_iter().filter(routed).collect();
            match (change.deployment_id, &mut present) {
                (None, _) => {
                    if let Some(by_deployment) = present.take() {
                        self.addresses.send_modify(|known| {
                            let known = known.get_or_insert_default();
                            known.by_deployment = by_deployment;
                            known.changes.forget();
                        });
                    }
                }
                (Some(id), Some(present)) => {
                    present.insert(id, addresses);
                }
                (Some(id), None) => self.addresses.send_modify(|known| {
                    let known = known.get_or_insert_default();
                    known.changes.note(&id);
                    if addresses.is_empty() {
                        known.by_deployment.remove(&id);
                    } else {
                        known.by_deployment.insert(id, addresses);
                    }
                }),
            }
        }
        Ok(())
    }

    /// The only one who builds tables: changes that come while it does so are
    /// in the next one, together.
    async fn follow_routes(&self) {
        let (mut routes, mut addresses) = (self.store.route_changes(), self.addresses.subscribe());
        let mut seen = None;
        loop {
            seen = match self.refresh(seen, &mut routes, &mut addresses).await {
                Ok(seen) => Some(seen),
                Err(error) => {
                    tracing::warn!(%error, "cannot read the routes; the present ones stay");
                    None
                }
            };
            tokio::select! {
                changed = routes.changed() => if changed.is_err() { return },
                changed = addresses.changed() => if changed.is_err() { return },
                // What other processes have changed, too.
                () = tokio::time::sleep(TICK) => seen = None,
            }
        }
    }

    /// Reads what has changed since `seen`, or everything; a table that has
    /// changed gets the next version.
    async fn refresh(
        &self,
        seen: Option<Seen>,
        routes: &mut watch::Receiver<ChangeLog>,
        addresses: &mut watch::Receiver<Option<Addresses>>,
    ) -> Result<Seen, StoreError> {
        let mut changed = seen.is_some().then(HashSet::new);
        let seen = seen.unwrap_or_default();
        let mut now = Seen::default();
        {
            let log = routes.borrow_and_update();
            now.routes = log.count();
            collect(&mut changed, log.since(seen.routes));
            if let Some(known) = addresses.borrow_and_update().as_ref() {
                now.addresses = known.changes.count();
                collect(&mut changed, known.changes.since(seen.addresses));
            }
        }
        let rows = match &changed {
            None => self.store.route_rows().await?,
            Some(ids) => {
                let mut rows = Vec::new();
                for id in ids {
                    rows.extend(self.store.route_rows_of(id).await?);
                }
                rows
            }
        };
        self.publish(rows, changed.is_none());
        self.built.send_replace(now.routes);
        Ok(now)
    }

    /// Puts the routes into the table, or in its place. Only a reading of the
    /// whole takes a host out: one that a deployment has no more may have moved
    /// to another one, whose change is still to come.
    fn publish(&self, rows: Vec<RouteRow>, whole: bool) {
        let routes: HashMap<Arc<str>, Arc<Route>> = {
            let addresses = self.addresses.borrow();
            let Some(addresses) = addresses.as_ref() else { return };
            rows.into_iter().map(|row| route(row, &addresses.by_deployment)).collect()
        };
        self.table.send_if_modified(|table| {
            let known = |(host, route)| has(table, host, route);
            let same = routes.iter().all(known) && (!whole || routes.len() == table.by_host.len());
            if same {
                return false;
            }
            let mut by_host = if whole { HashMap::new() } else { table.by_host.clone() };
            by_host.extend(routes);
            *table = Arc::new(RouteTable { version: table.version + 1, by_host });
            true
        });
    }

    /// As [`RouteAnnouncer::announce`], whichever process has changed the routes.
    pub(super) async fn announce_of(&self, id: &DeploymentId) {
        self.store.routes_changed(id);
        self.announce().await;
    }

    fn gateways(&self) -> MutexGuard<'_, HashMap<u64, watch::Receiver<u64>>> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl RouteAnnouncer for RouteFeed {
    async fn announce(&self) {
        let committed = self.store.route_changes().borrow().count();
        let all_applied = async {
            let _ = self.built.subscribe().wait_for(|built| *built >= committed).await;
            let version = self.table.borrow().version;
            let connected: Vec<_> = self.gateways().values().cloned().collect();
            for mut applied in connected {
                // A gateway that goes away catches up by itself.
                let _ = applied.wait_for(|applied| *applied >= version).await;
            }
        };
        if tokio::time::timeout(ANNOUNCE, all_applied).await.is_err() {
            tracing::warn!("a gateway has not confirmed the new routes yet");
        }
    }
}

#[tonic::async_trait]
impl RouteService for RouteFeed {
    type WatchRoutesStream = Pin<Box<dyn Stream<Item = Result<RouteUpdate, Status>> + Send>>;

    async fn watch_routes(
        &self,
        request: Request<Streaming<WatchRoutesRequest>>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        let number = self.next_gateway.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (applied, receiver) = watch::channel(0);
        self.gateways().insert(number, receiver);
        let mut reports = request.into_inner();
        let demand = Arc::clone(&self.demand);
        tokio::spawn(async move {
            // Ends with the gateway's connection, and its entry with it.
            let mut watching = None;
            while let Ok(Some(report)) = reports.message().await {
                applied.send_replace(report.applied_version);
                watching.get_or_insert_with(|| demand.watched(report.reports_demand));
                demand.hear(report.active_deployment_ids, report.wanted_deployment_ids);
            }
        });
        self.gateways().retain(|_, receiver| receiver.has_changed().is_ok());
        let mut table = self.table.subscribe();
        table.mark_changed();
        let updates = futures::stream::unfold((table, None), |(mut table, sent)| async move {
            table.changed().await.ok()?;
            let present = Arc::clone(&table.borrow_and_update());
            let update = update(sent.as_deref(), &present);
            Some((Ok(update), (table, Some(present))))
        });
        // Before the first reading there is nothing true to say.
        let updates = updates.filter(|update| {
            let known = update.as_ref().is_ok_and(|update: &RouteUpdate| update.version > 0);
            std::future::ready(known)
        });
        Ok(Response::new(updates.boxed()))
    }
}

/// `changed` is `None` when everything is to be read.
fn collect<'a>(
    changed: &mut Option<HashSet<DeploymentId>>,
    new: Option<impl Iterator<Item = &'a DeploymentId>>,
) {
    match (changed.as_mut(), new) {
        (Some(ids), Some(new)) => ids.extend(new.cloned()),
        _ => *changed = None,
    }
}

fn has(table: &RouteTable, host: &Arc<str>, route: &Arc<Route>) -> bool {
    table.by_host.get(host).is_some_and(|known| Arc::ptr_eq(known, route) || known == route)
}

fn route(row: RouteRow, ready: &HashMap<DeploymentId, Vec<Instance>>) -> (Arc<str>, Arc<Route>) {
    // Those that are about to be stopped get no more requests.
    let serves = |instance: &&Instance| {
        let drained = row.drained.as_ref().filter(|drained| drained.process == instance.process);
        drained.is_none_or(|drained| instance.replica < drained.from)
    };
    let instances = ready.get(&row.deployment_id).into_iter().flatten().filter(serves);
    let mut addresses: Vec<_> = instances.map(|instance| instance.address.clone()).collect();
    let state = state(&row, !addresses.is_empty());
    if state != RouteState::Serving {
        addresses.clear();
    }
    let route = Route {
        host: row.host.clone(),
        deployment_id: row.deployment_id.to_string(),
        state: state.into(),
        addresses,
        start_failed: state == RouteState::Evicted && row.start_failed,
    };
    (row.host.into(), Arc::new(route))
}

/// What becomes of requests, when there are ready instances or not.
fn state(row: &RouteRow, ready: bool) -> RouteState {
    match (row.status, row.eviction) {
        (DeploymentStatus::Retired | DeploymentStatus::Retiring, _) => RouteState::Retired,
        (_, Some(EvictionState::Evicting | EvictionState::Evicted)) => RouteState::Evicted,
        (_, Some(EvictionState::Starting)) if !ready => RouteState::Evicted,
        _ => RouteState::Serving,
    }
}

/// The whole table at first, then what has changed.
fn update(sent: Option<&RouteTable>, present: &RouteTable) -> RouteUpdate {
    let Some(sent) = sent.filter(|sent| sent.version > 0) else {
        let routes = present.by_host.values().map(|route| Route::clone(route)).collect();
        return RouteUpdate {
            version: present.version,
            snapshot: true,
            routes,
            removed_hosts: Vec::new(),
        };
    };
    let changed = present.by_host.iter().filter(|(host, route)| !has(sent, host, route));
    let removed = sent.by_host.keys().filter(|host| !present.by_host.contains_key(*host));
    RouteUpdate {
        version: present.version,
        snapshot: false,
        routes: changed.map(|(_, route)| Route::clone(route)).collect(),
        removed_hosts: removed.map(|host| host.to_string()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(version: u64, routes: &[(&str, &str)]) -> RouteTable {
        let by_host = routes.iter().map(|(host, address)| {
            let route = Route {
                host: (*host).to_owned(),
                addresses: vec![(*address).to_owned()],
                ..Route::default()
            };
            (Arc::from(*host), Arc::new(route))
        });
        RouteTable { version, by_host: by_host.collect() }
    }

    #[test]
    fn a_gateway_gets_everything_first_and_then_only_changes() {
        let (first, second) =
            (table(1, &[("a", "1"), ("b", "1")]), table(2, &[("a", "2"), ("c", "1")]));
        let snapshot = update(None, &first);
        assert!(snapshot.snapshot && snapshot.routes.len() == 2);
        let change = update(Some(&first), &second);
        let mut hosts: Vec<_> = change.routes.iter().map(|route| route.host.as_str()).collect();
        hosts.sort_unstable();
        assert_eq!(
            (change.snapshot, hosts, change.removed_hosts),
            (false, vec!["a", "c"], vec!["b".to_owned()])
        );
    }
}
