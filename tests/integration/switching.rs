//! 200 requests a second while everything changes: not one fails.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    support::{App, Installation, docker, eventually, signal, text},
    traffic::Traffic,
};

const HOST: &str = "shop-preview-local.localhost";
const RATE: u32 = 200;
const GREETINGS: &[&str] = &["one", "two", "three", "four"];

fn traffic(here: &Installation) -> Traffic {
    Traffic::start(here.address("gateway.bind"), HOST, GREETINGS, RATE)
}

/// Two instances, so that one may die.
fn deployed(here: &Installation, greeting: &str) -> String {
    let app = App::new(greeting, "");
    let result = here.deploy(app.path(), &["--project", "shop", "--replicas", "2"]);
    result["deployment_id"].as_str().unwrap().to_owned()
}

/// Where the gateway sends requests for the host.
fn addresses(here: &Installation) -> Vec<String> {
    let table = std::fs::read(here.data().join("routes.json")).unwrap_or_default();
    let table: Value = serde_json::from_slice(&table).unwrap_or_default();
    let routes = table["routes"].as_array().into_iter().flatten();
    let addresses = routes.filter(|route| route["host"] == HOST).map(|route| &route["addresses"]);
    addresses.flat_map(|all| all.as_array().unwrap().clone()).map(|at| at.to_string()).collect()
}

/// How long it took from the command to the first answer of `greeting`.
fn switched(traffic: &Traffic, greeting: &str, command: impl FnOnce()) -> Duration {
    traffic.forget();
    let begun = Instant::now();
    command();
    traffic.first(greeting, begun)
}

fn report(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    println!("{what}: median {:?}, worst {:?}", took[took.len() / 2], took[took.len() - 1]);
}

#[test]
fn deploy_rollback_and_promote_lose_no_request() {
    let here = Installation::start_with(&["run.retire_after=500ms"]);
    let mut previous = deployed(&here, "one");
    let traffic = traffic(&here);
    let (mut deploys, mut rollbacks, mut promotes) = (Vec::new(), Vec::new(), Vec::new());
    for (at, greeting) in GREETINGS.iter().enumerate().skip(1) {
        let mut id = String::new();
        deploys.push(switched(&traffic, greeting, || id = deployed(&here, greeting)));
        rollbacks.push(switched(&traffic, GREETINGS[at - 1], || {
            here.json(&["rollback", &previous]);
        }));
        promotes.push(switched(&traffic, greeting, || {
            here.json(&["promote", &id]);
        }));
        previous = id;
    }
    traffic.assert_no_failure();
    report("deploy", deploys);
    report("rollback", rollbacks);
    report("promote", promotes);
}

#[test]
fn a_killed_instance_loses_no_request() {
    let here = Installation::start();
    let id = deployed(&here, "one");
    let traffic = traffic(&here);
    let mut before = Vec::new();
    for _ in 0..3 {
        // The killed one comes back at another address.
        before = eventually("the gateway has both instances", || {
            let now = addresses(&here);
            (now.len() == 2 && now != before).then_some(now)
        });
        let victim = here.containers(&id).swap_remove(0);
        // What `docker kill` ends, the engine does not start again.
        let pid = docker(&["inspect", "--format", "{{.State.Pid}}", &victim]).swap_remove(0);
        signal("KILL", pid.parse().unwrap());
        traffic.more(2 * RATE as usize);
    }
    traffic.assert_no_failure();
}

#[test]
fn instances_that_are_to_go_get_no_requests_while_they_still_run() {
    let here = Installation::start_with(&["run.retire_after=200ms"]);
    let result = here.deploy(App::new("one", "").path(), &["--project", "shop", "--replicas", "3"]);
    let id = result["deployment_id"].as_str().unwrap();
    eventually("the gateway has all", || (addresses(&here).len() == 3).then_some(()));
    here.arm("apply-scale", "run");
    let mut scale = here.cli(&["scale", "1", "--project", "shop"]).spawn().unwrap();
    here.wait_parked("apply-scale", "run");
    // What the gateway routes by is on disk a moment later.
    eventually("two get no more requests", || (addresses(&here).len() == 1).then_some(()));
    assert_eq!(here.containers(id).len(), 3, "they were stopped before");
    here.release("apply-scale", "run");
    assert!(scale.wait().unwrap().success());
    assert_eq!((here.containers(id).len(), addresses(&here).len()), (1, 1));
}

#[test]
fn a_scale_up_and_down_loses_no_request() {
    let here = Installation::start_with(&["run.retire_after=500ms"]);
    let app = App::new("one", "");
    let result = here.deploy(app.path(), &["--project", "shop"]);
    let id = result["deployment_id"].as_str().unwrap();
    let traffic = traffic(&here);
    for replicas in ["4", "1", "3", "2"] {
        let scaled = here.json(&["scale", replicas, "--project", "shop"]);
        let count: usize = replicas.parse().unwrap();
        assert_eq!(scaled["to"]["replicas"], count, "{scaled:#}");
        assert_eq!(here.containers(id).len(), count);
        eventually("the gateway has just these", || {
            (addresses(&here).len() == count).then_some(())
        });
        traffic.more(RATE as usize / 2);
    }
    traffic.assert_no_failure();
}

#[test]
fn a_restart_of_up_loses_no_request() {
    let mut here = Installation::start();
    deployed(&here, "one");
    let traffic = traffic(&here);
    let gateway = here.child("gateway");
    here.kill_up();
    traffic.more(RATE as usize);
    here.up();
    traffic.more(RATE as usize);
    let stopped = here.down(&["--keep-gateway"]);
    assert!(stopped.status.success(), "{}", text(&stopped));
    traffic.more(RATE as usize);
    here.up();
    assert_eq!(here.child("gateway"), gateway, "the gateway was restarted");
    let took = switched(&traffic, "two", || {
        deployed(&here, "two");
    });
    traffic.assert_no_failure();
    report("the first deploy after it", vec![took]);
}

#[test]
fn control_plane_worker_and_restate_away_lose_no_request() {
    away_for(10);
}

#[test]
#[ignore = "a minute without a control plane: ./dev chaos"]
fn control_plane_worker_and_restate_away_for_a_minute_lose_no_request() {
    away_for(60);
}

fn away_for(seconds: u32) {
    let mut here = Installation::start();
    deployed(&here, "one");
    let traffic = traffic(&here);
    let gone = Instant::now();
    here.kill_up();
    signal("KILL", here.child("restate-server"));
    traffic.more((seconds * RATE) as usize);
    assert!(gone.elapsed().as_secs() >= u64::from(seconds) * 9 / 10, "{:?}", gone.elapsed());
    here.up();
    switched(&traffic, "two", || {
        deployed(&here, "two");
    });
    traffic.assert_no_failure();
}
