//! Workflows in flight run on the code that they began with.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};

use launchway_workflows::services::journal_version;

use crate::support::{App, Installation, docker, eventually, root, text};

/// A handler, and what it journals, in order.
type Order = (String, Vec<String>);

const VERSION: &str = "LAUNCHWAY_JOURNAL_VERSION";
/// The version of a launchway to come.
const NEXT: &str = "1000";

fn slow(greeting: &str, seconds: u32) -> App {
    let script =
        format!("/bin/busybox sleep {seconds}; exec /bin/busybox httpd -f -p 8080 -h /www");
    App::with_dockerfile(
        greeting,
        &format!(
            "FROM scratch\nCOPY busybox /bin/busybox\nCOPY www /www\n\
             CMD [\"/bin/busybox\", \"sh\", \"-c\", \"{script}\"]\n"
        ),
    )
}

#[test]
fn another_journal_version_waits_until_the_old_one_has_drained() {
    let mut here = Installation::start();
    let bad = App::new("bad", r#"RUN ["/bin/busybox", "false"]"#);
    let failed = here.run(&["deploy", &bad.path().display().to_string(), "--project", "shop"]);
    assert_eq!(failed.status.code(), Some(3), "{}", text(&failed));
    let failed =
        here.json(&["list"])["deployments"][0]["deployment_id"].as_str().unwrap().to_owned();

    here.deploy(App::new("serving", "").path(), &["--project", "other"]);
    let id = here.submit(slow("old", 4).path(), &["--project", "shop"]);
    here.wait_step(&id, "await-ready", "running");
    let load = here.load("other-preview-local.localhost", &["serving"]);
    let (gateway, restate) = (here.child("gateway"), here.child("restate-server"));
    here.kill_up();
    let refused = here.up_command(&[]).env(VERSION, NEXT).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    let said = text(&refused);
    assert!(said.contains("unfinished workflows") && said.contains("down --drain"), "{said}");
    // It has touched nothing of the old one.
    assert_eq!((here.child("gateway"), here.child("restate-server")), (gateway, restate));
    load.assert_no_failure();

    // The old one again: what was in flight goes on, and is let end.
    here.up();
    let drained = here.down(&["--drain"]);
    assert!(drained.status.success(), "{}", text(&drained));
    assert_eq!(here.stop_up(), Some(0));

    here.set_env(VERSION, NEXT);
    here.up();
    assert_eq!(here.inspect(&id)["status"], "live");
    here.deploy(App::new("new", "").path(), &["--project", "shop"]);
    let refused = here.run(&["retry", &failed]);
    assert_eq!(refused.status.code(), Some(9), "{}", text(&refused));
    let said = text(&refused);
    assert!(
        said.contains(&format!("version {}", journal_version())) && said.contains("version 1000"),
        "{said}"
    );
    assert!(said.contains(&format!("launchway redeploy {failed}")), "{said}");
}

/// What every handler journals, in order. A change here is a change of the
/// journal: raise `JOURNAL_VERSION`, then write the file anew with
/// `UPDATE_GOLDEN=1 ./dev test -E 'test(handlers_journal)'`.
#[test]
fn handlers_journal_what_this_version_of_the_journal_says() {
    let settings = [
        "build.concurrency=1",
        "run.retire_after=100ms",
        "run.keep_running=0",
        "recovery.every=1s",
        "recovery.grace=1s",
        "gateway.report_every=200ms",
        "retention.logs=1ms",
    ];
    let here = Installation::start_with(&settings);
    play(&here);
    let seen = journals(&here);
    let golden = root().join("tests/integration/journals.golden");
    let mut known = read(&fs::read_to_string(&golden).unwrap_or_default());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        // Some orders come about only now and then: those seen before stay.
        known.extend(seen.clone());
        fs::write(&golden, written(&known)).unwrap();
    }
    let unknown: BTreeSet<_> = seen.difference(&known).cloned().collect();
    let raise = "raise JOURNAL_VERSION in workflows/src/services/mod.rs";
    assert!(unknown.is_empty(), "{raise}; these are new:\n{}", written(&unknown));
    let handlers = |orders: &BTreeSet<Order>| -> BTreeSet<String> {
        orders.iter().map(|(handler, _)| handler.clone()).collect()
    };
    assert_eq!(handlers(&seen), handlers(&known), "{raise}, or play more here");
}

/// Everything that can happen to a deployment, once.
fn play(here: &Installation) {
    let live = |greeting: &str| {
        let result = here.deploy(App::new(greeting, "").path(), &["--project", "shop"]);
        result["deployment_id"].as_str().unwrap().to_owned()
    };
    let first = live("one");
    live("two");
    here.wait_status(&first, &["retired"]);
    here.json(&["rollback", &first]);
    let ready =
        here.json(&["deploy", &App::new("three", "").path().display().to_string(), "-p", "shop"]);
    here.json(&["promote", ready["deployment_id"].as_str().unwrap()]);
    here.json(&["redeploy", &first]);
    here.deploy(slow("later", 1).path(), &["--project", "shop"]);
    eventually("there is something to remove", || {
        let removed = here.json(&["gc"]);
        (!removed["amounts"].as_array()?.is_empty()).then_some(())
    });
    here.json(&["gc"]);
    here.json(&["build", &App::new("built", "").path().display().to_string(), "-p", "shop"]);
    let image = here.inspect(&first)["image"].as_str().unwrap().to_owned();
    here.json(&["deploy", "--image", &image, "-p", "other"]);

    let releasing = |command: &str| {
        let app = App::new("released", "");
        let file = format!("release = [\"/bin/busybox\", \"{command}\"]\n");
        fs::write(app.path().join("launchway.toml"), file).unwrap();
        app
    };
    here.deploy(releasing("true").path(), &["--project", "shop"]);
    let bad = releasing("false");
    let failed = here.run(&["deploy", &bad.path().display().to_string(), "-p", "shop"]);
    assert_eq!(failed.status.code(), Some(4), "{}", text(&failed));
    for replicas in ["2", "1"] {
        here.json(&["scale", replicas, "--project", "shop"]);
    }
    kill_scale(here);
    evictions(here);

    let exits = App::with_dockerfile(
        "",
        "FROM scratch\nCOPY busybox /bin/busybox\nCMD [\"/bin/busybox\", \"false\"]\n",
    );
    let failed = here.run(&["deploy", &exits.path().display().to_string(), "-p", "shop"]);
    assert_eq!(failed.status.code(), Some(4), "{}", text(&failed));
    let listed = here.json(&["list", "--status", "failed"]);
    let failed = listed["deployments"][0]["deployment_id"].as_str().unwrap();
    assert_eq!(here.run(&["retry", failed]).status.code(), Some(4));

    let endless = App::new("", r#"RUN ["/bin/busybox", "sleep", "86321"]"#);
    let building = here.submit(endless.path(), &["-p", "shop"]);
    here.wait_step(&building, "build-image", "running");
    let older = here.submit(App::new("older", "").path(), &["-p", "shop"]);
    here.wait_status(&older, &["queued"]);
    let newer = here.submit(App::new("newer", "").path(), &["-p", "shop"]);
    here.wait_status(&older, &["superseded"]);
    assert!(here.run(&["cancel", &building]).status.success());
    here.wait_status(&newer, &["live"]);

    let waiting = here.submit(slow("never", 600).path(), &["-p", "shop"]);
    here.wait_step(&waiting, "await-ready", "running");
    eventually("it is parked", || {
        let parked = "SELECT i.id FROM sys_invocation i JOIN sys_journal j ON j.id = i.id \
             WHERE i.target_service_name = 'Waits' AND i.status <> 'completed' \
             AND j.entry_type = 'Command: Sleep'";
        (!here.sql(parked).is_empty()).then_some(())
    });
    assert!(here.admin(&waiting, "kill").status < 300);
    here.wait_status(&waiting, &["failed"]);
}

/// Of a deployment that is started for a request, for a promotion, for a scale, and
/// in vain.
fn evictions(here: &Installation) {
    let app = App::new("quiet", "");
    fs::write(app.path().join("launchway.toml"), "idle_timeout = \"1s\"\n").unwrap();
    let id = here.submit(app.path(), &["-p", "quiet"]);
    let evicted = || {
        eventually("it is evicted", || {
            (here.inspect(&id)["eviction"]["state"] == "evicted").then_some(())
        });
    };
    evicted();
    assert_eq!(here.get("quiet-preview-local.localhost", "/").body, "quiet");
    // What was seen of it before its start is old.
    let old = json!({ "deployment_id": id, "active_at": 0, "stops": 0 });
    assert_eq!(here.ingress(&format!("Eviction/{id}/evict"), "old", &old).body, "false");
    let start = |key| here.ingress(&format!("Eviction/{id}/start"), key, &json!({})).body;
    assert!(start("runs").contains("nothing"));
    evicted();
    here.json(&["promote", &id]);
    evicted();
    here.json(&["scale", "2", "--project", "quiet"]);
    evicted();
    let image = here.inspect(&id)["image"].as_str().unwrap().to_owned();
    docker(&["rmi", "--force", &image]);
    assert!(start("gone").contains("failed"));
}

/// An operator does, and the reconciler takes it back.
fn kill_scale(here: &Installation) {
    here.arm("apply-scale", "run");
    let mut scale = here.cli(&["scale", "2", "--project", "shop"]);
    let mut scale = scale.stderr(std::process::Stdio::null()).spawn().unwrap();
    here.wait_parked("apply-scale", "run");
    let unfinished = "SELECT id FROM sys_invocation WHERE target_service_name = 'Scale' \
                      AND status <> 'completed'";
    for invocation in here.sql(unfinished) {
        let killed = here.operate(invocation["id"].as_str().unwrap(), "kill");
        assert!(killed.status < 300, "{killed:?}");
    }
    here.release("apply-scale", "run");
    assert!(!scale.wait().unwrap().success());
    eventually("it is taken back", || {
        let settled = "SELECT id FROM sys_invocation WHERE target_service_name = 'Scale' \
                       AND target_handler_name = 'settle' AND status = 'completed'";
        (!here.sql(settled).is_empty()).then_some(())
    });
}

/// The commands of every ended invocation, each order of them once.
fn journals(here: &Installation) -> BTreeSet<Order> {
    let rows = eventually("every workflow has ended", || {
        let unfinished = here
            .sql("SELECT id FROM sys_invocation WHERE status NOT IN ('completed', 'scheduled')");
        unfinished.is_empty().then(|| {
            here.sql(
                "SELECT i.target_service_name AS service, i.target_handler_name AS handler, j.id, \
                 j.entry_type, j.name, j.entry_json FROM sys_journal j JOIN sys_invocation i ON i.id = j.id \
                 WHERE i.status = 'completed' AND j.entry_type LIKE 'Command%' ORDER BY j.id, j.index",
            )
        })
    });
    let mut orders = BTreeSet::new();
    for invocation in rows.chunk_by(|a, b| a["id"] == b["id"]) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let handler =
            format!("{}/{}", text(&invocation[0]["service"]), text(&invocation[0]["handler"]));
        // A cancel may come at any await; what it interrupts is run again. And
        // there are as many retirements as there is something to retire.
        let mut entries: Vec<String> =
            invocation.iter().map(entry).filter(|entry| entry != "SendSignal").collect();
        entries.dedup();
        orders.insert((handler, entries));
    }
    orders
}

fn written(orders: &BTreeSet<Order>) -> String {
    let mut text = String::new();
    for (handler, entries) in orders {
        text.push_str(&format!("{handler}\n"));
        entries.iter().for_each(|entry| text.push_str(&format!("    {entry}\n")));
    }
    text
}

fn read(text: &str) -> BTreeSet<Order> {
    let mut orders: Vec<Order> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("    "), orders.last_mut()) {
            (Some(entry), Some((_, entries))) => entries.push(entry.to_owned()),
            _ => orders.push((line.to_owned(), Vec::new())),
        }
    }
    orders.into_iter().collect()
}

/// `Run load-deployment`, `Call Waits/ready`, …
fn entry(row: &Value) -> String {
    let kind = row["entry_type"].as_str().unwrap().trim_start_matches("Command: ");
    let mut name = row["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty()
        && let Some(json) = row["entry_json"].as_str()
        && let Some((_, rest)) = json.split_once("\"invocation_target\"")
    {
        let part = |key: &str| {
            let (_, value) = rest.split_once(&format!("\"{key}\":\""))?;
            Some(value.split('"').next()?.to_owned())
        };
        let called = (part("name").unwrap_or_default(), part("handler").unwrap_or_default());
        name = format!("{}/{}", called.0, called.1);
    }
    format!("{kind} {name}").trim_end().to_owned()
}
