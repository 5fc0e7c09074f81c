//! kill -9 of real processes: the deployment goes on where it was.

use std::{
    fs::{self, File},
    io::Read,
    process::Command,
};

use serde_json::Value;

use crate::support::{App, Installation, eventually, signal, step};

const HOST: &str = "shop-preview-local.localhost";

/// A live first version, and a load that every request of must succeed.
fn with_first_version(here: &Installation) -> App {
    let app = App::new("version one", "");
    here.deploy(app.path(), &["--project", "shop"]);
    app
}

/// Live, and every outside effect there once.
fn assert_single_effects(here: &Installation, id: &str) -> Value {
    let shown = here.wait_status(id, &["live"]);
    assert_eq!(here.images(id).len(), 1, "one image: {shown:#}");
    assert_eq!(here.containers(id).len(), 1, "one set of containers: {shown:#}");
    let domains = shown["domains"].as_array().unwrap();
    assert_eq!(domains.len(), 3, "one target per domain: {shown:#}");
    for domain in domains {
        let domain = domain.as_str().unwrap();
        // A gateway that was killed too learns of the routes once it is back.
        eventually(&format!("{domain} has the new version"), || {
            (here.get(domain, "/").body == "version two").then_some(())
        });
    }
    shown
}

#[test]
fn killed_between_build_and_start_it_goes_on_without_building_again() {
    let mut here = Installation::start();
    let app = with_first_version(&here);
    let load = here.load(HOST, &["version one", "version two"]);
    app.greet("version two");
    here.arm("build-image", "journaled");
    let id = here.submit(app.path(), &["--project", "shop"]);
    here.wait_parked("build-image", "journaled");
    let restate = here.child("restate-server");
    here.kill_up();
    here.up();
    let shown = assert_single_effects(&here, &id);
    for name in ["load-deployment", "presign-context", "build-image", "deploy-to-krane"] {
        assert_eq!(step(&shown, name)["tries"], 1, "{name} ran again: {shown:#}");
    }
    assert_eq!(here.child("restate-server"), restate, "the orphan was not adopted");
    load.assert_no_failure();
}

#[test]
fn killed_after_the_build_but_before_its_journal_entry_it_finds_the_image() {
    let mut here = Installation::start();
    let app = with_first_version(&here);
    app.greet("version two");
    here.arm("build-image", "done");
    let id = here.submit(app.path(), &["--project", "shop"]);
    here.wait_parked("build-image", "done");
    let image = here.images(&id);
    here.kill_up();
    here.up();
    let shown = assert_single_effects(&here, &id);
    assert_eq!(step(&shown, "build-image")["tries"], 2, "{shown:#}");
    assert_eq!(here.images(&id), image, "the image was built again");
}

#[test]
fn killed_in_the_middle_of_a_build_it_builds_once_more_and_goes_live() {
    let mut here = Installation::start();
    with_first_version(&here);
    let load = here.load(HOST, &["version one", "version two"]);
    // Never from the cache; what is looked for is output, not the command.
    let nonce = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let run = format!(
        r#"RUN ["/bin/busybox", "sh", "-c", "echo middle $((40 + 2)) of {nonce}; /bin/busybox sleep 3"]"#
    );
    let slow = App::new("version two", &run);
    let id = here.submit(slow.path(), &["--project", "shop"]);
    eventually("the build is in the middle", || {
        let logs = here.run(&["logs", &id, "--build"]);
        String::from_utf8_lossy(&logs.stdout).contains("middle 42").then_some(())
    });
    here.kill_up();
    here.up();
    let shown = assert_single_effects(&here, &id);
    assert_eq!(step(&shown, "load-deployment")["tries"], 1, "{shown:#}");
    assert_eq!(step(&shown, "presign-context")["tries"], 1, "{shown:#}");
    assert_eq!(step(&shown, "build-image")["tries"], 2, "{shown:#}");
    load.assert_no_failure();
}

#[test]
fn restate_killed_while_waiting_for_readiness_the_deployment_goes_live() {
    let here = Installation::start();
    with_first_version(&here);
    let load = here.load(HOST, &["version one", "version two"]);
    let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY www /www\n\
        CMD [\"/bin/busybox\", \"sh\", \"-c\", \"/bin/busybox sleep 3; exec /bin/busybox httpd -f -p 8080 -h /www\"]\n";
    let slow = App::with_dockerfile("version two", dockerfile);
    let id = here.submit(slow.path(), &["--project", "shop"]);
    here.wait_step(&id, "await-ready", "running");
    let killed = here.child("restate-server");
    signal("KILL", killed);
    let shown = assert_single_effects(&here, &id);
    for name in ["load-deployment", "build-image", "deploy-to-krane"] {
        assert_eq!(step(&shown, name)["tries"], 1, "{name} ran again: {shown:#}");
    }
    assert_ne!(here.child("restate-server"), killed, "`up` has not started it again");
    load.assert_no_failure();
}

#[test]
fn everything_killed_while_waiting_for_readiness_the_deployment_goes_live() {
    let mut here = Installation::start();
    with_first_version(&here);
    let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY www /www\n\
        CMD [\"/bin/busybox\", \"sh\", \"-c\", \"/bin/busybox sleep 3; exec /bin/busybox httpd -f -p 8080 -h /www\"]\n";
    let slow = App::with_dockerfile("version two", dockerfile);
    let id = here.submit(slow.path(), &["--project", "shop"]);
    here.wait_step(&id, "await-ready", "running");
    let (restate, gateway) = (here.child("restate-server"), here.child("gateway"));
    here.kill_up();
    signal("KILL", restate);
    signal("KILL", gateway);
    here.up();
    assert_single_effects(&here, &id);
}

#[test]
fn the_gateway_serves_on_while_everything_else_is_away_and_is_adopted() {
    let mut here = Installation::start();
    with_first_version(&here);
    let load = here.load(HOST, &["version one"]);
    let gateway = here.child("gateway");
    here.kill_up();
    signal("KILL", here.child("restate-server"));
    for _ in 0..50 {
        assert_eq!(here.get(HOST, "/").body, "version one");
    }
    here.up();
    assert_eq!(here.child("gateway"), gateway, "the orphan was not adopted");
    load.assert_no_failure();
}

#[test]
fn a_command_line_killed_in_the_middle_of_its_upload_leaves_nothing_behind() {
    let here = Installation::start();
    let app = App::new("whole", "");
    // What is random is as large packed.
    let mut large = vec![0; 64 << 20];
    File::open("/dev/urandom").unwrap().read_exact(&mut large).unwrap();
    fs::write(app.path().join("www/large"), large).unwrap();
    let path = app.path().display().to_string();
    let mut uploading = here.cli(&["deploy", &path, "--project", "shop"]).spawn().unwrap();
    let files = || {
        let mut find = Command::new("find");
        let found = find.arg(here.data().join("objects")).args(["-type", "f"]).output();
        String::from_utf8(found.unwrap().stdout).unwrap()
    };
    eventually("the upload is under way", || files().contains(".tmp.").then_some(()));
    uploading.kill().unwrap();
    uploading.wait().unwrap();
    eventually("nothing of it is kept", || (!files().contains(".tmp.")).then_some(()));
    assert!(!files().contains("contexts/"), "{}", files());
    assert_eq!(here.json(&["list"])["deployments"].as_array().unwrap().len(), 0);
    here.deploy(app.path(), &["--project", "shop"]);
    assert_eq!(here.get(HOST, "/").body, "whole");
}
