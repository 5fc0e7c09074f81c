//! Deployments that nobody asks for, on the Docker engine and behind the gateway:
//! stopped, started by the first request, and never while somebody is there.

use std::{fs, os::unix::fs::PermissionsExt, thread, time::Instant};

use crate::support::{App, Installation, eventually, request, text};

const HOST: &str = "shop-preview-local.localhost";
const IDLE: [&str; 3] =
    ["run.idle_timeout=1s", "gateway.report_every=200ms", "run.retire_after=100ms"];

/// Since when it is evicted, and none of its containers is there.
fn evicted(here: &Installation, id: &str) {
    eventually("nothing of it runs", || {
        let state = here.inspect(id)["eviction"]["state"].clone();
        (state == "evicted" && here.containers(id).is_empty()).then_some(())
    });
}

fn shop(greeting: &str) -> App {
    let app = App::new(greeting, "");
    fs::write(app.path().join("launchway.toml"), "project = \"shop\"\n").unwrap();
    app
}

#[test]
fn what_nobody_asks_for_is_stopped_and_the_first_requests_start_it() {
    let here = Installation::start_with(&IDLE);
    let result = here.deploy(shop("hello").path(), &[]);
    let id = result["deployment_id"].as_str().unwrap().to_owned();
    evicted(&here, &id);
    let shown = text(&here.run(&["inspect", &id]));
    assert!(shown.contains("evicted since"), "{shown}");
    assert!(shown.contains("after 1.0 s without requests, as the server is"), "{shown}");
    assert!(text(&here.run(&["list"])).contains("live, evicted"));
    let why = text(&here.run(&["why", &id]));
    assert!(why.contains("nobody asked for it") && why.contains("first request"), "{why}");
    let exec = here.run(&["exec", &id, "--", "/bin/busybox", "true"]);
    assert!(text(&exec).contains("launchway promote"), "{}", text(&exec));

    // All of them wait for the one start.
    let begun = Instant::now();
    thread::scope(|scope| {
        let asked: Vec<_> = (0..20).map(|_| scope.spawn(|| here.get(HOST, "/"))).collect();
        for answer in asked {
            let answer = answer.join().unwrap();
            assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
        }
    });
    eprintln!("20 requests were answered {:?} after the first was sent", begun.elapsed());
    assert_eq!(here.containers(&id).len(), 1);
    let started = here.sql(
        "SELECT id FROM sys_invocation WHERE target_service_name = 'Eviction' \
         AND target_handler_name = 'start'",
    );
    assert_eq!(started.len(), 1, "{started:?}");

    evicted(&here, &id);
    let promoted = here.json(&["promote", &id]);
    assert_eq!(promoted["started"], true, "{promoted:#}");
    assert_eq!(here.get(HOST, "/").body, "hello");
    // The next one goes live while this one is stopped, and takes its place.
    evicted(&here, &id);
    here.deploy(shop("hello again").path(), &[]);
    assert_eq!(here.get(HOST, "/").body, "hello again");
}

#[test]
fn an_open_connection_and_a_running_command_keep_a_deployment_up() {
    let here = Installation::start_with(&IDLE);
    let app = shop("hello");
    let slow = app.path().join("www/cgi-bin/slow");
    fs::create_dir(slow.parent().unwrap()).unwrap();
    fs::write(
        &slow,
        "#!/bin/busybox sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\nsleep 4\necho done\n",
    )
    .unwrap();
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
    let id = here.deploy(app.path(), &[])["deployment_id"].as_str().unwrap().to_owned();
    let answer = here.get(HOST, "/cgi-bin/slow");
    assert!(answer.status == 200 && answer.body.ends_with("0\r\n\r\n"), "{}", answer.body);
    let command = ["exec", &id, "--", "/bin/busybox", "sh", "-c", "sleep 4; echo done"];
    let output = here.run(&command);
    assert!(output.status.success() && text(&output).contains("done"), "{}", text(&output));
    evicted(&here, &id);
}

#[test]
fn a_deployment_is_started_for_a_request_that_came_while_everything_was_down() {
    let mut here = Installation::start_with(&IDLE);
    let id = here.deploy(shop("hello").path(), &[])["deployment_id"].as_str().unwrap().to_owned();
    evicted(&here, &id);
    here.kill_up();
    let gateway = here.address("gateway.bind");
    let asked = thread::spawn(move || request(gateway, HOST, "/"));
    // The gateway goes on by itself, and holds it.
    eventually("the request waits", || {
        let metrics = here.get("localhost", "/.well-known/launchway/metrics").body;
        metrics.contains("requests_waiting 1").then_some(())
    });
    here.up();
    let answer = asked.join().unwrap().expect("a whole answer");
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
}
