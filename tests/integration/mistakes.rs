//! What goes wrong is said, and leaves the previous deployment serving.

use std::process::Stdio;

use crate::support::{App, Installation, eventually, signal, step, text};

#[test]
fn a_bad_dockerfile_is_the_users_error_and_the_previous_version_serves_on() {
    let here = Installation::start();
    let good = App::new("version one", "");
    here.deploy(good.path(), &["--project", "shop"]);
    let bad = App::new(
        "version two",
        r#"RUN ["/bin/busybox", "sh", "-c", "echo compiling; echo no such module >&2; exit 7"]"#,
    );
    let output = here.run(&["deploy", &bad.path().display().to_string(), "--project", "shop"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(output.stdout.is_empty(), "{}", text(&output));
    let said = text(&output);
    for expected in [
        "failed at build-image",
        "exit code: 7",
        "| no such module",
        "build-failed",
        "launchway inspect",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let listed = here.json(&["list", "--project", "shop"]);
    let shown = here.inspect(listed["deployments"][0]["deployment_id"].as_str().unwrap());
    assert_eq!(shown["status"], "failed");
    // Checklist 78: not tried again.
    assert_eq!(step(&shown, "build-image")["tries"], 1);
    assert_eq!(step(&shown, "build-image")["error_code"], "build-failed");
    assert!(here.containers(shown["deployment_id"].as_str().unwrap()).is_empty());
    assert_eq!(here.get("shop-preview-local.localhost", "/").body, "version one");
}

#[test]
fn an_application_that_exits_fails_at_once_with_its_last_words() {
    let here = Installation::start();
    let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY www /www\n\
        CMD [\"/bin/busybox\", \"sh\", \"-c\", \"echo DATABASE_URL is not set; exit 5\"]\n";
    let output = here.run(&[
        "deploy",
        &App::with_dockerfile("", dockerfile).path().display().to_string(),
        "--project",
        "shop",
    ]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    let said = text(&output);
    for expected in [
        "await-ready",
        "exited with code 5",
        "DATABASE_URL is not set",
        "instance-exited",
        "stopped the instances",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let id = here.json(&["list"])["deployments"][0]["deployment_id"].as_str().unwrap().to_owned();
    assert!(here.containers(&id).is_empty(), "the unwind has left instances");
}

#[test]
fn an_application_that_never_answers_is_unhealthy_with_the_probe_shown() {
    let here = Installation::start_with(&["run.ready_timeout=2s"]);
    let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY www /www\nCMD [\"/bin/busybox\", \"sleep\", \"600\"]\n";
    let output = here.run(&[
        "deploy",
        &App::with_dockerfile("", dockerfile).path().display().to_string(),
        "--project",
        "shop",
    ]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    let said = text(&output);
    for expected in ["0 of 1 instances were ready", "GET http://127.0.0.1:", "probes", "not-ready"]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn what_is_wrong_with_a_directory_is_said_before_anything_is_uploaded() {
    let here = Installation::start();
    let app = App::new("x", "");
    std::fs::rename(app.path().join("Dockerfile"), app.path().join("Web.Dockerfile")).unwrap();
    let run = |args: &[&str]| {
        let output = here.run(args);
        (output.status.code(), text(&output))
    };
    let path = app.path().display().to_string();
    let (code, said) = run(&["deploy", &path, "-p", "shop"]);
    assert!(
        code == Some(2) && said.contains("--dockerfile") && said.contains("Web.Dockerfile"),
        "{said}"
    );
    let (code, said) = run(&["deploy", "/nowhere", "-p", "shop"]);
    assert!(code == Some(2) && said.contains("/nowhere"), "{said}");
    let (code, said) = run(&["deploy", &path, "-p", "Not_Valid"]);
    assert!(code == Some(2) && said.contains("Not_Valid"), "{said}");
    let (code, said) = run(&["deploy", &path, "-p", "shop", "--build-arg", "novalue"]);
    assert!(code == Some(2) && said.contains("NAME=VALUE"), "{said}");
    let (code, said) = run(&["inspect", "dep_nonsense"]);
    assert!(code == Some(2) && said.contains("dep_nonsense"), "{said}");
    let (code, said) = run(&["inspect", "dep_00000000000000000000000000"]);
    assert!(code == Some(9) && said.contains("launchway list"), "{said}");
    let (code, said) = run(&["list", "--token", "lwk_wrong"]);
    assert!(code == Some(8) && said.contains("--token"), "{said}");
    assert_eq!(here.json(&["list"])["deployments"].as_array().unwrap().len(), 0);
}

#[test]
fn ctrl_c_detaches_and_the_deployment_goes_on() {
    let here = Installation::start();
    let app = App::new("slow", r#"RUN ["/bin/busybox", "sleep", "2"]"#);
    let path = app.path().display().to_string();
    let deploying = here
        .cli(&["deploy", &path, "--project", "shop"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let id = eventually("the deployment builds", || {
        let listed = here.json(&["list"]);
        let found = &listed["deployments"][0];
        (found["status"] == "building").then(|| found["deployment_id"].as_str().unwrap().to_owned())
    });
    signal("INT", deploying.id());
    let output = deploying.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    assert!(text(&output).contains(&format!("launchway watch {id}")), "{}", text(&output));
    let watched = here.run(&["watch", &id]);
    assert_eq!(watched.status.code(), Some(0), "{}", text(&watched));
    assert_eq!(here.get("shop-preview-local.localhost", "/").body, "slow");
}
