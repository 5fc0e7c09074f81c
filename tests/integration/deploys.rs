//! A directory becomes a running, routed deployment.

use crate::support::{App, Installation, docker, eventually, example, step, text};

#[test]
fn three_different_applications_answer_at_their_domains() {
    let here = Installation::start();
    for (name, path, expected, missing) in [
        ("static-site", "/style.css", "font-family", "/absent"),
        ("two-stage", "/", "Compiled in one stage", ""),
        ("nested", "/greeting.txt", "salut", "/next.draft.html"),
    ] {
        let more: &[&str] = if name == "nested" { &["--build-arg", "GREETING=salut"] } else { &[] };
        let result = here.deploy(&example(name), more);
        let domains: Vec<&str> = result["domains"]
            .as_array()
            .unwrap()
            .iter()
            .map(|domain| domain.as_str().unwrap())
            .collect();
        assert_eq!(domains.len(), 3, "commit, branch and environment: {domains:?}");
        for domain in &domains {
            let answer = here.get(domain, path);
            assert_eq!(answer.status, 200, "{domain}: {answer:?}");
            assert!(answer.body.contains(expected), "{domain}: {answer:?}");
            if !missing.is_empty() {
                assert_eq!(here.get(domain, missing).status, 404);
            }
        }
        assert!(
            domains.contains(&format!("{name}-preview-local.localhost").as_str()),
            "{domains:?}"
        );
    }
    assert_eq!(here.get("nobody.localhost", "/").status, 404);
}

#[test]
fn stdout_is_the_url_alone_and_every_step_is_recorded() {
    let here = Installation::start();
    let app = App::new("first", "");
    let output = here.run(&["deploy", &app.path().display().to_string(), "--project", "shop"]);
    assert!(output.status.success(), "{}", text(&output));
    let port = here.address("gateway.bind").port();
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(stdout, format!("http://shop-preview-local.localhost:{port}/\n"));
    let progress = String::from_utf8(output.stderr).unwrap();
    for expected in ["build-image", "assign-domains", "COPY www /www"] {
        assert!(progress.contains(expected), "{expected}: {progress}");
    }
    let listed = here.json(&["list", "--project", "shop"]);
    let id = listed["deployments"][0]["deployment_id"].as_str().unwrap().to_owned();
    let shown = eventually("what follows the commit has ended", || {
        let shown = here.inspect(&id);
        (step(&shown, "scrape-openapi")["status"] != "running"
            && shown["steps"].as_array()?.len() == 11)
            .then_some(shown)
    });
    // Checklist 80: completed steps are recorded as done.
    for name in [
        "load-deployment",
        "acquire-slot",
        "presign-context",
        "build-image",
        "release-slot",
        "deploy-to-krane",
        "await-ready",
        "assign-domains",
    ] {
        assert_eq!(step(&shown, name)["status"], "done", "{shown:#}");
        assert_eq!(step(&shown, name)["tries"], 1, "{shown:#}");
    }
    let push = step(&shown, "push-image");
    assert_eq!(push["status"], "skipped");
    assert!(push["message"].as_str().unwrap().contains("no registry is configured"), "{push}");
    assert!(shown["digest"].as_str().unwrap().starts_with("sha256:"));

    let journal = here.json(&["journal", &id]);
    let entries = journal["entries"].as_array().unwrap();
    for name in [
        "load-deployment",
        "BuildSlots/try_acquire",
        "build-image",
        "await-ready",
        "Routing/assign",
    ] {
        let entry = entries
            .iter()
            .find(|entry| entry["name"] == name)
            .unwrap_or_else(|| panic!("{name}: {journal:#}"));
        assert_eq!(entry["status"], "completed", "{entry}");
    }
    let logs = text(&here.run(&["logs", &id, "--build"]));
    assert!(logs.contains("COPY www /www"), "{logs}");
}

#[test]
fn a_second_deployment_takes_over_without_a_failed_request_and_the_first_retires() {
    let here = Installation::start_with(&["run.retire_after=1s", "run.keep_running=0"]);
    let app = App::new("version one", "");
    let dir = app.path();
    let first = here.deploy(dir, &["--project", "shop"]);
    let host = "shop-preview-local.localhost";
    let load = here.load(host, &["version one", "version two"]);
    app.greet("version two");
    let second = here.deploy(dir, &["--project", "shop"]);
    assert_eq!(here.get(host, "/").body, "version two");
    let (first, second) =
        (first["deployment_id"].as_str().unwrap(), second["deployment_id"].as_str().unwrap());
    here.wait_status(first, &["retired"]);
    assert!(here.containers(first).is_empty());
    assert_eq!(here.containers(second).len(), 1);
    load.assert_no_failure();
    let retired = here.inspect(first);
    let own = retired["domains"][0].as_str().unwrap();
    let answer = here.get(own, "/");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains(&format!("launchway promote {first}")), "{answer:?}");
}

/// Checklist 58.
#[test]
fn a_prebuilt_image_skips_the_build() {
    let here = Installation::start();
    let built = here.deploy(App::new("prebuilt", "").path(), &["--project", "source"]);
    let image = built["image"].as_str().unwrap();
    let result = here.json(&["deploy", "--image", image, "--project", "copy", "--prod"]);
    assert_eq!(result["status"], "live", "{result:#}");
    assert_eq!(here.get("copy-production-local.localhost", "/").body, "prebuilt");
    assert!(!result["steps"].as_array().unwrap().iter().any(|step| step["name"] == "build-image"));
    assert!(here.images(result["deployment_id"].as_str().unwrap()).is_empty());
}

#[test]
fn down_leaves_the_containers_and_up_routes_to_them_again() {
    let mut here = Installation::start();
    let id =
        here.deploy(App::new("still here", "").path(), &["--project", "shop"])["deployment_id"]
            .as_str()
            .unwrap()
            .to_owned();
    assert_eq!(here.stop_up(), Some(0));
    assert_eq!(here.containers(&id).len(), 1);
    // The host port changes with a restart of the container.
    docker(&["restart", "-t", "0", &here.containers(&id)[0]]);
    here.up();
    let answer = eventually("the route is right again", || {
        let answer = here.get("shop-preview-local.localhost", "/");
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(answer.body, "still here");
}

#[test]
fn services_of_one_environment_reach_each_other_by_name_only_there() {
    let here = Installation::start();
    let shop = here.deploy(App::new("shop", "").path(), &["--project", "shop"]);
    let other = here.deploy(App::new("other", "").path(), &["--project", "other"]);
    // nc, because wget of a static busybox cannot resolve names.
    let fetch = |id: &str, name: &str| {
        let script =
            format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | /bin/busybox nc -w 2 {name} 8080");
        let container = &here.containers(id)[0];
        let said = docker(&["exec", container, "/bin/busybox", "sh", "-c", &script]);
        said.last().cloned().unwrap_or_default()
    };
    let id = |result: &serde_json::Value| result["deployment_id"].as_str().unwrap().to_owned();
    assert_eq!(fetch(&id(&shop), "shop"), "shop");
    assert_eq!(fetch(&id(&other), "shop"), "");
}

/// It is read once the deployment is live, and never fails it.
#[test]
fn the_openapi_description_of_an_application_is_kept() {
    let here = Installation::start();
    let has = App::new(
        "described",
        r#"RUN ["/bin/busybox", "sh", "-c", "echo openapi: 3.1.0 > /www/openapi.yaml"]"#,
    );
    let result = here.deploy(has.path(), &["--project", "shop"]);
    let id = result["deployment_id"].as_str().unwrap();
    let found = eventually("it is read", || {
        let output = here.run(&["inspect", id, "--openapi"]);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    });
    assert_eq!(found, "openapi: 3.1.0\n");
    let without = here.deploy(App::new("plain", "").path(), &["--project", "shop"]);
    let id = without["deployment_id"].as_str().unwrap();
    let refused = here.run(&["inspect", id, "--openapi"]);
    assert_eq!(refused.status.code(), Some(9), "{}", text(&refused));
}
