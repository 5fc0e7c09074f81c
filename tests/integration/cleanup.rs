//! `gc`, on real images, contexts and a real disk.

use std::{path::PathBuf, process::Command};

use serde_json::Value;

use crate::{
    servers::{ages::age, private::Private},
    support::{App, Installation, docker, eventually, signal, text},
};

const SETTINGS: [&str; 5] = [
    "run.keep_running=0",
    "run.retire_after=10ms",
    "retention.restorable=1",
    "retention.records=60d",
    "recovery.every=200ms",
];

fn count(found: &Value, kind: &str) -> u64 {
    let amounts = found["amounts"].as_array().unwrap();
    let amount = amounts.iter().find(|amount| amount["kind"] == kind);
    amount.map_or(0, |amount| amount["count"].as_u64().unwrap())
}

fn has_image(reference: &str) -> bool {
    !docker(&["images", "-q", "--filter", &format!("reference={reference}")]).is_empty()
}

#[test]
fn gc_lists_and_removes_what_is_past_and_nothing_that_is_needed() {
    let mut here = Installation::start_with(&SETTINGS);
    let live = |greeting: &str| {
        let result = here.deploy(App::new(greeting, "").path(), &["--project", "shop"]);
        let id = result["deployment_id"].as_str().unwrap().to_owned();
        (id, result["image"].as_str().unwrap().to_owned())
    };
    let (oldest, oldest_image) = live("one");
    let (older, older_image) = live("two");
    here.wait_status(&oldest, &["retired"]);
    let (newest, newest_image) = live("three");
    here.wait_status(&older, &["retired"]);
    let nothing = here.json(&["gc", "--dry-run"]);
    assert_eq!(nothing["items"], Value::Array(Vec::new()), "{nothing:#}");

    here.stop_up();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(age(&here.data().join("launchway.db"), 100));
    let before = here.contexts();
    assert_eq!(before.len(), 3, "{before:?}");
    for context in &before {
        let touched = Command::new("touch").args(["-d", "100 days ago"]).arg(context).status();
        assert!(touched.unwrap().success());
    }
    here.up();
    let listed = here.json(&["prune", "--dry-run"]);
    let kinds = ["context", "image", "build-log", "record"].map(|kind| count(&listed, kind));
    assert_eq!(kinds, [3, 1, 2, 0], "{listed:#}");
    let items = listed["items"].as_array().unwrap();
    let image = items.iter().find(|item| item["kind"] == "image").unwrap();
    assert_eq!(image["name"], oldest_image.as_str());
    assert!(image["size"].as_u64().unwrap() > 1_000_000, "{image}");
    assert!(has_image(&oldest_image) && here.contexts().len() == 3, "a dry run removes nothing");

    let holder = docker(&["create", &oldest_image]).swap_remove(0);
    let removed = here.json(&["gc"]);
    let kinds = ["context", "image", "record"].map(|kind| count(&removed, kind));
    assert_eq!(kinds, [3, 0, 0], "{removed:#}");
    assert!(has_image(&oldest_image), "a container has it");
    let listed = here.json(&["gc", "--dry-run"]);
    assert_eq!(count(&listed, "image"), 1, "it is on the list until it is gone: {listed:#}");
    docker(&["rm", &holder]);

    let removed = here.json(&["gc"]);
    let kinds = ["image", "record"].map(|kind| count(&removed, kind));
    assert_eq!(kinds, [1, 1], "{removed:#}");
    assert!(!has_image(&oldest_image), "its image is still there");
    assert!(has_image(&older_image) && has_image(&newest_image));
    assert_eq!(here.contexts(), Vec::<PathBuf>::new());
    assert_eq!(here.run(&["inspect", &oldest]).status.code(), Some(9));
    assert_eq!(here.get("shop-preview-local.localhost", "/").body, "three");
    let refused = here.run(&["redeploy", &newest]);
    assert_eq!(refused.status.code(), Some(9), "{}", text(&refused));
    here.json(&["rollback", &older]);
    assert_eq!(here.get("shop-preview-local.localhost", "/").body, "two");
    let said = text(&here.run(&["gc"]));
    assert!(said.contains("nothing is past its retention"), "{said}");
}

/// Nobody has to ask for it.
#[test]
fn what_is_past_goes_by_itself() {
    let settings = [&SETTINGS[..], &["retention.every=500ms"]].concat();
    let mut here = Installation::start_with(&settings);
    let failing = App::new("", r#"RUN ["/bin/busybox", "false"]"#);
    let failed = here.run(&["deploy", &failing.path().display().to_string(), "-p", "shop"]);
    assert_eq!(failed.status.code(), Some(3), "{}", text(&failed));
    here.stop_up();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(age(&here.data().join("launchway.db"), 100));
    here.up();
    eventually("its record is removed", || {
        here.json(&["list"])["deployments"].as_array().unwrap().is_empty().then_some(())
    });
}

/// A disk that is nearly full is said before the build, not in its middle.
#[test]
fn a_build_without_room_says_so_with_the_disk_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Private::prepare(dir.path()).with_a_disk_of(200);
    let mut process = engine.command().spawn().unwrap();
    eventually("the engine answers", || engine.answers().then_some(()));
    let mut here = Installation::prepare(&["build.min_free_bytes=300000000"]);
    here.set_env("DOCKER_HOST", &engine.host());
    here.up();
    let id = here.submit(App::new("no room", "").path(), &["--project", "shop"]);
    let disk = engine.data().display().to_string();
    eventually("the step says so", || {
        let shown = here.inspect(&id);
        let steps = shown["steps"].as_array().unwrap();
        let mut said = steps.iter().filter_map(|step| step["error"].as_str());
        said.any(|said| said.contains(&disk) && said.contains("launchway gc")).then_some(())
    });
    assert!(here.run(&["cancel", &id]).status.success());
    drop(here);
    signal("TERM", process.id());
    process.wait().unwrap();
}
