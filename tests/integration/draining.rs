//! `down --drain`: what is in flight ends, and nothing new begins meanwhile.

use std::process::{Child, Stdio};

use crate::support::{App, Installation, eventually, text};

/// Returns once nothing new is taken.
fn drain(here: &Installation) -> Child {
    let mut down = here.down_command(&["--drain"]);
    let down = down.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let file = here.data().join("run/draining.json");
    eventually("`down` says so", || {
        let said = std::fs::read_to_string(&file).ok()?;
        said.contains(&format!("\"pid\":{}", down.id())).then_some(())
    });
    down
}

#[test]
fn nothing_new_begins_while_down_waits_and_what_is_in_flight_can_be_read_and_cancelled() {
    let mut here = Installation::start();
    let failing = App::new("", r#"RUN ["/bin/busybox", "false"]"#);
    let failed = here.submit(failing.path(), &["--project", "shop"]);
    here.wait_status(&failed, &["failed"]);
    here.arm("build-image", "before");
    let app = App::new("held", "");
    let held = here.submit(app.path(), &["--project", "shop"]);
    here.wait_parked("build-image", "before");

    let mut down = drain(&here);
    let path = app.path().display().to_string();
    let deploy = ["deploy", &path, "--project", "shop", "--branch", "other", "--detach"];
    for command in [
        &deploy[..],
        &["deploy", "--image", "busybox", "--project", "shop", "--detach"],
        &["build", &path, "--project", "shop", "--detach"],
        &["redeploy", &failed, "--detach"],
        &["retry", &failed, "--detach"],
    ] {
        let refused = here.run(command);
        let said = text(&refused);
        assert_eq!(refused.status.code(), Some(9), "{command:?}: {said}");
        let by = format!("`launchway down --drain` (process {})", down.id());
        for part in [by.as_str(), "is refused", "launchway up"] {
            assert!(said.contains(part), "{command:?}: {part}: {said}");
        }
    }
    for command in [&["list"][..], &["inspect", &held], &["logs", &failed], &["why", &held]] {
        let output = here.run(command);
        assert!(output.status.success(), "{command:?}: {}", text(&output));
    }

    // It waits no more, however it came to its end.
    down.kill().unwrap();
    down.wait().unwrap();
    here.arm("presign-context", "before");
    let other = here.submit(app.path(), &["--project", "shop", "--branch", "other"]);
    here.wait_parked("presign-context", "before");
    let mut down = drain(&here);
    assert_eq!(here.run(&deploy).status.code(), Some(9));
    let cancelled = here.run(&["cancel", &other, "--detach"]);
    assert!(cancelled.status.success(), "{}", text(&cancelled));
    here.release("presign-context", "before");
    here.release("build-image", "before");
    assert!(down.wait().unwrap().success());
    assert_eq!(here.stop_up(), Some(0));

    here.up();
    assert_eq!(here.inspect(&held)["status"], "live");
    assert_eq!(here.inspect(&other)["status"], "cancelled");
    here.deploy(app.path(), &["--project", "shop"]);
}
