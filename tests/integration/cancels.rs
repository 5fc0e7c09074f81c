//! Cancel cancels, whatever the deployment is doing.

use std::{fs, time::Instant};

use crate::support::{App, Installation, eventually, step, text};

/// Builds for minutes, in a process that can be told from any other.
fn endless_build(seconds: u32) -> App {
    App::new("never", &format!(r#"RUN ["/bin/busybox", "sleep", "{seconds}"]"#))
}

/// Whether a process with exactly these arguments runs on this machine, in
/// whatever container.
fn runs(arguments: &[&str]) -> bool {
    let wanted: Vec<u8> =
        arguments.iter().flat_map(|text| [text.as_bytes(), &[0]].concat()).collect();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|found| found == wanted))
}

fn unready() -> App {
    App::with_dockerfile(
        "",
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY www /www\n\
         CMD [\"/bin/busybox\", \"sh\", \"-c\", \"trap 'exit 0' TERM; while :; do /bin/busybox sleep 0.1; done\"]\n",
    )
}

#[test]
fn a_cancelled_build_is_gone_from_the_engine_within_two_seconds() {
    let here = Installation::start_with(&["build.concurrency=1"]);
    let id = here.submit(endless_build(86_317).path(), &["--project", "shop"]);
    let build = ["/bin/busybox", "sleep", "86317"];
    eventually("the builder runs the command", || runs(&build).then_some(()));
    let asked = Instant::now();
    let cancelled = here.cli(&["cancel", &id]).spawn().unwrap();
    eventually("the builder has ended", || (!runs(&build)).then_some(()));
    assert!(asked.elapsed().as_secs_f32() < 2.0, "it took {:?}", asked.elapsed());
    let output = cancelled.wait_with_output().unwrap();
    assert!(output.status.success());
    let shown = here.inspect(&id);
    assert_eq!(shown["status"], "cancelled", "{shown:#}");
    assert_eq!(step(&shown, "build-image")["status"], "cancelled", "{shown:#}");
    // Twice is fine.
    let again = here.run(&["cancel", &id]);
    assert!(again.status.success(), "{}", text(&again));
    assert!(text(&again).contains("already"), "{}", text(&again));
    // Its slot is free: with one slot another one builds.
    here.deploy(App::new("next", "").path(), &["--project", "shop"]);
    let watched = here.run(&["watch", &id]);
    assert_eq!(watched.status.code(), Some(5), "{}", text(&watched));
}

#[test]
fn a_queued_one_leaves_the_queue_and_a_waiting_one_its_instances() {
    let here = Installation::start_with(&["build.concurrency=1"]);
    let first = here.submit(endless_build(86_318).path(), &["--project", "shop"]);
    here.wait_step(&first, "build-image", "running");
    let queued = here.submit(App::new("queued", "").path(), &["--project", "other"]);
    eventually("its position is shown", || {
        let shown = here.inspect(&queued);
        let steps = shown["steps"].as_array()?;
        let slot = steps.iter().find(|row| row["name"] == "acquire-slot")?;
        slot["message"].as_str()?.contains("position 1 of 1").then_some(())
    });
    assert!(here.run(&["cancel", &queued]).status.success());
    assert!(here.run(&["cancel", &first]).status.success());
    for id in [&first, &queued] {
        assert_eq!(here.inspect(id)["status"], "cancelled");
    }
    let waiting = here.submit(unready().path(), &["--project", "shop"]);
    here.wait_step(&waiting, "await-ready", "running");
    eventually("its instance runs", || (here.containers(&waiting).len() == 1).then_some(()));
    assert!(here.run(&["cancel", &waiting]).status.success());
    assert!(here.containers(&waiting).is_empty(), "instances are left");
    let shown = here.inspect(&waiting);
    assert_eq!(shown["failure"]["rolled_back"][0], "stopped the instances", "{shown:#}");
}

#[test]
fn one_that_restate_has_paused_is_cancelled_too() {
    let here = Installation::start();
    let id = here.submit(unready().path(), &["--project", "shop"]);
    here.wait_step(&id, "await-ready", "running");
    let paused = here.admin(&id, "pause");
    assert!(paused.status < 300, "{paused:?}");
    let cancelled = here.run(&["cancel", &id]);
    assert!(cancelled.status.success(), "{}", text(&cancelled));
    assert_eq!(here.inspect(&id)["status"], "cancelled");
    assert!(here.containers(&id).is_empty());
}

#[test]
fn after_the_domains_have_moved_it_is_too_late() {
    let here = Installation::start();
    let live = here.deploy(App::new("live", "").path(), &["--project", "shop"]);
    let id = live["deployment_id"].as_str().unwrap();
    let refused = here.run(&["cancel", id]);
    assert_eq!(refused.status.code(), Some(9), "{}", text(&refused));
    assert!(text(&refused).contains("too late"), "{}", text(&refused));
    assert_eq!(here.inspect(id)["status"], "live");
    assert_eq!(here.get("shop-preview-local.localhost", "/").body, "live");
}

#[test]
fn a_deployment_whose_workflow_was_killed_is_unwound() {
    let here = Installation::start_with(&["recovery.every=1s", "recovery.grace=1s"]);
    let id = here.submit(unready().path(), &["--project", "shop"]);
    here.wait_step(&id, "await-ready", "running");
    assert!(here.admin(&id, "kill").status < 300);
    let shown = here.wait_status(&id, &["failed"]);
    assert_eq!(shown["failure"]["code"], "interrupted", "{shown:#}");
    assert_eq!(shown["failure"]["step"], "await-ready", "{shown:#}");
    assert!(here.containers(&id).is_empty(), "instances are left");
    // Its journal goes on with what has unwound it.
    let journal = here.json(&["journal", &id]);
    let entries = journal["entries"].as_array().unwrap();
    let at = |name: &str| entries.iter().position(|entry| entry["name"] == name);
    let order = ["deploy-to-krane", "take-over", "undo-deploy-to-krane", "settle-attempt"].map(at);
    assert!(order.is_sorted() && order[0].is_some(), "{order:?}: {journal:#}");
    let indexes: Vec<_> = entries.iter().map(|entry| entry["index"].as_u64().unwrap()).collect();
    assert!(indexes.is_sorted_by(|one, next| one < next), "{indexes:?}");
}

#[test]
fn one_that_was_paused_by_hand_is_shown_as_stalled_and_goes_on_by_itself() {
    let settings = ["recovery.every=1s", "recovery.stalled_after=3s", "recovery.resume_after=6s"];
    let here = Installation::start_with(&settings);
    let script = "/bin/busybox sleep 2; exec /bin/busybox httpd -f -p 8080 -h /www";
    let app = App::with_dockerfile(
        "at last",
        &format!(
            "FROM scratch\nCOPY busybox /bin/busybox\nCOPY www /www\n\
             CMD [\"/bin/busybox\", \"sh\", \"-c\", \"{script}\"]\n"
        ),
    );
    let id = here.submit(app.path(), &["--project", "shop"]);
    here.wait_step(&id, "await-ready", "running");
    assert!(here.admin(&id, "pause").status < 300);
    let stalled = eventually("it is shown as stalled", || {
        let shown = here.inspect(&id);
        shown["stalled_why"].is_string().then_some(shown)
    });
    assert!(stalled["stalled_why"].as_str().unwrap().contains("paused"), "{stalled:#}");
    let shown = here.wait_status(&id, &["live"]);
    assert!(shown["stalled_why"].is_null(), "{shown:#}");
    assert_eq!(step(&shown, "deploy-to-krane")["tries"], 1, "{shown:#}");
}
