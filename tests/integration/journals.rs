//! What is said of a deployment outlives what Restate remembers of it.

use serde_json::Value;

use crate::support::{App, Installation, eventually, text};

const QUICK: [&str; 1] = ["recovery.every=200ms"];

/// Makes Restate forget an invocation.
fn purge(here: &Installation, invocation: &str) {
    let answer = here.operate(invocation, "purge");
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn names(journal: &Value) -> Vec<(String, String)> {
    let entries = journal["entries"].as_array().unwrap();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    entries.iter().map(|entry| (text(entry, "entry"), text(entry, "name"))).collect()
}

/// The log says so once per journal.
fn wait_saved(here: &Installation, id: &str, attempt: u32) {
    eventually("the journal is saved", || {
        let log = here.log();
        let saved = |line: &str| {
            line.contains("journal saved")
                && line.contains(id)
                && line.contains(&format!("attempt={attempt}"))
        };
        log.lines().any(saved).then_some(())
    });
}

#[test]
fn a_journal_is_shown_after_restate_has_forgotten_it() {
    let here = Installation::start_with(&QUICK);
    let live = here.deploy(App::new("kept", "").path(), &["--project", "shop"]);
    let id = live["deployment_id"].as_str().unwrap();
    wait_saved(&here, id, 1);
    let before = here.json(&["journal", id]);
    assert_eq!(before["from_history"], false);
    purge(&here, live["invocation_id"].as_str().unwrap());
    let after = eventually("Restate has forgotten it", || {
        let journal = here.json(&["journal", id]);
        (journal["from_history"] == true).then_some(journal)
    });
    assert_eq!(after["entries"], before["entries"]);
    // What follows the commit point is part of it.
    for name in ["load-deployment", "build-image", "Routing/assign", "retire-previous"] {
        assert!(names(&after).iter().any(|(_, known)| known == name), "{name}: {after:#}");
    }
    let output = here.run(&["journal", id]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("saved"), "{}", text(&output));
    let output = here.run(&["journal", id, "--attempt", "2"]);
    assert_eq!(output.status.code(), Some(9), "{}", text(&output));
    assert!(text(&output).contains("no attempt 2"), "{}", text(&output));
}

#[test]
fn why_says_what_failed_what_to_do_and_that_a_forgotten_attempt_cannot_be_retried() {
    let here = Installation::start_with(&["recovery.every=200ms", "run.ready_timeout=1s"]);
    let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY www /www\nCMD [\"/bin/busybox\", \"sleep\", \"600\"]\n";
    let app = App::with_dockerfile("", dockerfile);
    let id = here.submit(app.path(), &["--project", "shop"]);
    let first = here.wait_status(&id, &["failed"]);
    let why = here.json(&["why", &id]);
    let keys: Vec<&str> = why.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected =
        ["type", "deployment_id", "state", "waiting_for", "since", "next", "remedy", "paragraph"];
    expected.sort_unstable();
    assert_eq!(keys, expected);
    assert_eq!((&why["waiting_for"], &why["next"]), (&Value::Null, &Value::Null));
    let paragraph = why["paragraph"].as_str().unwrap();
    for said in ["await-ready", "not-ready", "stopped the instances", "docs/errors/not-ready.md"] {
        assert!(paragraph.contains(said), "{said}: {paragraph}");
    }
    let retry = format!("`launchway retry {id}` goes on at `deploy-to-krane`");
    assert!(paragraph.contains(&retry), "{paragraph}");

    here.run(&["retry", &id]);
    let second = here.wait_status(&id, &["failed"]);
    assert_eq!(second["attempt"], 2);
    wait_saved(&here, &id, 1);
    wait_saved(&here, &id, 2);
    let earlier = here.json(&["journal", &id, "--attempt", "1"]);
    for invocation in [&first["invocation_id"], &second["invocation_id"]] {
        purge(&here, invocation.as_str().unwrap());
    }
    let why = eventually("Restate has forgotten it", || {
        let why = here.json(&["why", &id]);
        why["remedy"].as_str()?.contains("launchway redeploy").then_some(why)
    });
    assert!(why["remedy"].as_str().unwrap().contains("forgotten its journal"), "{why:#}");
    let saved = here.json(&["journal", &id, "--attempt", "1"]);
    assert_eq!(
        (&saved["from_history"], &saved["entries"]),
        (&Value::Bool(true), &earlier["entries"])
    );
    assert!(names(&saved).iter().any(|(_, name)| name == "undo-deploy-to-krane"), "{saved:#}");
}

#[test]
fn why_explains_a_deployment_in_flight_and_says_when_restate_does_not_answer() {
    let here = Installation::start();
    here.arm("build-image", "before");
    let id = here.submit(App::new("held", "").path(), &["--project", "shop"]);
    here.wait_parked("build-image", "before");
    let why = here.json(&["why", &id]);
    assert_eq!((&why["state"], &why["waiting_for"]), (&"building".into(), &"the builder".into()));
    assert!(why["next"].as_str().unwrap().contains("`build-timeout`"), "{why:#}");
    assert!(why["since"].as_i64().unwrap() > 1_700_000_000_000, "{why:#}");
    // Held as a frozen process: it is there and does not answer.
    let restate = here.child("restate-server");
    crate::support::signal("STOP", restate);
    let silent = here.json(&["why", &id]);
    crate::support::signal("CONT", restate);
    assert_eq!(silent["waiting_for"], "Restate to answer", "{silent:#}");
    assert!(silent["paragraph"].as_str().unwrap().contains("does not answer"), "{silent:#}");

    let output = here.run(&["why", "dep_00000000000000000000000000"]);
    assert_eq!(output.status.code(), Some(9), "{}", text(&output));
}
