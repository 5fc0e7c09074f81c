//! A deployment that has failed goes on from there.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::{App, Installation, docker, step, text};

/// Starts only while somebody listens on this port of the host.
fn gated(port: u16) -> App {
    let script = format!(
        "gate=$(/bin/busybox ip route | /bin/busybox awk '/default/ {{print $3}}'); \
         /bin/busybox nc -w 2 $gate {port} </dev/null || {{ echo the gate is closed; exit 9; }}; \
         exec /bin/busybox httpd -f -p 8080 -h /www"
    );
    let command = serde_json::to_string(&["/bin/busybox", "sh", "-c", &script]).unwrap();
    App::with_dockerfile(
        "through the gate",
        &format!("FROM scratch\nCOPY busybox /bin/busybox\nCOPY www /www\nCMD {command}\n"),
    )
}

/// A port that is free, and nobody listens on.
fn closed_gate() -> u16 {
    TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

/// Lets everybody through until the test ends.
fn open_gate(port: u16) {
    let gate = TcpListener::bind(("0.0.0.0", port)).unwrap();
    std::thread::spawn(move || gate.incoming().for_each(drop));
}

fn failed_at_the_gate(here: &Installation, port: u16) -> String {
    let app = gated(port);
    let path = app.path().display().to_string();
    let output = here.run(&["deploy", &path, "--project", "shop"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(text(&output).contains("the gate is closed"), "{}", text(&output));
    here.json(&["list"])["deployments"][0]["deployment_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_retry_goes_on_from_what_was_taken_back_and_builds_nothing_again() {
    let here = Installation::start();
    let port = closed_gate();
    let app = gated(port);
    let path = app.path().display().to_string();
    let output = here.run(&["deploy", &path, "--project", "shop"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    let listed = here.json(&["list", "--status", "failed"]);
    let id = listed["deployments"][0]["deployment_id"].as_str().unwrap();
    assert!(here.containers(id).is_empty());
    let image = here.images(id);

    // Anybody may send a workflow that nobody has asked for: it does nothing.
    let stray =
        here.ingress(&format!("Deployment/{id}/deploy"), "stray", &json!({"deployment_id": id}));
    assert!(stray.status >= 400, "{stray:?}");
    let state = here.ingress(&format!("Deployment/{id}/status"), "state", &Value::Null);
    assert!(state.body.contains(r#""status":"failed""#), "{state:?}");
    assert!(state.body.contains(r#""step":"await-ready""#), "{state:?}");

    let still = here.run(&["retry", id]);
    assert_eq!(still.status.code(), Some(4), "{}", text(&still));
    let said = text(&still);
    assert!(said.contains("attempt 2 begins at deploy-to-krane"), "{said}");
    assert!(said.contains("stopped the instances"), "{said}");

    open_gate(port);
    let gone_on = here.run(&["retry", id, "--from", "await-ready"]);
    assert_eq!(gone_on.status.code(), Some(0), "{}", text(&gone_on));
    // What was taken back runs again, whatever was asked for.
    assert!(text(&gone_on).contains("attempt 3 begins at deploy-to-krane"), "{}", text(&gone_on));
    assert_eq!(here.get("shop-preview-local.localhost", "/").body, "through the gate");

    let shown = here.inspect(id);
    assert_eq!((&shown["status"], &shown["attempt"]), (&"live".into(), &3.into()));
    let rows = shown["steps"].as_array().unwrap();
    let ran = |name: &str| -> Vec<u64> {
        let rows = rows.iter().filter(|row| row["name"] == name);
        rows.map(|row| row["attempt"].as_u64().unwrap()).collect()
    };
    assert_eq!(ran("build-image"), [1], "{shown:#}");
    assert_eq!(ran("push-image"), [1], "{shown:#}");
    assert_eq!(ran("deploy-to-krane"), [1, 2, 3], "{shown:#}");
    assert_eq!(ran("assign-domains"), [3], "{shown:#}");
    assert_eq!(here.images(id), image, "another image was built");
    assert_eq!(here.containers(id).len(), 1);
    // Earlier attempts stay readable.
    let attempts = shown["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2, "{shown:#}");
    for attempt in attempts {
        assert_eq!(attempt["failure"]["code"], "instance-exited", "{shown:#}");
        assert_eq!(attempt["failure"]["rolled_back"][0], "stopped the instances", "{shown:#}");
    }
}

#[test]
fn what_a_retry_would_miss_is_named_and_redeploy_is_offered() {
    let here = Installation::start();
    let port = closed_gate();
    let id = failed_at_the_gate(&here, port);
    let unreached = here.run(&["retry", &id, "--from", "assign-domains"]);
    assert_eq!(unreached.status.code(), Some(9), "{}", text(&unreached));
    assert!(text(&unreached).contains("was not reached"), "{}", text(&unreached));
    let nonsense = here.run(&["retry", &id, "--from", "nonsense"]);
    assert_eq!(nonsense.status.code(), Some(2), "{}", text(&nonsense));
    assert!(text(&nonsense).contains("deploy-to-krane"), "{}", text(&nonsense));

    docker(&["rmi", "-f", &here.images(&id)[0]]);
    let gone = here.run(&["retry", &id]);
    assert_eq!(gone.status.code(), Some(9), "{}", text(&gone));
    let said = text(&gone);
    assert!(said.contains("image") && said.contains("is gone"), "{said}");
    assert!(said.contains(&format!("launchway redeploy {id}")), "{said}");
    // It is as failed as it was.
    let shown = here.inspect(&id);
    assert_eq!((&shown["status"], &shown["attempt"]), (&"failed".into(), &1.into()));

    open_gate(port);
    let again = here.json(&["redeploy", &id]);
    assert_eq!(again["status"], "live", "{again:#}");
    assert_ne!(again["deployment_id"], id.as_str());
    // From the build on the image can be made again: the slot comes with it.
    let rebuilt = here.run(&["retry", &id, "--from", "build-image"]);
    assert_eq!(rebuilt.status.code(), Some(0), "{}", text(&rebuilt));
    assert!(text(&rebuilt).contains("begins at acquire-slot"), "{}", text(&rebuilt));
    let shown = here.inspect(&id);
    // Older than what is live: it may not take the environment from it.
    assert_eq!(shown["status"], "ready", "{shown:#}");
    assert!(shown["warnings"][0].as_str().unwrap().contains("newer"), "{shown:#}");
    assert_eq!(step(&shown, "load-deployment")["attempt"], 1);
}

#[test]
fn killed_in_the_middle_of_a_retry_it_is_one_deployment_with_one_new_attempt() {
    let mut here = Installation::start();
    let port = closed_gate();
    let id = failed_at_the_gate(&here, port);
    open_gate(port);
    // Between the restart of the workflow and its first write of the row.
    here.arm("deploy-to-krane", "before");
    let detached = here.run(&["retry", &id, "--detach"]);
    assert!(detached.status.success(), "{}", text(&detached));
    here.wait_parked("deploy-to-krane", "before");
    here.kill_up();
    here.up();
    let shown = here.wait_status(&id, &["live"]);
    assert_eq!(shown["attempt"], 2, "{shown:#}");
    assert_eq!(here.containers(&id).len(), 1);
    let listed = here.json(&["list"]);
    assert_eq!(listed["deployments"].as_array().unwrap().len(), 1, "{listed:#}");
}
