//! One way in, and each submission once.

use serde_json::{Value, json};

use crate::support::{App, Installation};

fn image_of_a_deployment(here: &Installation) -> String {
    let built = here.deploy(App::new("image", "").path(), &["--project", "base"]);
    built["image"].as_str().unwrap().to_owned()
}

fn count(here: &Installation, project: &str) -> usize {
    here.json(&["list", "--project", project])["deployments"].as_array().unwrap().len()
}

#[test]
fn concurrent_submissions_with_one_key_are_one_deployment() {
    let here = Installation::start();
    let body = json!({"project_id": "shop", "docker_image": image_of_a_deployment(&here)});
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| here.ingress("Deployments/create", "one-key", &body)))
            .collect();
        calls
            .into_iter()
            .map(|call| {
                let answer = call.join().unwrap();
                assert_eq!(answer.status, 200, "{answer:?}");
                serde_json::from_str(&answer.body).unwrap()
            })
            .collect()
    });
    let id = &answers[0]["deployment_id"];
    assert!(answers.iter().all(|answer| answer["deployment_id"] == *id), "{answers:?}");
    here.wait_status(id.as_str().unwrap(), &["live"]);
    assert_eq!(count(&here, "shop"), 1);
    // The same key through the other door.
    let again = here.json(&[
        "deploy",
        "--image",
        body["docker_image"].as_str().unwrap(),
        "-p",
        "shop",
        "--idempotency-key",
        "one-key",
    ]);
    assert_eq!(again["deployment_id"], *id);
    assert_eq!(count(&here, "shop"), 1);
}

#[test]
fn the_same_key_with_other_content_is_refused() {
    let here = Installation::start();
    let app = App::new("one", "");
    let first = here.deploy(app.path(), &["-p", "shop", "--idempotency-key", "release-1"]);
    let again = here.deploy(app.path(), &["-p", "shop", "--idempotency-key", "release-1"]);
    assert_eq!(first["deployment_id"], again["deployment_id"]);
    app.greet("two");
    let refused = here.run(&[
        "deploy",
        &app.path().display().to_string(),
        "-p",
        "shop",
        "--idempotency-key",
        "release-1",
    ]);
    assert_eq!(refused.status.code(), Some(9));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("release-1") && said.contains("use a new key"), "{said}");
    assert_eq!(count(&here, "shop"), 1);
}

/// Checklist 54.
#[test]
fn the_ingress_refuses_what_breaks_a_rule() {
    let here = Installation::start();
    for (body, expected) in [
        (json!({"project_id": "shop"}), "exactly one source"),
        (json!({"project_id": "Shop!", "docker_image": "a"}), "Shop!"),
        (json!({"project_id": "prj_nonsense", "docker_image": "a"}), "prj_nonsense"),
        (
            json!({"project_id": "shop", "docker_image": "a", "environment_slug": "-x"}),
            "environment",
        ),
        (
            json!({"project_id": "shop", "docker_image": "a", "git_commit": {"commit_sha": "a", "timestamp": 1700000000}}),
            "milliseconds",
        ),
        (json!({"project_id": "shop", "docker_image": "a", "surprise": 1}), "surprise"),
    ] {
        let answer = here.ingress("Deployments/create", &body.to_string().len().to_string(), &body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert!(answer.body.contains(expected), "{expected}: {answer:?}");
    }
    assert_eq!(here.json(&["list"])["deployments"].as_array().unwrap().len(), 0);
}

#[test]
fn a_context_outside_the_projects_prefix_or_absent_is_refused() {
    let here = Installation::start();
    for path in ["contexts/prj_00000000000000000000000000/x.tar.gz", "../../etc/passwd"] {
        let body = json!({"project_id": "shop", "build_context": {"build_context_path": path}});
        let answer = here.ingress("Deployments/create", path, &body);
        let created: Value = serde_json::from_str(&answer.body).unwrap();
        let failed = here.wait_status(created["deployment_id"].as_str().unwrap(), &["failed"]);
        assert_eq!(failed["failure"]["code"], "context-missing", "{failed:#}");
        assert_eq!(failed["failure"]["step"], "presign-context", "{failed:#}");
    }
}

#[test]
fn a_workflow_without_a_row_fails_permanently() {
    let here = Installation::start();
    let id = "dep_00000000000000000000000000";
    let answer =
        here.ingress(&format!("Deployment/{id}/deploy"), "k", &json!({"deployment_id": id}));
    assert_eq!(answer.status, 500, "{answer:?}");
    assert!(answer.body.contains(id), "{answer:?}");
}
