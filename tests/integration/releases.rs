//! Back to an earlier deployment, and forward again.

use crate::support::{App, Installation, eventually, text};

const HOST: &str = "shop-preview-local.localhost";

fn deployed(here: &Installation, greeting: &str) -> String {
    let result = here.deploy(App::new(greeting, "").path(), &["--project", "shop"]);
    result["deployment_id"].as_str().unwrap().to_owned()
}

#[test]
fn rollback_pins_the_environment_until_promote() {
    let here = Installation::start();
    let first = deployed(&here, "one");
    let second = deployed(&here, "two");
    let load = here.load(HOST, &["one", "two", "three"]);

    let back = here.json(&["rollback", "--project", "shop"]);
    assert_eq!(
        (&back["deployment_id"], &back["previous"]),
        (&first.as_str().into(), &second.as_str().into())
    );
    assert_eq!(here.get(HOST, "/").body, "one");
    assert_eq!(here.inspect(&first)["status"], "live");
    assert_eq!(here.inspect(&second)["status"], "ready");

    // A new one is healthy and reachable, but does not take the environment.
    let app = App::new("three", "");
    let output = here.run(&["deploy", &app.path().display().to_string(), "--project", "shop"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(stderr.contains("pinned") && stderr.contains("launchway promote"), "{stderr}");
    let own = stdout.trim().trim_start_matches("http://").split(':').next().unwrap().to_owned();
    assert!(own.contains("-git-"), "the commit's URL: {stdout}");
    assert_eq!(here.get(&own, "/").body, "three");
    assert_eq!(here.get("shop-git-main-local.localhost", "/").body, "three");
    assert_eq!(here.get(HOST, "/").body, "one");

    let listed = here.json(&["list", "--project", "shop", "--limit", "1"]);
    let third = listed["deployments"][0]["deployment_id"].as_str().unwrap().to_owned();
    assert_eq!(here.inspect(&third)["status"], "ready");
    let promoted = here.json(&["promote", &third]);
    assert_eq!(promoted["previous"], first.as_str());
    assert_eq!(here.get(HOST, "/").body, "three");
    load.assert_no_failure();

    // Unpinned: the next one goes live.
    deployed(&here, "four");
    assert_eq!(here.get(HOST, "/").body, "four");
}

#[test]
fn a_retired_target_is_started_and_checked_first() {
    let here = Installation::start_with(&["run.retire_after=100ms", "run.keep_running=0"]);
    let first = deployed(&here, "one");
    deployed(&here, "two");
    here.wait_status(&first, &["retired"]);
    assert!(here.containers(&first).is_empty());
    let own = here.inspect(&first)["domains"][0].as_str().unwrap().to_owned();
    let retired = here.get(&own, "/");
    assert_eq!(retired.status, 503, "{retired:?}");
    assert!(retired.body.contains(&format!("promote {first}")), "{retired:?}");
    let load = here.load(HOST, &["one", "two"]);
    let back = here.json(&["rollback", &first]);
    assert_eq!(back["started"], true, "{back:#}");
    assert_eq!(here.get(HOST, "/").body, "one");
    load.assert_no_failure();
    assert_eq!(here.containers(&first).len(), 1);
}

#[test]
fn what_cannot_be_live_is_refused_with_the_reason() {
    let here = Installation::start();
    let first = deployed(&here, "one");
    let refused = |args: &[&str], expected: &str| {
        let output = here.run(args);
        assert_eq!(output.status.code(), Some(9), "{args:?}: {}", text(&output));
        assert!(text(&output).contains(expected), "{args:?}: {}", text(&output));
    };
    refused(&["rollback", &first], "live already");
    refused(&["rollback", "--project", "shop"], "nothing else");
    refused(&["rollback", "--project", "shop", "--env", "staging"], "staging");
    refused(&["promote", "dep_00000000000000000000000000"], "launchway list");
    let bad = App::with_dockerfile("", "FROM scratch\nCOPY absent /\n");
    let failed = here.run(&["deploy", &bad.path().display().to_string(), "--project", "shop"]);
    assert_eq!(failed.status.code(), Some(3), "{}", text(&failed));
    let listed = here.json(&["list", "--status", "failed"]);
    let failed = listed["deployments"][0]["deployment_id"].as_str().unwrap();
    refused(&["promote", failed], "is failed");
    assert_eq!(here.get(HOST, "/").body, "one");
}

/// Whichever comes first, what is live runs.
#[test]
fn rollback_and_retirement_racing_each_other_leave_a_running_target() {
    let here = Installation::start_with(&["run.retire_after=300ms", "run.keep_running=0"]);
    let mut previous = deployed(&here, "one");
    for greeting in ["two", "three", "four"] {
        let next = deployed(&here, greeting);
        let back = here.json(&["rollback", &previous]);
        assert_eq!(back["deployment_id"], previous.as_str());
        let answer = here.get(HOST, "/");
        assert_eq!(answer.status, 200, "{answer:?}");
        let shown = here.inspect(&previous);
        assert_eq!(shown["status"], "live", "{shown:#}");
        assert_eq!(here.containers(&previous).len(), 1);
        here.json(&["promote", &next]);
        let live = eventually("the promoted one is live", || {
            let shown = here.inspect(&next);
            (shown["status"] == "live").then_some(shown)
        });
        assert_eq!(here.get(HOST, "/").body, greeting, "{live:#}");
        previous = next;
    }
}
